"""Plans: made on specs, checked as a whole, applied, undone, chained, explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from surgery import ops
from surgery.extend import Lazy
from tests.core.strategies import arrays, mappings


def grid(*shape: int, add: float = 0.0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return (np.arange(float(np.prod(shape))).reshape(shape) + add).astype(dtype)


def layered(count: int = 12) -> dict[str, Any]:
    """Return a model of numbered layers."""
    return {
        "wte": grid(4, 2),
        "h": {str(n): {"w": grid(2, 3, add=n), "b": grid(3, add=n)} for n in range(count)},
        "ln": {"scale": grid(2), "empty": {}},
    }


STACK = [("h.{i:int}.{rest:**}", "layers/{rest}", ops.stack(axis=0))]


def bits(tree: Any) -> dict[Any, Any]:
    return {
        path: (x.dtype, x.shape, x.tobytes())
        for path, leaf in sg.flatten(tree).items()
        for x in [np.asarray(leaf)]
    }


# --- every kind of rule, there and back -----------------------------------------------------------

KINDS: dict[str, tuple[Any, list[Any]]] = {
    "one to one": ([("ln/scale", "norm/scale"), ("h.*.w", "h.*.kernel", ops.transpose())], ["norm/scale"]),
    "many to one by a capture": (STACK, ["layers/w", "layers/b"]),
    "many to one by a choice": ([("h/{0|2|1}/w", "some", ops.stack(axis=-1))], ["some"]),
    "many to one by a list": ([(["h.0.b", "h.1.b"], "bias", ops.concat())], ["bias"]),
    "one to many by a capture": ([("wte", "rows/{i:int}", ops.unstack(0))], ["rows/0", "rows/3"]),
    "one to many by a choice": ([("wte", "{q|k}", ops.split([1, 3]))], ["q", "k"]),
    "one to many by a list": ([("wte", ["first", "second"], ops.split())], ["first", "second"]),
    "copies": ([("wte", ["wte", "head/w"])], ["wte", "head/w"]),
    "none to one": ([(None, "head/bias", ops.new([3], init="ones"))], ["head/bias"]),
    "none to many": ([(None, ["q", "k"], ops.new([4, 2], init="arange"), ops.split())], ["q", "k"]),
    "a chain of ops": (
        [("h.{i:int}.w", "all", ops.transpose(), ops.stack(1), ops.reshape([3, -1]), ops.cast("float64"))],
        ["all"],
    ),
    "split, and each part laid out anew": ([("wte", "{a|b}", ops.split(), ops.transpose())], ["a", "b"]),
    "two collected variables": (
        [("h.{i:int}.{w|b}", "x", ops.reshape([-1]), ops.reshape([3, -1]), ops.concat(1), ops.stack())],
        ["x"],
    ),
    "arithmetic": ([("h.{i:int}.{r:**}", "h.{i+4}.{r}")], ["h/4/w", "h/15/b"]),
    "swap": ([("ln/scale", "wte"), ("wte", "ln/scale")], ["ln/scale", "wte"]),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_rule_goes_there_and_back_with_the_same_bytes(name: str) -> None:
    rules, made = KINDS[name]
    tree = layered()
    plan = sg.plan(rules, tree)
    out = plan.apply(tree)
    assert {sg.flatten(out, sep="/").keys() >= {path} for path in made} == {True}
    assert plan.lost == {}
    back = plan.inverse().apply(out)
    assert bits(back) == bits(tree) and sg.equal(back, tree)


@pytest.mark.parametrize("name", KINDS)
def test_a_plan_made_on_specs_is_the_plan_made_on_arrays(name: str) -> None:
    rules, _ = KINDS[name]
    tree = layered()
    plan, abstract = sg.plan(rules, tree), sg.plan(rules, sg.spec(tree))
    assert plan.hash == abstract.hash and str(plan) == str(abstract)
    assert bits(abstract.apply(tree)) == bits(plan.apply(tree))
    shapes = sg.flatten(sg.spec(plan.apply(tree)))
    assert dict(sg.flatten(abstract.apply(sg.spec(tree)))) == dict(shapes)


def lazy(tree: Any, log: list[Any]) -> Any:
    """Return the tree with leaves that note when they are read."""

    def waiting(path: Any, array: Any) -> Lazy:
        def read(box: Any) -> Any:
            log.append(path)
            return array[tuple(slice(*span) for span in box)]

        return Lazy(sg.TensorSpec(array.shape, str(array.dtype)), read, origin="a test")

    return sg.map_with_path(waiting, tree)


@pytest.mark.parametrize("name", KINDS)
def test_a_plan_on_lazy_leaves_reads_nothing_until_they_are_used(name: str) -> None:
    rules, _ = KINDS[name]
    tree, log = layered(), []
    waiting = lazy(tree, log)
    plan = sg.plan(rules, waiting)
    out = plan.apply(waiting)
    assert log == []
    assert bits(sg.realize(out)) == bits(plan.apply(tree))


def test_a_plan_reads_no_data() -> None:
    def refuse(box: Any) -> Any:
        raise AssertionError("read")

    tree = {"a": Lazy(sg.TensorSpec((2, 3), "float32"), refuse, origin="a test")}
    plan = sg.plan([("a", "b", ops.transpose())], tree, {"b": sg.TensorSpec((3, 2), "float32")})
    assert str(plan.report).splitlines()[-1].split() == [
        "changed",
        "b",
        "f32[2,3]",
        "->",
        "f32[3,2]",
        "<-",
        "a",
        "transpose()",
    ]


def test_layers_are_stacked_in_numeric_order_and_come_back_in_it() -> None:
    """Hazard A2's neighbour: "10" stands before "2" in a dictionary of words."""
    tree = {"h": dict(sorted(layered()["h"].items()))}
    assert list(tree["h"])[:3] == ["0", "1", "10"]
    plan = sg.plan(STACK, tree)
    out = plan.apply(tree)
    assert out["layers"]["b"][:, 0].tolist() == list(range(12))
    assert list(plan.inverse().apply(out)["h"]) == ["0", "1", "10", "11", "2", *"3456789"]


def test_what_no_op_touches_is_the_very_same_object() -> None:
    tree = layered()
    out = sg.plan([("h.0.w", "x"), ("h.{i:int}.b", "b", ops.stack())], tree).apply(tree)
    assert out["x"] is tree["h"]["0"]["w"] and out["wte"] is tree["wte"]
    assert out["h"]["3"]["w"] is tree["h"]["3"]["w"] and tree["h"]["3"].keys() == {"w", "b"}


@given(mappings(arrays()), st.data())
def test_a_random_rename_with_transposes_comes_back_with_the_same_bytes(tree: Any, data: Any) -> None:
    flat = sg.flatten(tree)
    chosen = data.draw(st.lists(st.sampled_from(list(flat)), unique=True))
    rules = [
        (path, ("moved", str(n), *path), *([ops.transpose()] if flat[path].ndim > 1 else []))
        for n, path in enumerate(chosen)
    ]
    plan = sg.plan(rules, tree)
    out = plan.apply(tree)
    back = plan.inverse().apply(out)
    assert bits(back) == bits(tree) and sg.equal(back, tree)
    assert list(sg.flatten(back)) == list(flat)
    again = plan.then(plan.inverse()).apply(tree)
    assert bits(again) == bits(tree)


# --- losses and remainders ------------------------------------------------------------------------


def test_what_is_lost_is_said_at_planning_and_can_be_kept() -> None:
    tree = layered(2)
    plan = sg.plan(
        [("ln/scale", None), ("wte", "wte", ops.cast("bfloat16")), ("h.0.b", "s", ops.take([0, 0]))], tree
    )
    assert plan.lost == {
        ("wte",): "f32 is rounded to bf16",
        ("h", "0", "b"): "take(indices=[0, 0]) does not keep every element along axis 0 just once",
        ("ln", "scale"): "dropped",
    }
    kept = plan.remainder(tree)
    assert kept == {
        "wte": tree["wte"],
        "h": {"0": {"b": tree["h"]["0"]["b"]}},
        "ln": {"scale": tree["ln"]["scale"]},
    }
    back = plan.inverse()
    assert set(back.needs) == set(plan.lost)
    assert sg.equal(back.apply(plan.apply(tree), remainder=kept), tree)


def test_an_inverse_without_its_remainder_says_what_is_missing() -> None:
    tree = {"a": grid(2), "b": grid(3)}
    plan = sg.plan([("b", None)], tree)
    with pytest.raises(sg.StructureError) as error:
        plan.inverse().apply(plan.apply(tree))
    assert str(error.value) == (
        "apply: this was lost on the way here, and no remainder was given that holds it at 'b'\n"
        "  hint: apply(tree, remainder=...) with what `plan.remainder(tree)` gave"
    )


def test_the_remainder_of_a_chain_is_refused() -> None:
    plan = sg.plan([("a", "b")], {"a": grid(2)})
    with pytest.raises(sg.StructureError, match="the remainder of chained plans"):
        plan.then(sg.plan([("b", "c")], {"b": grid(2)})).remainder({"a": grid(2)})


def test_exactness_is_known_per_result_and_kind() -> None:
    plan = sg.plan([("wte", "wte", ops.cast("bfloat16")), ("h.0.b", ["x", "y"], ops.untie())], layered(2))
    assert plan.exactness()["wte",] == "policy" and plan.exactness()["ln", "scale"] == "exact"
    assert plan.exactness("covector")["wte",] == "exact" and plan.exactness("covector")["x",] == "policy"


# --- a target -------------------------------------------------------------------------------------


def test_a_target_gives_order_containers_and_dtypes() -> None:
    from collections import OrderedDict

    tree = {"a": grid(2, 3, dtype="float16"), "b": grid(2)}
    target = OrderedDict(y=grid(2), x=[grid(3, 2)])
    out = sg.plan([("a", "x/0", ops.transpose()), ("b", "y")], tree, target).apply(tree)
    assert type(out) is OrderedDict and list(out) == ["y", "x"] and type(out["x"]) is list
    assert out["x"][0].dtype == np.float32, "a dtype that widens is cast"


def test_all_problems_with_a_target_are_found_at_once() -> None:
    tree = {"a": grid(2, 3), "b": grid(2), "c": grid(2, dtype="float64"), "d": grid(1)}
    target = {"a": grid(3, 2), "b": grid(2), "kernel": grid(1), "c": grid(2)}
    with pytest.raises(sg.SurgeryError) as error:
        sg.plan([("{a|b|c}", "{a|b|c}"), ("d", "kernal")], tree, target)
    assert [(problem.message, problem.path) for problem in error.value.problems] == [
        ("no rule makes a leaf", "kernel"),
        ("the shape differs", "a"),
        ("the dtype narrows", "c"),
        ("'d' (rule 2) has no place in the target", "kernal"),
    ]
    text = str(error.value)
    assert "expected  f32[3,2]\n    found     f32[2,3]\n    hint: a re-layout may be missing" in text
    assert "hint: say that it may be rounded: ops.cast('float32')" in text and "nearest: 'kernel'" in text


def test_with_a_target_every_leaf_needs_a_rule_unless_rest_says_otherwise() -> None:
    tree, target = {"a": grid(2), "b": grid(2)}, {"x": grid(2), "b": grid(2)}
    with pytest.raises(sg.RuleError, match="no rule takes a leaf at 'b'"):
        sg.plan([("a", "x")], tree, target)
    assert set(sg.plan([("a", "x")], tree, target, rest="keep").apply(tree)) == {"x", "b"}
    assert set(sg.plan([("a", "x")], tree, {"x": grid(2)}, rest="drop").apply(tree)) == {"x"}


def test_into_gives_containers_and_leaves_that_the_result_lacks() -> None:
    tree, into = {"a": grid(2)}, {"x": grid(2, add=5), "y": grid(3)}
    out = sg.plan([("a", "x")], tree).apply(tree, into=into)
    assert out["x"] is tree["a"] and out["y"] is into["y"]
    with pytest.raises(sg.StructureError) as error:
        sg.plan([("a", "xx")], tree).apply(tree, into=into)
    assert str(error.value) == "apply: a result has no place in `into` at 'xx'\n  hint: nearest: 'x'"


# --- what a plan is applied to ---------------------------------------------------------------------


def test_leaves_that_were_not_planned_for_are_named_in_tree_order() -> None:
    plan, names = sg.plan([("a", "b")], {"a": grid(1)}), list("zyxwvutsrq")
    with pytest.raises(sg.StructureError, match="was not planned for") as error:
        plan.apply({"a": grid(1), **dict.fromkeys(names, 1.0)})
    assert [problem.path for problem in error.value.problems] == names
    with pytest.raises(sg.StructureError, match="does not expect") as error:
        sg.plan([], dict.fromkeys(names, 1.0)).then(sg.plan([], {}))
    assert [problem.path for problem in error.value.problems] == names


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: {**t, "extra": grid(1)}, "apply: a leaf was not planned for at 'extra'"),
        (
            lambda t: {**t, "wte": grid(4, 3)},
            "apply: a leaf is not what was planned for at 'wte'\n  expected  f32[4,2]\n  found     f32[4,3]",
        ),
        (
            lambda t: {**t, "wte": grid(4, 2, dtype="float16")},
            "apply: a leaf is not what was planned for at 'wte'\n  expected  f32[4,2]\n  found     f16[4,2]",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != "wte"},
            "apply: a leaf is missing at 'wte'\n  expected  f32[4,2]",
        ),
    ],
)
def test_another_tree_than_was_planned_for_is_refused(change: Any, text: str) -> None:
    tree = layered(2)
    with pytest.raises(sg.SurgeryError) as error:
        sg.plan([("wte", "emb")], tree).apply(change(tree))
    assert str(error.value) == text


def test_moments_may_have_another_dtype_than_the_weights_that_were_planned_for() -> None:
    tree = {"w": grid(2, 3, dtype="float16")}
    plan = sg.plan([("w", "v", ops.transpose())], tree)
    assert plan.apply({"w": grid(2, 3)}, kind="covector")["v"].dtype == np.float32
    with pytest.raises(sg.SpecError, match="a leaf is not what was planned for"):
        plan.apply({"w": grid(2, 3)})


def test_an_error_in_a_verb_is_that_of_the_verb() -> None:
    with pytest.raises(sg.SurgeryError) as error:
        sg.transform({"a": "text"}, [("a", ["b", "c"])])
    assert error.value.verb == "transform" and error.value.path == "a"


def test_a_plan_that_leaves_all_as_it_is_says_so() -> None:
    report = sg.plan([], {"w": np.ones(2)}).report
    assert report.headline() == "plan: no leaf is renamed or changed"
    assert report.notes[1:] == ("1 kept as they are, not shown",)
