"""Plans as values: chained, hashed, explained, reported; of large, deep and odd trees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest

import surgery as sg
from surgery import ops
from tests.core.test_plan import STACK, grid, layered

# --- chains, hashes, explanations ------------------------------------------------------------------


def test_plans_are_chained_only_where_they_fit() -> None:
    tree = {"a": grid(2, 3)}
    first = sg.plan([("a", "b", ops.transpose())], tree)
    both = first.then(sg.plan([("b", "c", ops.reshape([-1]))], first.apply(tree)))
    assert both.apply(tree)["c"].tolist() == tree["a"].T.reshape(-1).tolist()
    assert sg.equal(both.inverse().apply(both.apply(tree)), tree)
    with pytest.raises(sg.SpecError) as error:
        first.then(sg.plan([("b", "c")], {"b": grid(2, 3)}))
    assert str(error.value) == (
        "then: the second plan expects another shape or dtype at 'b'\n  expected  f32[2,3]\n  found     f32[3,2]"
    )
    with pytest.raises(sg.StructureError) as error:
        first.then(sg.plan([("x", "y")], {"x": grid(2)}))
    assert [problem.path for problem in error.value.problems] == ["b", "x"]


def test_what_a_chain_loses_is_named_by_where_it_came_from() -> None:
    tree = {"a": grid(2), "b": grid(3)}
    first = sg.plan([("{a|b}", "{x|y}")], tree)
    assert first.then(sg.plan([("x", None)], first.apply(tree))).lost == {("a",): "dropped"}


def test_what_a_plan_loses_twice_over_is_traced_through_the_first_time() -> None:
    plan = sg.plan([("a", "b", ops.take(axis=0, indices=[0, 0])), ("b", "a")], {"a": grid(2), "b": grid(2)})
    assert set(plan.lost) == {("a",)}
    assert set(plan.then(plan).lost) == {("a",), ("b",)}, "what comes second to be cut was `b` at first"


def test_the_hash_says_what_a_plan_does_and_not_how_it_was_written() -> None:
    tree = {"a": grid(2, 3), "b": grid(2)}
    one = sg.plan([("a", "c", ops.transpose())], tree)
    assert one.hash == sg.plan([(("a",), ("c",), ops.transpose())], tree).hash
    others = [
        sg.plan([("a", "d", ops.transpose())], tree),
        sg.plan([("a", "c", ops.permute_axes([1, 0]))], tree),
        sg.plan([("a", "c", ops.transpose())], {**tree, "b": grid(3)}),
        sg.plan([("a", "c", ops.transpose()), ("b", None)], tree),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 5


def test_the_hash_is_the_same_in_every_process() -> None:
    code = (
        "import numpy as np, surgery as sg\n"
        "tree = {'h': {str(n): {'w': np.zeros((2, 3), np.float32)} for n in range(3)}, 'b': np.zeros(2)}\n"
        "print(sg.plan([('h.{i:int}.w', 'w', sg.ops.stack())], tree).hash, end='')"
    )
    root = str(Path(__file__).parents[2])
    found = {
        subprocess.check_output(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": root}, text=True
        )
        for seed in ("1", "2")
    }
    tree = {"h": {str(n): {"w": np.ones((2, 3), np.float32)} for n in range(3)}, "b": np.ones(2)}
    assert found == {sg.plan([("h.{i:int}.w", "w", ops.stack())], tree).hash}


def test_explain_says_what_happens_on_either_side_and_by_which_rule() -> None:
    plan = sg.plan([*STACK, ("ln/scale", None)], layered(3))
    expected = (
        "explain: 1 changed\n"
        "  rule 1: Rule('h.{i:int}.{rest:**}' -> 'layers/{rest}', stack())\n"
        "  changed  layers/w  f32[2,3] -> f32[3,2,3]  stack(); from h/{0..2}/w"
    )
    assert str(plan.explain("h.1.w")) == str(plan.explain("layers/w")) == expected
    assert str(plan.explain(("ln", "scale"))).splitlines()[-1] == "  dropped  ln/scale  f32[2]"
    assert "no rule says anything about it" in str(plan.explain("wte"))
    with pytest.raises(sg.PathError) as error:
        plan.explain("layers/ww")
    assert str(error.value) == "explain: no leaf at 'layers/ww'\n  hint: nearest: 'layers/w', 'layers/b'"


def test_the_report_has_a_row_for_every_leaf_and_folds_what_is_alike() -> None:
    plan = sg.plan([("h.*.w", "h.*.kernel", ops.transpose()), ("wte", None)], layered())
    lines = str(plan).splitlines()
    assert lines[0] == "plan: 1 dropped, 12 changed" and "13 kept as they are, not shown" in lines[2]
    assert lines[3].split() == ["dropped", "wte", "f32[4,2]"]
    assert lines[4].split()[:2] == ["changed", "h/{0..11}/kernel"]
    assert len(plan.report) == 13 and plan._repr_html_().startswith("<details")


def test_optimizer_moments_are_not_treated_as_weights_by_an_op_that_changes_values() -> None:
    tree = {"w": grid(2)}
    plan = sg.plan([("w", ["a", "b"])], tree)
    assert plan.apply(tree, kind="covector")["a"].tolist() == [0, 0.5]
    assert plan.apply(tree)["a"].tolist() == [0, 1]


# --- large and odd ---------------------------------------------------------------------------------


def test_wide_containers_are_built_again_in_time_that_grows_with_their_width() -> None:
    wide = {**{f"k{n}": float(n) for n in range(20_000)}, "nothing": None}
    many = [float(n) for n in range(40_000)]
    begin = process_time()
    assert list(sg.rename({"a": wide}, [("a/k0", "a/q")])["a"])[-2:] == ["k19999", "nothing"]
    assert sg.drop({"a": many}, "a/[0]")["a"][:2] == [sg.Missing(), 1.0]
    assert process_time() - begin < 15, "five times what it takes; squared, it was above a minute"


def test_a_tree_of_100_000_leaves_is_planned_and_stacked() -> None:
    x = np.zeros(1, np.int8)
    tree = {"h": {str(n): {f"w{k}": x + 0 for k in range(100)} for n in range(1000)}}
    plan = sg.plan(STACK, tree)
    out = plan.apply(tree)
    assert len(out["layers"]) == 100 and out["layers"]["w7"].shape == (1000, 1)


def test_a_tree_deeper_than_the_recursion_limit_is_planned() -> None:
    deep: dict[str, Any] = {"w": 1.0}
    for _ in range(sys.getrecursionlimit() + 500):
        deep = {"d": deep}
    plan = sg.plan([("{all:**}.w", "{all}.v")], deep)
    out = plan.apply(deep)
    assert sg.paths(out)[0][-1] == "v" and sg.paths(plan.inverse().apply(out)) == sg.paths(deep)


def test_a_bare_leaf_and_an_empty_tree_are_planned() -> None:
    x = grid(2, 3)
    assert sg.plan([((), ("w",), ops.transpose())], x).apply(x)["w"].shape == (3, 2)
    assert sg.plan([("w", ())], {"w": x}).apply({"w": x}) is x
    assert sg.plan([], {}).apply({}) == {} and sg.plan([], {"a": None}).apply({"a": None}) == {"a": None}
    with pytest.raises(sg.RuleError, match="'w' matches none of 0 leaves"):
        sg.plan([("w", "v")], {})
