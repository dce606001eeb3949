"""diff and equal: places, containers, shapes, dtypes, and values to the bit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given

import surgery as sg
from tests.core.strategies import Pair, trees


@given(trees())
def test_a_tree_differs_in_nothing_from_itself(tree: Any) -> None:
    assert not sg.diff(tree, tree, values=True) and sg.equal(tree, tree)


@given(trees(), trees())
def test_two_trees_are_equal_in_one_direction_as_in_the_other(one: Any, two: Any) -> None:
    assert sg.equal(one, two) == sg.equal(two, one)
    if sg.equal(one, two):
        assert not sg.diff(one, two, values=True).with_status("added", "removed", "shape", "dtype", "value")


@given(trees())
def test_a_leaf_less_is_seen(tree: Any) -> None:
    found = sg.paths(tree)
    assume(found)
    rest = sg.drop(tree, found[0])
    report = sg.diff(tree, rest)
    assert report.counts["removed"] == 1 and not sg.equal(tree, rest)
    assert sg.diff(rest, tree).counts["added"] == 1


@pytest.mark.parametrize(
    ("a", "b", "status", "change"),
    [
        ({"w": 1.0}, {}, "removed", "f64[]"),
        ({}, {"w": 1.0}, "added", "f64[]"),
        ({"w": np.ones(2)}, {"w": np.ones((1, 2))}, "shape", "f64[2] -> f64[1,2]"),
        ({"w": np.ones(2)}, {"w": np.ones(2, np.float32)}, "dtype", "f64[2] -> f32[2]"),
        ({"w": 1}, {"w": 1.0}, "dtype", "i64[] -> f64[]"),
        ({"w": [1]}, {"w": (1,)}, "container", "list -> tuple"),
        ({"w": {}}, {"w": None}, "container", "dict -> NoneType"),
        ({"w": {}}, {}, "removed", "an empty dict"),
        ({}, {"w": None}, "added", "NoneType"),
        ({"a": 1, "w": []}, {"a": 1}, "removed", "an empty list"),
        (OrderedDict(w=1), {"w": 1}, "container", "OrderedDict -> dict"),
    ],
)
def test_a_difference_is_one_row(a: Any, b: Any, status: str, change: str) -> None:
    report = sg.diff(a, b)
    assert {row.status for row in report} == {status} and change in str(report)
    assert not sg.equal(a, b)


def test_a_container_that_lost_its_leaves_is_told_by_them_alone() -> None:
    assert [row.status for row in sg.diff({"a": {"w": 1.0}}, {"a": {}})] == ["removed"]
    assert [row.status for row in sg.diff({"a": [1.0]}, {"a": []})] == ["removed"]
    assert [(row.status, row.path) for row in sg.diff({"a": 1}, {"a": [2]})] == [
        ("removed", ("a",)),
        ("added", ("a", 0)),
    ]


def test_values_are_compared_bit_for_bit_only_where_that_is_asked_for() -> None:
    a, b = {"w": np.float32([1, 2, 0.0, np.nan])}, {"w": np.float32([1, 2.5, -0.0, np.nan])}
    assert not sg.diff(a, b)
    assert str(sg.diff(a, b)) == (
        "diff: nothing differs in 1 leaf; only names, shapes and dtypes were compared"
    )
    (row,) = sg.diff(a, b, values=True)
    assert row.status == "value" and row.note == "2 of 4 elements, NaN among them"
    assert str(sg.diff(a, a, values=True)) == "diff: nothing differs in 1 leaf, compared bit for bit"
    (row,) = sg.diff({"w": np.float32([1, 2])}, {"w": np.float32([1, 2.5])}, values=True)
    assert row.note == "1 of 2 elements, max abs 0.5"


def test_nan_equals_nan_of_the_same_bits_and_zero_is_not_minus_zero() -> None:
    assert sg.equal({"w": np.float32([np.nan])}, {"w": np.float32([np.nan])})
    assert not sg.equal({"w": np.float32([0.0])}, {"w": np.float32([-0.0])})
    assert not sg.equal({"w": 0.0}, {"w": -0.0})
    other = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert not sg.equal({"w": np.float32([np.nan])}, {"w": other})


def test_layout_in_memory_and_order_of_keys_do_not_matter() -> None:
    w = np.arange(6.0).reshape(2, 3)
    assert sg.equal({"a": w, "b": 1}, {"b": 1, "a": np.asfortranarray(w)})
    assert sg.equal({"a": w}, {"a": w.astype(">f8")})


def test_containers_with_equal_contents_are_told_apart() -> None:
    for one, two in (([], ()), (None, {}), (Pair(1, 2), (1, 2)), (sg.Missing(), None), ({}, OrderedDict())):
        assert not sg.equal({"x": one}, {"x": two}) and sg.diff({"x": one}, {"x": two})


def test_leaves_that_are_no_arrays_are_compared_too() -> None:
    assert sg.equal({"a": "text"}, {"a": "text"})
    (row,) = sg.diff({"a": "text"}, {"a": "other"}, values=True)
    assert row.note == "'text' -> 'other'"


def test_like_differences_of_many_layers_are_one_line() -> None:
    a = {"h": [{"w": np.ones(2)} for _ in range(12)]}
    b = {"h": [{"w": np.ones(3)} for _ in range(12)]}
    assert str(sg.diff(a, b)).splitlines()[1] == "  shape  h/[{0..11}]/w  f64[2] -> f64[3]"
    assert len(sg.diff(a, b)) == 12
