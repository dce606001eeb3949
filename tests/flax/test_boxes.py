"""Linen's boxes: one child, static metadata, and names for the axes, which follow what ops do to axes."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import surgery as sg
from tests.flax.helpers import ROUND_TRIPS, same_bytes, same_objects, structure_of

BOXES = {"Partitioned": nn.Partitioned, "LogicallyPartitioned": nn.LogicallyPartitioned}


def boxed(shape: tuple[int, ...], names: Any, box: Any = nn.Partitioned) -> Any:
    return box(jnp.arange(float(jnp.prod(jnp.array(shape)))).reshape(shape), names=names)


def names_in(tree: Any) -> dict[str, Any]:
    """Return what each box in a flat dict calls its axes."""
    return {key: box.names for key, box in tree.items()}


@pytest.fixture(params=BOXES)
def box(request: pytest.FixtureRequest) -> Any:
    return BOXES[request.param]


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_C1_a_boxed_tree_comes_back_in_its_boxes(way: str, box: Any) -> None:
    tree = {"Dense_0": {"kernel": boxed((2, 3), ("in", "out"), box), "bias": jnp.ones(3)}}
    assert same_objects(ROUND_TRIPS[way](tree), tree)


def test_C1_a_box_is_transparent_to_paths_and_patterns(box: Any) -> None:
    params = {"Dense_0": {"kernel": boxed((2, 3), ("in", "out"), box)}}
    state = optax.adam(1e-3).init(params)
    assert sg.paths(params) == [("Dense_0", "kernel")]
    assert list(sg.matches(state, "[0]/mu/**")) == [(0, "mu", "Dense_0", "kernel")]
    assert sg.extract(params, "Dense_0/kernel").names == ("in", "out")


def test_C1_labels_stand_inside_the_boxes_where_optax_looks_for_them(box: Any) -> None:
    params = {"enc": boxed((2, 3), ("in", "out"), box), "head": boxed((3,), ("out",), box)}
    labels = sg.label(params, [("enc", "frozen"), ("head", "train")])
    assert labels["enc"].value == "frozen" and structure_of(labels) == structure_of(params)
    tx = optax.multi_transform({"frozen": optax.set_to_zero(), "train": optax.sgd(1.0)}, labels)
    updates, _ = tx.update(params, tx.init(params), params)
    assert not updates["enc"].value.any() and (updates["head"].value == -params["head"].value).all()


EDITS: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    "transpose": (
        {"w": ((2, 3), ("in", "out"))},
        [("w", "w", sg.ops.transpose())],
        {"w": ("out", "in")},
    ),
    "permute_axes": (
        {"w": ((2, 3, 4, 5), (None, None, "in", "out"))},
        [("w", "w", sg.ops.permute_axes([3, 2, 0, 1]))],
        {"w": ("out", "in", None, None)},
    ),
    "rearrange_splits_a_named_axis": (
        {"w": ((2, 12), ("embed", "heads"))},
        [("w", "w", sg.ops.rearrange("e (h d) -> h d e", h=4))],
        {"w": ("heads", None, "embed")},
    ),
    "rearrange_merges_one_named_axis": (
        {"w": ((2, 4, 3), ("embed", "heads", None))},
        [("w", "w", sg.ops.rearrange("e h d -> (h d) e"))],
        {"w": ("heads", "embed")},
    ),
    "reshape": (
        {"w": ((2, 12), ("embed", "heads"))},
        [("w", "w", sg.ops.reshape([2, 4, 3]))],
        {"w": ("embed", "heads", None)},
    ),
    "take": (
        {"w": ((4, 3), ("vocab", "embed"))},
        [("w", "w", sg.ops.take([3, 0], axis=0))],
        {"w": ("vocab", "embed")},
    ),
    "split": (
        {"w": ((2, 6), ("embed", "heads"))},
        [("w", "{q|k|v}", sg.ops.split(axis=1))],
        {"q": ("embed", "heads"), "k": ("embed", "heads"), "v": ("embed", "heads")},
    ),
    "concat": (
        {"q": ((2, 3), ("embed", "heads")), "k": ((2, 5), ("embed", "heads"))},
        [("{q|k}", "qk", sg.ops.concat(axis=1))],
        {"qk": ("embed", "heads")},
    ),
    "stack_first": (
        {f"h_{n}": ((2, 3), ("in", "out")) for n in range(11)},
        [("h_{n:int}", "h", sg.ops.stack(axis=0, name_of_axis="layers"))],
        {"h": ("layers", "in", "out")},
    ),
    "stack_in_the_middle": (
        {f"h_{n}": ((2, 3), ("in", "out")) for n in range(2)},
        [("h_{n:int}", "h", sg.ops.stack(axis=1, name_of_axis="layers"))],
        {"h": ("in", "layers", "out")},
    ),
    "stack_last_without_a_name": (
        {f"h_{n}": ((2, 3), ("in", "out")) for n in range(2)},
        [("h_{n:int}", "h", sg.ops.stack(axis=-1))],
        {"h": ("in", "out", None)},
    ),
    "unstack": (
        {"h": ((2, 3, 4), ("in", "layers", "out"))},
        [("h", "h_{n}", sg.ops.unstack(axis=1, name_of_axis="layers"))],
        {f"h_{n}": ("in", "out") for n in range(3)},
    ),
    "copies": ({"w": ((2,), ("in",))}, [("w", ["a", "b"])], {"a": ("in",), "b": ("in",)}),
    "a_chain": (
        {"w": ((12, 2), ("heads", "embed"))},
        [("w", "{q|k|v}", sg.ops.transpose(), sg.ops.split(axis=1), sg.ops.reshape([2, 2, 2]))],
        {name: ("embed", "heads", None) for name in "qkv"},
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_C2_names_follow_the_axes(edit: str, box: Any) -> None:
    shapes, rules, expected = EDITS[edit]
    tree = {key: boxed(shape, names, box) for key, (shape, names) in shapes.items()}
    out = sg.transform(tree, rules)
    assert names_in(out) == expected
    assert all(type(one) is box and one.value.ndim == len(one.names) for one in out.values())


@pytest.mark.parametrize("edit", [name for name in EDITS if name not in ("take", "copies")])
def test_C2_the_inverse_gives_the_names_back(edit: str, box: Any) -> None:
    shapes, rules, _ = EDITS[edit]
    tree = {key: boxed(shape, names, box) for key, (shape, names) in shapes.items()}
    plan = sg.plan(rules, tree)
    assert same_bytes(plan.inverse().apply(plan.apply(tree)), tree)


@pytest.mark.parametrize("edit", EDITS)
def test_C2_names_follow_on_shapes_alone(edit: str, box: Any) -> None:
    shapes, rules, expected = EDITS[edit]
    tree = {
        key: box(jax.ShapeDtypeStruct(shape, jnp.float32), names=names)
        for key, (shape, names) in shapes.items()
    }
    assert names_in(sg.transform(tree, rules)) == expected


def test_C2_the_mesh_of_a_box_stays() -> None:
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("x",))
    tree = {"w": nn.Partitioned(jnp.ones((2, 3)), names=("x", None), mesh=mesh)}
    out = sg.transform(tree, [("w", "w", sg.ops.transpose())])["w"]
    assert (out.names, out.mesh) == ((None, "x"), mesh)


def test_C2_names_may_be_fewer_than_axes_as_in_a_partition_spec() -> None:
    tree = {"w": boxed((2, 3), ("in",)), "v": boxed((2, 3), PartitionSpec("in"))}
    for way in ROUND_TRIPS.values():
        assert same_objects(way(tree), tree)
    out = sg.transform(tree, [("{w|v}", "{w|v}", sg.ops.transpose())])
    assert names_in(out) == {"w": (None, "in"), "v": PartitionSpec(None, "in")}


def test_C2_a_box_that_names_too_many_axes_is_refused_when_its_axes_are_changed() -> None:
    tree = {"w": boxed((3,), ("in", "out"))}
    assert same_objects(sg.rename(tree, [("w", "v")])["v"], tree["w"])
    with pytest.raises(sg.SpecError, match=r"a box names 2 axes of an array that has 1 at 'w'"):
        sg.plan([("w", "w", sg.ops.reshape([3, 1]))], tree)


def test_C2_an_array_of_another_rank_does_not_go_into_the_box() -> None:
    tree = {"a": {"w": boxed((2, 3), ("in", "out"))}}
    with pytest.raises(sg.SpecError) as caught:
        sg.map_with_path(lambda path, leaf: leaf.sum(0), tree)
    assert str(caught.value) == (
        "map_with_path: a Partitioned names 2 axes of an array that has 1 at 'a/w'\n"
        "  expected  names ('in', 'out')\n"
        "  found     shape [3]\n"
        "  hint: change the axes with an op, which carries the names along"
    )
    with pytest.raises(
        sg.SpecError, match=r"graft: a Partitioned names 2 axes of an array that has 1 at 'a/w'"
    ):
        sg.graft(tree, {"a": {"w": jnp.ones(3)}}, mismatched="keep-source")


REFUSED: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "boxed_and_bare": (
        {"a": boxed((2,), ("x",)), "b": jnp.ones(2)},
        [("{a|b}", "c", sg.ops.stack())],
        "leaves that meet in one op are boxed differently at 'a'\n"
        "  expected  Partitioned, as the first\n"
        "  found     no box (number 1)",
    ),
    "bare_and_boxed": (
        {"a": jnp.ones(2), "b": boxed((2,), ("x",))},
        [("{a|b}", "c", sg.ops.concat())],
        "expected  no box, as the first\n  found     Partitioned (number 1)",
    ),
    "two_kinds_of_box": (
        {"a": boxed((2,), ("x",)), "b": boxed((2,), ("x",), nn.LogicallyPartitioned)},
        [("{a|b}", "c", sg.ops.stack())],
        "found     LogicallyPartitioned (number 1)",
    ),
    "other_names": (
        {"a": boxed((2,), ("x",)), "b": boxed((2,), ("y",))},
        [("{a|b}", "c", sg.ops.stack())],
        "stack() joins arrays whose axes are named differently at 'a'\n"
        "  expected  ('x',)\n"
        "  found     ('y',)",
    ),
    "two_named_axes_merged": (
        {"a": boxed((2, 3), ("x", "y"))},
        [("a", "a", sg.ops.reshape([6]))],
        "the named axes x, y are merged into one, which can have one name at 'a'",
    ),
    "a_named_axis_of_one_reshaped_away": (
        {"a": boxed((1, 3), ("x", "y"))},
        [("a", "a", sg.ops.reshape([3]))],
        "the axis named x is reshaped away at 'a'",
    ),
    "an_axis_unstacked_without_its_name": (
        {"a": boxed((2, 3), ("layers", "y"))},
        [("a", "a_{n}", sg.ops.unstack())],
        "unstack removes the axis named layers at 'a'\n  expected  name_of_axis='layers'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_C2_what_would_lose_or_mix_names_is_refused_when_planning(case: str) -> None:
    tree, rules, text = REFUSED[case]
    with pytest.raises(sg.SpecError) as caught:
        sg.plan(rules, tree)
    assert text in str(caught.value)


def test_C2_boxes_that_differ_in_metadata_do_not_meet() -> None:
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("x",))
    tree = {"a": boxed((2,), ("x",)), "b": nn.Partitioned(jnp.ones(2), names=("x",), mesh=mesh)}
    with pytest.raises(sg.SpecError, match=r"found     Partitioned \(number 1\), with other metadata"):
        sg.plan([("{a|b}", "c", sg.ops.stack())], tree)


def test_diff_and_equal_see_other_names() -> None:
    a, b = {"w": boxed((2,), ("x",))}, {"w": boxed((2,), ("y",))}
    assert not sg.equal(a, b) and sg.equal(a, {"w": boxed((2,), ("x",))})
    (row,) = sg.diff(a, b)
    assert (row.status, row.path, row.after, row.note) == (
        "container",
        ("w",),
        "Partitioned",
        "with other metadata",
    )


def test_diff_of_boxed_arrays_of_two_ranks_is_about_their_shapes_alone() -> None:
    a, b = {"w": nnx.Param(jnp.ones(2))}, {"w": nnx.Param(jnp.ones((2, 1)))}
    assert [row.status for row in sg.diff(a, b)] == ["shape"]


def test_a_graft_fills_a_box_and_keeps_it() -> None:
    tree = {"w": boxed((2, 3), ("in", "out"))}
    out, _ = sg.graft(tree, {"w": jnp.zeros((2, 3))})
    assert structure_of(out) == structure_of(tree) and not out["w"].value.any()


def test_a_part_without_the_leaf_keeps_the_box_around_the_hole() -> None:
    tree = {"w": boxed((2, 3), ("in", "out")), "b": jnp.ones(3)}
    parts = sg.partition(tree, [("w", 1), ("b", 2)])
    assert parts[2]["w"] == nn.Partitioned(sg.Missing(), names=("in", "out"))


def test_a_box_may_hold_another() -> None:
    tree = {"w": nn.Partitioned(boxed((2, 3), ("in", "out"), nn.LogicallyPartitioned), names=("in", "out"))}
    for way in ROUND_TRIPS.values():
        assert same_objects(way(tree), tree)
    out = sg.transform(tree, [("w", "w", sg.ops.transpose())])["w"]
    assert out.names == out.value.names == ("out", "in")


def test_one_plan_moves_boxed_params_and_boxed_moments_and_their_names() -> None:
    params = {f"h_{n}": {"w": boxed((2, 3), ("in", "out"))} for n in range(11)}
    tx = optax.adam(1e-3)
    plan = sg.plan([("h_{n:int}/w", "h/w", sg.ops.stack(name_of_axis="layers"))], params)
    state = plan.apply(sg.TrainingState.of(params=params, opt=tx.init(params)))
    assert state.opt[0].mu["h"]["w"].names == ("layers", "in", "out")
    assert structure_of(state.opt) == structure_of(tx.init(state.params))
