"""rename and transform: any tree, edited in place of its containers, nothing else touched."""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import surgery as sg
from surgery import ops
from tests.core.strategies import Frozen, Pair, Plain, ReadOnly, is_same, trees


@given(trees())
def test_a_rename_of_everything_to_itself_gives_the_tree(tree: Any) -> None:
    assert is_same(sg.rename(tree, [("**?", "**")]), tree)
    assert is_same(sg.transform(tree, []), tree)


@given(trees())
def test_a_rename_under_a_new_key_keeps_every_container_below(tree: Any) -> None:
    moved = sg.rename(tree, [("{all:**}?", "new/{all}")])
    assume(sg.paths(tree))
    assert is_same(sg.extract(moved, "new"), tree)
    assert [id(leaf) for leaf in sg.flatten(moved).values()] == [
        id(leaf) for leaf in sg.flatten(tree).values()
    ]


@given(trees(joined=False), st.data())
def test_dropping_by_a_rule_is_dropping_by_the_verb_where_no_sequence_is_renumbered(
    tree: Any, data: Any
) -> None:
    found = sg.paths(tree)
    assume(found)
    path = data.draw(st.sampled_from(found))
    try:
        out = sg.transform(tree, [(path, None)])
    except sg.StructureError as error:
        assert "cannot hold these keys" in str(error), "a sequence or a record would be renumbered"
        return
    assert sg.paths(out) == [other for other in found if other != path]


@given(trees(joined=False), st.data())
def test_leaves_of_one_container_can_change_places_in_any_way_and_go_back(tree: Any, data: Any) -> None:
    flat = sg.flatten(tree)
    assume(flat and len(set(map(id, flat.values()))) == len(flat))
    groups: dict[Any, list[Any]] = {}
    for path in flat:
        groups.setdefault(path[:-1], []).append(path)
    parent = data.draw(st.sampled_from(sorted(groups, key=repr)))
    assume(parent or () not in flat)
    to = dict(zip(groups[parent], data.draw(st.permutations(groups[parent])), strict=True))
    plan = sg.plan(list(to.items()), tree)
    out = plan.apply(tree)
    assert type(out) is type(tree)
    assert {path: id(leaf) for path, leaf in sg.flatten(out).items()} == {
        to.get(path, path): id(leaf) for path, leaf in flat.items()
    }
    assert is_same(plan.inverse().apply(out), tree)


@pytest.mark.parametrize(
    ("tree", "rules", "result"),
    [
        (OrderedDict(b=1, a=2), [("b", "c")], OrderedDict(c=1, a=2)),
        ({"x": defaultdict(list, w=1)}, [("x/w", "x/v")], {"x": defaultdict(list, v=1)}),
        ({"x": [1, 2]}, [("x/0", "x/1"), ("x/1", "x/0")], {"x": [2, 1]}),
        ({"x": [1, 2]}, [("x/{i:int}", "y/{i}")], {"y": [1, 2]}),
        ({"a": {"b": {"c": 1}}}, [("a/b/c", "c")], {"c": 1}),
        ({"a.x": 1, "b.y": 2}, [("a.x", "c.z")], {"c.z": 1, "b.y": 2}),
        ({"m": {"a.x": 1, "b.y": 2}}, [("m.a.x", "m.c.z")], {"m": {"c.z": 1, "b.y": 2}}),
        ({"a": {"w": 1}, "e": {}, "n": None}, [("a/w", "b/w")], {"b": {"w": 1}, "e": {}, "n": None}),
        ({"": {"x": 1}}, [(("", "x"), ("a", ""))], {"a": {"": 1}}),
        ({"x": (1, 2, 3)}, [("x/{0|1|2}", "x/{1|2|0}")], {"x": (3, 1, 2)}),
        (Pair(1, 2), [("{left|right}", "{right|left}")], Pair(2, 1)),
        ({"p": Plain(1, 2)}, [("p/{weight|bias}", "p/{bias|weight}")], {"p": Plain(2, 1)}),
        ({"h": [{"w": 1}, {"w": 2}]}, [("h/0/w", "h/1/w"), ("h/1/w", "h/0/w")], {"h": [{"w": 2}, {"w": 1}]}),
        ({1: {"w": 1}, "1": {"w": 2}}, [("[1]/w", "[1]/v")], {1: {"v": 1}, "1": {"w": 2}}),
    ],
)
def test_containers_follow_what_is_in_them(tree: Any, rules: Any, result: Any) -> None:
    out = sg.transform(tree, rules)
    assert out == result and type(out) is type(result) and repr(out) == repr(result)


def test_a_record_cannot_lose_or_gain_a_field() -> None:
    for record in (Pair(1, 2), Plain(1, 2), Frozen(1, 2)):
        first, second = ("left", "right") if isinstance(record, Pair) else ("weight", "bias")
        with pytest.raises(sg.StructureError) as error:
            sg.rename({"a": record}, [(f"a/{first}", "b")])
        assert str(error.value) == (
            f"rename: a {type(record).__name__} cannot hold these keys at 'a'\n"
            f"  expected  ['{first}', '{second}']\n  found     ['{second}']\n"
            "  hint: move the whole container, or turn it into a dict first"
        )
        with pytest.raises(sg.StructureError, match="cannot hold these keys at 'a'"):
            sg.rename({"a": record, "b": 3}, [("b", "a/other")])


def test_a_sequence_is_never_renumbered_silently() -> None:
    with pytest.raises(sg.StructureError, match="a list cannot hold these keys at 'h'"):
        sg.transform({"h": [1, 2]}, [("h/0", None)])


def test_a_mapping_of_ones_own_is_built_again() -> None:
    out = sg.rename({"m": ReadOnly({"a": 1, "b": 2})}, [("m/a", "m/c")])
    assert type(out["m"]) is ReadOnly and dict(out["m"]) == {"c": 1, "b": 2}


def test_joined_names_keep_their_order_where_none_stands_among_them() -> None:
    tree = {"b.y": None, "a.x": 1, "b.z": 2, "a.w": {}}
    assert list(sg.rename(tree, [("a.x", "a.v")])) == ["b.y", "a.v", "b.z", "a.w"]
    assert list(sg.rename({"sd": tree}, [("sd.b.z", "sd.c")])["sd"]) == ["b.y", "a.x", "c", "a.w"]


def test_nothing_that_was_given_is_changed() -> None:
    tree = {"a": {"w": np.ones((2, 3))}, "b": [1, {"c": 2}]}
    before = sg.flatten(tree).copy()
    sg.transform(tree, [("a/w", "x/y", ops.transpose()), ("b/1/c", "b/1/d")])
    assert sg.flatten(tree) == before and tree["a"]["w"].shape == (2, 3)


def test_rename_refuses_ops_and_names_the_verb_that_takes_them() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.rename({"a": 1}, [("a", "b"), ("b?", "c", ops.transpose())])
    assert str(error.value) == "rename: rule 2 has ops\n  hint: use transform(tree, rules)"


def test_100_000_leaves_are_renamed_and_none_is_touched() -> None:
    tree = {f"l{n}": {f"w{k}": float(k) for k in range(100)} for n in range(1000)}
    out = sg.rename(tree, [("l{n}/{rest:**}", "layer_{n}/{rest}")])
    assert len(out) == 1000 and out["layer_7"]["w3"] is tree["l7"]["w3"]


def test_a_tree_deeper_than_the_recursion_limit_is_renamed() -> None:
    deep: Any = {"w": 1.0}
    for _ in range(sys.getrecursionlimit() + 500):
        deep = {"d": deep}
    assert sg.paths(sg.rename(deep, [("{all:**}.w", "{all}.v")]))[0][-1] == "v"
