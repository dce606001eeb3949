"""The door is open: a library and a file format that the package never heard of, found by entry point.

`tests/toy` holds them as pip would have put them there: two modules and a dist-info.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from toyarrays import Brick, Crate, Drawing, brick

import surgery as sg
from surgery.testing import AdapterSuite, FormatSuite, is_same_tree

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "toy"


class TestBricks(AdapterSuite):
    target = "bricks"
    dtypes: ClassVar[tuple[str, ...]] = (
        *("float32", "float64", "bfloat16", "float8_e4m3fn", "bool", "int8", "uint64", "complex64"),
    )

    def make(self, array: np.ndarray[Any, Any]) -> Brick:
        return brick(array)

    def make_elsewhere(self, array: np.ndarray[Any, Any]) -> Brick:
        return brick(array, "upper")

    def make_abstract(self, shape: tuple[int, ...], dtype: str) -> Drawing:
        return Drawing(shape, dtype)

    def trees(self) -> Mapping[str, Any]:
        inner = Crate("inner", ["w", "b"], [self.leaf(2, 3), self.leaf(3)])
        return {
            "plain": self.plain_tree(),
            "crate": Crate("outer", ["inner", "empty"], [inner, Crate("none", [], [])]),
            "crate in a list": {"layers": [inner, Crate("other", ["w"], [self.leaf(1)])]},
        }


class TestToyFile(FormatSuite):
    name, suffix = "toy", ".toy"


class TestToyFileOfBricks(TestToyFile):
    def make(self, array: np.ndarray[Any, Any]) -> Brick:
        return brick(array)


def run(code: str, *path: Path) -> None:
    """Run Python in a new process that finds the package, and what else lies in `path`."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path)))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_adapter_is_found_through_its_entry_point_when_its_library_is_imported() -> None:
    assert "toyarrays" in {entry.name for entry in entry_points(group="surgery.adapters")}
    run(
        """
import sys, numpy as np, surgery as sg
sg.flatten({"w": np.ones(2)})
assert "toyarrays_surgery" not in sys.modules, "an array of numpy calls for no other adapter"
from toyarrays import Crate, brick
assert "toyarrays_surgery" not in sys.modules
w = brick(np.ones((2, 3)))
tree = Crate("top", ["w"], [w])
assert dict(sg.flatten(tree)) == {("w",): w}
assert "toyarrays_surgery" in sys.modules
moved = sg.transform(tree, [("w", "v", sg.ops.transpose())])
assert type(moved) is Crate and moved.label == "top" and moved.things[0].shape == (3, 2)
""",
        TOY,
    )


def test_a_target_is_found_through_the_entry_point_by_its_name_alone() -> None:
    run(
        """
import sys, numpy as np, surgery as sg
tree = sg.realize({"w": np.ones(2)}, "bricks")
assert type(tree["w"]).__name__ == "Brick"
""",
        TOY,
    )


def test_without_the_entry_point_nobody_answers_to_its_name() -> None:
    run(
        """
import surgery as sg
class Stranger:
    pass
leaf = Stranger()
assert dict(sg.flatten({"w": leaf})) == {("w",): leaf}, "what nobody knows is a leaf"
try:
    sg.realize({}, "bricks")
except sg.AdapterError as error:
    assert "no adapter is called 'bricks'" in str(error) and "toyarrays" not in str(error), error
else:
    raise AssertionError
"""
    )


def test_an_op_on_an_array_of_nobody_says_which_libraries_are_known() -> None:
    class Stranger:
        shape, dtype = (2, 3), "float32"

    with pytest.raises(sg.SurgeryError) as error:
        sg.transform({"a": {"w": Stranger()}}, [("a/w", "a/w", sg.ops.transpose())])
    assert "a/w" in str(error.value)


def test_arrays_of_two_libraries_do_not_meet_in_one_op() -> None:
    tree = {"a": brick(np.ones(2)), "b": np.ones(2)}
    with pytest.raises(sg.AdapterError) as error:
        sg.transform(tree, [("{a|b}", "c", sg.ops.stack())])
    assert str(error.value) == (
        "transform: one op meets arrays of numpy and toyarrays at 'a'\n"
        "  hint: make them alike first: realize(tree, 'numpy'), or the name of one of the libraries"
    )


def test_a_crate_keeps_its_label_through_every_edit() -> None:
    w, b = brick(np.ones(2)), brick(np.ones(3))
    tree = {"model": Crate("kept", ["w", "b"], [w, b])}
    for edited in (
        sg.rename(tree, [("model/w", "model/weight")]),
        sg.drop(tree, "model/w"),
        sg.map_with_path(lambda path, leaf: 0, tree),
        sg.label(tree, [("**", "train")]),
        sg.graft(tree, {"model": {"w": np.zeros(2), "b": np.zeros(3)}})[0],
    ):
        assert type(edited["model"]) is Crate and edited["model"].label == "kept"
    assert is_same_tree(sg.merge(*sg.partition(tree, [("**/w", 1), ("**", 2)]).values()), tree)


def test_trees_of_the_new_library_convert_to_numpy_and_are_equal() -> None:
    tree = {"model": {"w": brick(np.arange(6.0).reshape(2, 3))}}
    assert sg.equal(sg.realize(tree, "numpy"), tree)
    assert not sg.equal(sg.realize(tree, "numpy"), {"model": {"w": brick(np.zeros((2, 3)))}})


def test_an_adapter_written_for_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from surgery.extend import API, Adapter, register

    class Old(Adapter):
        name, api = "old", API + 1
        install = "pip install -U old"

    with pytest.raises(sg.AdapterError) as error:
        register(Old())
    assert str(error.value) == (
        "the adapter 'old' was written for another version of this package\n"
        f"  expected  api {API}\n  found     api {API + 1}\n  hint: pip install -U old"
    )


def test_an_adapter_may_also_be_registered_by_hand_and_taken_back() -> None:
    from surgery.extend import Adapter, register, unregister

    class Box:
        def __init__(self, inside: Any) -> None:
            self.inside = inside

    class Kind:
        name, family = "Box", "fields"

        def open(self, node: Any) -> Any:
            return None, {"inside": node.inside}

        def close(self, aux: Any, children: Any) -> Any:
            return Box(children["inside"])

    class Boxes(Adapter):
        name = "boxes"

        def kind(self, node: Any, /) -> Any:
            return Kind() if isinstance(node, Box) else None

    boxes, tree = Boxes(), {"a": Box(1)}
    assert sg.paths(tree) == [("a",)]
    register(boxes)
    try:
        assert sg.paths(tree) == [("a", "inside")]
    finally:
        unregister(boxes)
    assert sg.paths(tree) == [("a",)]
