"""graft: every leaf on both sides accounted for, by policy, all at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from surgery import ops
from tests.core.strategies import Frozen, Pair, is_same, trees


def grid(*shape: int, add: float = 0.0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return (np.arange(float(np.prod(shape))).reshape(shape) + add).astype(dtype)


def model() -> dict[str, Any]:
    return {"enc": {"kernel": grid(2, 2), "bias": grid(2)}, "head": {"kernel": grid(2, 3)}}


def counts(report: sg.Report) -> dict[str, int]:
    return {status: number for status, number in report.counts.items() if number}


# --- what is taken ---------------------------------------------------------------------------------


@given(trees())
def test_a_tree_grafted_onto_itself_is_itself(tree: Any) -> None:
    out, report = sg.graft(tree, tree)
    assert is_same(out, tree) and counts(report).keys() <= {"loaded"}


@given(trees(joined=False), st.data())
def test_a_part_of_a_tree_grafted_back_gives_the_tree(tree: Any, data: Any) -> None:
    found = sg.paths(tree)
    chosen = data.draw(st.sets(st.sampled_from(found), min_size=1)) if found else set()
    part = {path: sg.flatten(tree)[path] for path in chosen}
    out, report = sg.graft(tree, sg.unflatten(part), missing="keep-target")
    assert is_same(out, tree)
    assert report.counts["loaded"] + report.counts["tied"] >= len(chosen)


def test_leaves_of_the_donor_are_shared_and_untouched_containers_too() -> None:
    target, donor = model(), {"kernel": grid(2, 3, add=9)}
    out, report = sg.graft(target, donor, at="head", missing="keep-target")
    assert out["head"]["kernel"] is donor["kernel"] and out["enc"] is target["enc"]
    assert target["head"]["kernel"] is not donor["kernel"], "the target is as it was"
    assert counts(report) == {"loaded": 1, "missing": 2}


def test_containers_of_the_target_are_kept_whatever_the_donor_has() -> None:
    target = OrderedDict(a=Pair(grid(2), None), b=[grid(1)], c=Frozen(grid(1)))
    donor = {"a": {"left": grid(2, add=5)}, "b": {"0": grid(1, add=5)}, "c": {"weight": grid(1, add=5)}}
    out, _ = sg.graft(target, donor)
    assert type(out) is OrderedDict and type(out["a"]) is Pair and type(out["c"]) is Frozen
    assert out["a"].left is donor["a"]["left"] and out["b"][0] is donor["b"]["0"]


def test_at_and_donor_at_name_subtrees_on_either_side() -> None:
    donor = {"params": {"model": {"kernel": grid(2, 2, add=1), "bias": grid(2, add=1)}}}
    out, _ = sg.graft(model(), donor, at="enc", donor_at="params/model", missing=[("head/**", "keep-target")])
    assert out["enc"]["bias"] is donor["params"]["model"]["bias"]
    numbered = {"h": [{"w": grid(1)}, {"w": grid(1)}]}
    assert sg.graft(numbered, {"w": grid(1, add=3)}, at="h/1", missing="keep-target")[0]["h"][1]["w"] == 3


def test_rules_transform_the_donor_on_its_way() -> None:
    donor = {"fc.weight": grid(3, 2), "fc.bias": grid(2)}
    rules = [("fc.weight", "kernel", ops.transpose()), ("fc.bias", None)]
    out, report = sg.graft(model(), donor, at="head", rules=rules, missing="keep-target")
    assert out["head"]["kernel"].tolist() == grid(3, 2).T.tolist() and report.counts["loaded"] == 1


def test_a_dtype_that_widens_is_cast_and_said_to_be() -> None:
    out, report = sg.graft({"w": grid(2)}, {"w": grid(2, dtype="float16")})
    assert out["w"].dtype == np.float32
    assert str(report).splitlines()[1] == "  cast  w  f16[2] -> f32[2]"


# --- policies --------------------------------------------------------------------------------------


def test_without_a_policy_every_problem_is_raised_at_once_with_near_names() -> None:
    with pytest.raises(sg.SurgeryError) as error:
        sg.graft(model(), {"enc": {"kernl": grid(2, 2), "bias": grid(3)}})
    assert str(error.value) == (
        "graft: 4 problems (3 leaves in the target)\n"
        "  a leaf of the donor has no place in the target at 'enc/kernl'\n"
        "    found     f32[2,2]\n"
        "    hint: nearest: 'enc/kernel', 'head/kernel'\n"
        "  the shape differs at 'enc/bias'\n"
        "    expected  f32[2]  from the target\n"
        "    found     f32[3]  from the donor\n"
        "    hint: mismatched=[('enc/bias', 'keep-target')] keeps what is there; rules= can transform\n"
        "  no leaf of the donor fills a place at 'enc/kernel'\n"
        "    expected  f32[2,2]\n"
        "    hint: nearest: 'enc/kernl'\n"
        "  no leaf of the donor fills a place at 'head/kernel'\n"
        "    expected  f32[2,3]\n"
        "    hint: nearest: 'enc/kernl'"
    )


@pytest.mark.parametrize(
    ("policy", "kernel", "note"),
    [("keep-target", 0.0, "kept from the target"), ("drop", None, "dropped")],
)
def test_what_nobody_fills_is_kept_or_dropped(policy: str, kernel: Any, note: str) -> None:
    out, report = sg.graft(model(), {"enc": model()["enc"]}, missing=[("head/**", policy)])
    assert ("head" in out) == (kernel is not None)
    assert [row.note for row in report.with_status("missing")] == [note]


def test_what_has_no_place_is_left_out_or_added() -> None:
    donor = {**model(), "extra": {"w": grid(1)}}
    assert sg.equal(sg.graft(model(), donor, unexpected="drop")[0], model())
    out, report = sg.graft(model(), donor, unexpected=[("extra/**", "keep-source")])
    assert out["extra"]["w"] is donor["extra"]["w"] and report.counts["unexpected"] == 1


@pytest.mark.parametrize(("policy", "found"), [("keep-target", (2,)), ("keep-source", (3,)), ("drop", None)])
def test_what_does_not_fit_is_kept_taken_or_dropped(policy: str, found: Any) -> None:
    donor = model()
    donor["enc"]["bias"] = grid(3)
    out, report = sg.graft(model(), donor, mismatched=[("enc/bias", policy)])
    assert (out["enc"]["bias"].shape if "bias" in out["enc"] else None) == found
    assert report.counts["mismatched"] == 1


def test_a_dtype_that_would_narrow_is_a_mismatch() -> None:
    with pytest.raises(sg.SpecError) as error:
        sg.graft({"w": grid(2, dtype="float16")}, {"w": grid(2)})
    assert str(error.value).splitlines()[:3] == [
        "graft: the dtype narrows at 'w'",
        "  expected  f16[2]  from the target",
        "  found     f32[2]  from the donor",
    ]


@pytest.mark.parametrize("name", ["my_extra_state", "_extra_state_", "x"])
def test_only_what_torch_keeps_beside_its_tensors_may_change_its_shape(name: str) -> None:
    with pytest.raises(sg.SpecError, match="the shape differs"):
        sg.graft({"a": {name: grid(2)}}, {"a": {name: grid(3)}})
    with pytest.raises(sg.SpecError, match="the shape differs"):
        sg.graft({f"a.{name}": grid(2)}, {f"a.{name}": grid(3)})
    for own in ("_extra_state", "a._extra_state"):
        assert sg.graft({own: grid(2)}, {own: grid(3)})[0][own].shape == (3,)


@pytest.mark.parametrize("status", ["missing", "unexpected", "mismatched"])
def test_a_policy_must_be_one_and_must_match_something(status: str) -> None:
    with pytest.raises(sg.RuleError, match=f"{status}='maybe' is no policy\n  hint: one of 'error'"):
        sg.graft(model(), model(), **{status: "maybe"})  # type: ignore[arg-type]
    with pytest.raises(sg.RuleError, match="graft: 'zz/\\*\\*' matches none of 3 leaves"):
        sg.graft(model(), model(), **{status: [("zz/**", "drop")]})  # type: ignore[arg-type]


def test_a_place_that_is_not_in_the_donor_is_named() -> None:
    with pytest.raises(sg.PathError) as error:
        sg.graft(model(), {"model": model()}, donor_at="modle")
    assert str(error.value) == "graft: nothing lies in the donor at 'modle'\n  hint: nearest: 'model'"


# --- None, empty containers, other leaves ----------------------------------------------------------


def test_what_is_added_where_the_target_has_none_or_an_empty_container_is_there_afterwards() -> None:
    for nothing in (None, {}, [], ()):
        out, report = sg.graft(
            {"a": nothing, "b": grid(1)}, {"a": grid(2), "b": grid(1)}, unexpected="keep-source"
        )
        assert out["a"].tolist() == [0, 1] and report.counts["unexpected"] == 1, repr(nothing)
    out, _ = sg.graft({"a": {}}, {"a": {"w": grid(2)}}, unexpected="keep-source")
    assert out["a"]["w"].tolist() == [0, 1]


def test_none_in_a_donor_fills_nothing() -> None:
    with pytest.raises(sg.StructureError, match="no leaf of the donor fills a place at 'a'"):
        sg.graft({"a": grid(1)}, {"a": None})


def test_a_leaf_does_not_take_the_place_of_a_container_nor_the_other_way_round() -> None:
    for target, donor in (({"a": grid(1)}, {"a": {"b": grid(1)}}), ({"a": {"b": grid(1)}}, {"a": grid(1)})):
        with pytest.raises(sg.PathError, match="one place is both a leaf and a container at 'a'"):
            sg.graft(target, donor, missing="keep-target", unexpected="keep-source")


def test_bare_leaves_and_leaves_that_are_no_arrays_are_grafted() -> None:
    assert sg.graft(3.0, 4.0)[0] == 4.0
    assert sg.graft({"name": "old", "n": 1}, {"name": "new", "n": 2})[0] == {"name": "new", "n": 2}
    with pytest.raises(sg.SpecError, match="the dtype narrows at 'n'"):
        sg.graft({"n": 1}, {"n": 2.5})


# --- ties ------------------------------------------------------------------------------------------


def tied() -> dict[str, Any]:
    w = grid(2)
    return {"a": w, "b": w, "c": grid(2)}


@pytest.mark.parametrize("missing", ["keep-target", [("c", "keep-target")]])
def test_one_name_fills_all_names_of_a_tied_leaf(missing: Any) -> None:
    out, report = sg.graft(tied(), {"a": grid(2, add=7)}, missing=missing)
    assert out["b"] is out["a"] and out["a"].tolist() == [7, 8]
    assert counts(report) == {"loaded": 1, "tied": 1, "missing": 1}
    assert [row.note for row in report.with_status("tied")] == ["with 'a'"]


@pytest.mark.parametrize("missing", ["keep-target", [("c", "keep-target")]])
def test_equal_donors_of_a_tied_leaf_stay_tied_and_others_are_refused(missing: Any) -> None:
    out, _ = sg.graft(tied(), {"a": grid(2, add=7), "b": grid(2, add=7)}, missing=missing)
    assert out["a"] is out["b"]
    with pytest.raises(sg.RuleError) as error:
        sg.graft(tied(), {"a": grid(2, add=7), "b": grid(2, add=8)}, missing=missing)
    assert str(error.value) == (
        "graft: two different leaves go to two names of one tensor at 'b'\n"
        "  expected  what goes to 'a'\n"
        "  hint: untie the target first: transform(target, [(path, path, ops.untie())])"
    )


# --- large and deep --------------------------------------------------------------------------------


def test_one_per_cent_of_100_000_leaves_is_grafted_and_reported() -> None:
    leaf = grid(1)
    target = {f"l{n}": {f"w{k}": leaf + 0 for k in range(100)} for n in range(1000)}
    donor = {f"l{n}": {"w0": grid(1, add=5)} for n in range(1000)}
    out, report = sg.graft(target, donor, missing="keep-target")
    assert out["l7"]["w0"] is donor["l7"]["w0"] and out["l7"]["w1"] is target["l7"]["w1"]
    assert counts(report) == {"loaded": 1000, "missing": 99_000}


def test_a_tree_deeper_than_the_recursion_limit_is_grafted() -> None:
    import sys

    deep: Any = {"w": 1.0}
    other: Any = {"w": 2.0}
    for _ in range(sys.getrecursionlimit() + 500):
        deep, other = {"d": deep}, {"d": other}
    assert next(iter(sg.flatten(sg.graft(deep, other)[0]).values())) == 2.0


def test_specs_go_to_the_names_of_one_tensor_if_they_are_equal() -> None:
    tied = np.zeros(2)
    target = {"a": tied, "b": tied}
    spec = sg.TensorSpec((2,), "float64")
    out, _ = sg.graft(target, {"a": spec, "b": sg.TensorSpec((2,), "float64")})
    assert out == {"a": spec, "b": spec}


def test_an_array_does_not_take_the_place_of_what_is_no_array() -> None:
    with pytest.raises(sg.SpecError, match="the type differs at 'x'"):
        sg.graft({"x": "abc"}, {"x": np.zeros(3)})
    with pytest.raises(sg.SpecError, match="the type differs at 'x'"):
        sg.graft({"x": np.zeros(3)}, {"x": "abc"})
    out, _ = sg.graft({"x": "abc"}, {"x": "abcd"})
    assert out == {"x": "abcd"}
