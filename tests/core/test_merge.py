"""merge: holes are filled, nothing else is."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given

import surgery as sg
from tests.core.strategies import Pair, Plain, is_same, trees

HOLE = sg.Missing()


@given(trees())
def test_a_tree_merged_with_a_hole_is_the_tree(tree: Any) -> None:
    assert is_same(sg.merge(tree), tree)
    assert is_same(sg.merge(tree, HOLE), tree) and is_same(sg.merge(HOLE, tree), tree)


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (({"a": HOLE, "b": 2}, {"a": 1, "b": HOLE}), {"a": 1, "b": 2}),
        (({"b": 2}, {"a": 1}), {"b": 2, "a": 1}),
        (({"a": HOLE}, {"a": {"b": 1}}), {"a": {"b": 1}}),
        (({"a": [1, HOLE]}, {"a": [HOLE, 2]}), {"a": [1, 2]}),
        ((Pair(1, HOLE), Pair(HOLE, 2)), Pair(1, 2)),
        ((Plain(HOLE, 2), Plain(1, HOLE)), Plain(1, 2)),
        (({"a": None}, {"a": HOLE}), {"a": None}),
        (({"a": {}}, {"a": HOLE}), {"a": {}}),
        (({"a": HOLE}, {"a": HOLE}), {"a": HOLE}),
        (({"a.x": 1}, {"a.y": 2}), {"a.x": 1, "a.y": 2}),
        (({"a": 1}, {"b": 2}, {"c": 3}), {"a": 1, "b": 2, "c": 3}),
        ((OrderedDict(a=HOLE), OrderedDict(a=1)), OrderedDict(a=1)),
    ],
)
def test_at_each_place_the_part_that_has_something_gives_it(parts: Any, whole: Any) -> None:
    merged = sg.merge(*parts)
    assert merged == whole and type(merged) is type(whole) and repr(merged) == repr(whole)


def test_a_masked_node_of_optax_counts_as_a_hole() -> None:
    masked: Any = type(
        "MaskedNode", (tuple,), {"__module__": "optax.transforms", "_fields": (), "_make": None}
    )
    masked._make = classmethod(lambda cls, items: cls())
    assert sg.merge({"a": masked(), "b": 2}, {"a": 1}) == {"a": 1, "b": 2}


def test_parts_are_not_changed() -> None:
    one, two = {"a": {"x": 1}}, {"a": {"y": 2}}
    sg.merge(one, two)
    assert one == {"a": {"x": 1}} and two == {"a": {"y": 2}}


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((), "merge: nothing to merge\n  hint: merge(*parts.values())"),
        (
            ({"a": {"b": 1}}, {"a": {"b": 2}}),
            "merge: two parts overlap at 'a/b'\n  expected  a leaf in one part, a hole in the others\n"
            "  found     a leaf in part 0 and in part 1",
        ),
        (
            ({"a": [1]}, {"a": (HOLE,)}),
            "merge: containers differ at 'a'\n  expected  list\n  found     tuple",
        ),
        (
            ({"a": None}, {"a": 1}),
            "merge: containers differ at 'a'\n  expected  NoneType\n  found     a leaf",
        ),
        (({"a": None}, {"a": {}}), "merge: containers differ at 'a'\n  expected  NoneType\n  found     dict"),
        (({"a": {"b": 1}}, {"a": 2}), "merge: one place is both a leaf and a container at 'a'"),
    ],
)
def test_parts_that_do_not_fit_say_where(parts: Any, text: str) -> None:
    with pytest.raises(sg.SurgeryError) as error:
        sg.merge(*parts)
    assert str(error.value).startswith(text)


def test_all_overlaps_are_found_at_once() -> None:
    with pytest.raises(sg.StructureError) as error:
        sg.merge({"a": 1, "b": 2, "c": HOLE}, {"a": 1, "b": 2, "c": 3})
    assert [problem.path for problem in error.value.problems] == ["a", "b"]
