"""Ties: one tensor under several names, through every verb of the core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import surgery as sg
from surgery import ops


def tied() -> dict[str, Any]:
    w = np.arange(6.0).reshape(2, 3)
    return {"wte": {"w": w}, "head": {"w": w}, "other": {"w": w.copy()}}


def test_one_object_under_two_names_is_one_tensor_and_equal_ones_are_two() -> None:
    spec = sg.spec(tied())
    assert spec["wte"]["w"].alias == spec["head"]["w"].alias == "wte/w" and spec["other"]["w"].alias is None


def test_numbers_texts_and_none_are_never_tied() -> None:
    one, text = 10**20, "a text"
    tree = {"a": one, "b": one, "c": text, "d": text, "e": None, "f": None}
    assert all(leaf.alias is None for leaf in sg.flatten(sg.spec(tree)).values())
    assert sg.label(tree, [("a", 1), ("**", 2)])["b"] == 2


def test_two_views_of_one_memory_are_two_leaves() -> None:
    w = np.ones((2, 3))
    spec = sg.spec({"a": w, "b": w[:], "c": w.T})
    assert [spec[name].alias for name in "abc"] == [None, None, None]


@pytest.mark.parametrize(
    "edit",
    [
        lambda tree: sg.rename(tree, [("wte/w", "wte/table")]),
        lambda tree: sg.transform(tree, [("{wte|head}/w", "{wte|head}/k", ops.transpose())]),
        lambda tree: sg.merge(*sg.partition(tree, [("other/**", 1), ("**", 2)]).values()),
        lambda tree: sg.select(tree, ["wte/**", "head/**"]),
        lambda tree: sg.drop(tree, "other/**"),
        lambda tree: sg.unflatten(sg.flatten(tree)),
        lambda tree: sg.realize(tree, "numpy"),
        lambda tree: sg.graft(tree, {"wte": {"w": np.zeros((2, 3))}}, missing=[("other/**", "keep-target")])[
            0
        ],
        lambda tree: sg.plan([("wte/w", "x/w")], tree).inverse().apply(sg.rename(tree, [("wte/w", "x/w")])),
    ],
)
def test_ties_come_through_an_edit(edit: Any) -> None:
    out = edit(tied())
    shared = [leaf for path, leaf in sg.flatten(out).items() if path[0] != "other"]
    assert len(shared) == 2 and shared[0] is shared[1]


def test_a_tied_tensor_is_one_row_of_a_plan_and_moves_once() -> None:
    tree = tied()
    plan = sg.plan([("{wte|head}/w", "{a|b}/w", ops.transpose())], tree)
    (binding,) = [one for one in plan.stages[0].bindings if one.rule]
    assert binding.sources == ((("wte", "w"), ("head", "w")),)
    out = plan.apply(tree)
    assert out["a"]["w"] is out["b"]["w"]
    back = plan.inverse().apply(out)
    assert back["wte"]["w"] is back["head"]["w"] and sg.equal(back, tree)


def test_a_copy_of_one_name_is_no_longer_tied_after_untie() -> None:
    tree = tied()
    out = sg.transform(tree, [("head/w", "head/w", ops.untie())])
    assert out["wte"]["w"] is tree["wte"]["w"] and out["head"]["w"] is not tree["wte"]["w"]
    assert sg.equal(out, tree) and sg.spec(out)["head"]["w"].alias is None
    assert not np.shares_memory(out["head"]["w"], out["wte"]["w"])


@pytest.mark.parametrize(
    ("use", "verb"),
    [
        (lambda t: sg.label(t, [("head/**", 1), ("**", 2)]), "label"),
        (lambda t: sg.partition(t, [("head/**", 1), ("**", 2)]), "partition"),
        (lambda t: sg.transform(t, [("head/w", "head/w", ops.transpose())]), "transform"),
        (lambda t: sg.plan([("head/w", "head/w", ops.cast("float32"))], t), "plan"),
        (lambda t: sg.plan([("wte/w", ["a", "b"])], t), "plan"),
    ],
)
def test_treating_the_names_of_one_tensor_differently_is_an_error_that_says_untie(
    use: Any, verb: str
) -> None:
    with pytest.raises(sg.RuleError) as error:
        use(tied())
    assert str(error.value).startswith(
        f"{verb}: one tensor under two names is treated in two ways at 'head/w'"
    )
    assert "untie()" in str(error.value).split("hint:")[1]


def test_ties_of_many_names_are_one_group() -> None:
    w = np.ones(1)
    tree = {str(n): {"w": w} for n in range(100)}
    assert {leaf.alias for leaf in sg.flatten(sg.spec(tree)).values()} == {"0/w"}
    out = sg.transform(tree, [("*/w", "*/v", ops.reshape([1, 1]))])
    assert len({id(leaf) for leaf in sg.flatten(out).values()}) == 1
