"""flatten and unflatten are exact inverses, on any tree."""

from __future__ import annotations

import copy
import enum
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from tests.core.strategies import Pair, count_leaves, is_same, keys, trees


@given(trees())
def test_unflatten_gives_the_same_tree_with_the_same_leaf_objects(tree: Any) -> None:
    assert is_same(sg.unflatten(sg.flatten(tree)), tree)


@given(trees())
def test_joined_names_need_not_be_read(tree: Any) -> None:
    assert is_same(sg.unflatten(sg.flatten(tree, joined=False)), tree)


@given(trees())
def test_a_flat_tree_has_one_entry_per_leaf_in_the_order_of_paths(tree: Any) -> None:
    flat = sg.flatten(tree)
    assert list(flat) == sg.paths(tree)
    assert len(flat) == count_leaves(tree)


@given(trees(readable=True), st.sampled_from(["/", "."]))
def test_text_paths_round_trip_too(tree: Any, sep: str) -> None:
    flat = sg.flatten(tree, sep=sep)
    assert all(type(text) is str for text in flat)
    assert is_same(sg.unflatten(flat), tree)


@given(trees(readable=True), st.sampled_from(["/", "."]))
def test_text_paths_stand_for_the_paths_in_the_same_order(tree: Any, sep: str) -> None:
    texts, flat = sg.flatten(tree, sep=sep), sg.flatten(tree)
    assert [id(leaf) for leaf in texts.values()] == [id(leaf) for leaf in flat.values()]


@given(trees())
def test_like_gives_the_containers_to_any_mapping_of_paths(tree: Any) -> None:
    plain = dict(sg.flatten(tree))
    assert is_same(sg.unflatten(plain, like=tree), tree)
    assert is_same(sg.unflatten(plain, like=sg.flatten(tree)), tree)


@given(trees(readable=True))
def test_like_may_have_text_paths(tree: Any) -> None:
    assert is_same(sg.unflatten(dict(sg.flatten(tree)), like=sg.flatten(tree, sep="/")), tree)


@given(st.dictionaries(st.lists(keys(), min_size=2, max_size=2).map(tuple), st.integers(), min_size=1))
def test_other_mappings_become_nested_dicts(flat: dict[Any, int]) -> None:
    expected: dict[Any, Any] = {}
    for (a, b), leaf in flat.items():
        expected.setdefault(a, {})[b] = leaf
    assert sg.unflatten(flat) == expected


@given(trees())
def test_a_flat_tree_keeps_its_structure_when_copied_or_pickled(tree: Any) -> None:
    flat = sg.flatten(tree)
    for other in (flat.copy(), copy.copy(flat)):
        assert is_same(sg.unflatten(other), tree)


def test_a_flat_tree_can_be_pickled() -> None:
    flat = sg.flatten({"a": [1.0, {"b": None}], "c": Pair(2.0, ())})
    again = pickle.loads(pickle.dumps(flat))
    assert sg.equal(sg.unflatten(again), sg.unflatten(flat)) and again.sep is flat.sep


def test_a_bare_leaf_is_a_tree() -> None:
    leaf = np.ones(2)
    assert dict(sg.flatten(leaf)) == {(): leaf}
    assert sg.unflatten({(): leaf}) is leaf
    assert list(sg.flatten(leaf, sep="/")) == [""]
    assert sg.unflatten(sg.flatten(leaf, sep="/")) is leaf


def test_leaves_can_be_replaced_in_a_flat_tree() -> None:
    flat = sg.flatten({"a": (1.0, [2.0]), "b": {}})
    flat[("a", 1, 0)] = 3.0
    assert sg.unflatten(flat) == {"a": (1.0, [3.0]), "b": {}}


def test_places_can_be_added_to_and_taken_from_mappings_of_a_flat_tree() -> None:
    flat = sg.flatten({"a": {"x": 1.0, "y": 2.0}, "b": {"z": 3.0}})
    del flat[("b", "z")], flat[("a", "x")]
    flat[("a", "n", "w")] = 4.0
    assert sg.unflatten(flat) == {"a": {"y": 2.0, "n": {"w": 4.0}}}


def test_a_list_may_grow_at_its_end() -> None:
    flat = sg.flatten({"a": [1.0]})
    flat[("a", 1)] = 2.0
    assert sg.unflatten(flat) == {"a": [1.0, 2.0]}


class Colour(enum.StrEnum):
    """An enum that equals its text and hashes like it."""

    RED = "w"


def test_an_enum_that_equals_its_text_stays_an_enum_whatever_was_seen_before() -> None:
    sg.flatten({"w": 1.0}, sep="/")  # the text is known now
    tree = {Colour.RED: 1.0}
    assert list(sg.flatten(tree, sep="/")) == ["<<Colour\\.RED: 'w'>>"]
    assert type(next(iter(sg.unflatten(sg.flatten(tree))))) is Colour
    assert sg.label({"w": 0.0}, [("w", "text")]) == {"w": "text"}
    with pytest.raises(sg.RuleError, match="no rule matches a leaf"):
        sg.label(tree, [("w", "text")])


def test_a_leaf_whose_key_has_no_readable_text_is_refused_on_the_way_back() -> None:
    flat = sg.flatten({("a", 1): 1.0}, sep="/")
    with pytest.raises(sg.PathError, match=r"<\('a', 1\)> in '<\('a', 1\)>' cannot be read back"):
        sg.unflatten(flat)


# --- errors ---------------------------------------------------------------------------------------


def test_only_two_separators_exist() -> None:
    with pytest.raises(sg.PathError) as error:
        sg.flatten({"a": 1}, sep="::")
    assert str(error.value) == "flatten: '::' is no separator\n  expected  '/' or '.'"


def test_a_place_cannot_be_a_leaf_and_a_container() -> None:
    for flat in ({("a",): 1, ("a", "b"): 2}, {("a", "b"): 2, ("a",): 1}):
        with pytest.raises(sg.PathError) as error:
            sg.unflatten(flat)
        assert str(error.value) == (
            "unflatten: one place is both a leaf and a container at 'a'\n"
            "  expected  either a leaf or what lies under it\n"
            "  found     'a' and 'a/b'\n"
            "  hint: rename one of the two"
        )


def test_text_keys_need_their_separator() -> None:
    with pytest.raises(sg.PathError) as error:
        sg.unflatten({"a/b": 1})
    assert str(error.value) == (
        "unflatten: keys must be path tuples\n"
        "  found     'a/b'\n"
        "  hint: ('a', 'b') for a/b; for text keys give their separator: sep='/'"
    )


@pytest.mark.parametrize("text", ["/a", "a/", "a//b", "/"])
def test_a_text_with_an_empty_key_is_refused(text: str) -> None:
    with pytest.raises(sg.PathError) as error:
        sg.unflatten({text: 1}, sep="/")
    assert str(error.value) == f"an empty key in '{text}'\n  hint: write an empty key as \"\""


def test_two_texts_of_one_path_are_refused() -> None:
    with pytest.raises(sg.PathError, match="unflatten: two texts name one path"):
        sg.unflatten({"a/b": 1, "a/\\b": 2}, sep="/")


def test_like_names_every_leaf_that_only_one_side_has() -> None:
    with pytest.raises(sg.StructureError) as error:
        sg.unflatten({("a",): 1, ("kernle",): 2}, like={"a": 0, "kernel": 0})
    assert str(error.value) == (
        "unflatten: 2 problems (2 leaves)\n"
        "  a leaf is missing at 'kernel'\n"
        "  a leaf has no place at 'kernle'\n"
        "    hint: nearest: 'kernel'"
    )
    assert [problem.path for problem in error.value.problems] == ["kernel", "kernle"]


def test_a_tuple_cannot_lose_an_element_silently() -> None:
    flat = sg.flatten({"a": (1.0, 2.0)})
    del flat[("a", 0)]
    with pytest.raises(sg.StructureError) as error:
        sg.unflatten(flat)
    assert str(error.value) == (
        "unflatten: a tuple cannot lose [0] at 'a'\n"
        "  expected  the keys [0, 1]\n"
        "  found     [1]\n"
        "  hint: drop(tree, where) leaves Missing() in its place; or turn the container into a dict first"
    )


def test_a_namedtuple_cannot_take_a_field() -> None:
    flat = sg.flatten({"a": Pair(1.0, 2.0)})
    flat[("a", "middle")] = 3.0
    with pytest.raises(sg.StructureError) as error:
        sg.unflatten(flat)
    assert str(error.value) == (
        "unflatten: a Pair cannot take middle at 'a'\n"
        "  expected  the keys ['left', 'right']\n"
        "  found     ['left', 'right', 'middle']\n"
        "  hint: drop(tree, where) leaves Missing() in its place; or turn the container into a dict first"
    )


def test_a_name_joined_by_dots_cannot_take_a_key_with_a_dot() -> None:
    flat = sg.flatten({"a.b": 1.0, "a.c": 2.0})
    flat[("a", "x.y")] = 3.0
    with pytest.raises(sg.PathError) as error:
        sg.unflatten(flat)
    assert str(error.value) == (
        "unflatten: the key 'x.y' cannot be part of a name joined by '.' at 'a/x.y'\n"
        "  hint: rename it, or read the mapping with joined=False"
    )


@pytest.mark.parametrize("wrap", [lambda x: {"a": x}, lambda x: (1.0, x), lambda x: x])
@pytest.mark.parametrize("sep", [None, "/"])
def test_a_report_where_a_leaf_belongs_is_refused_every_time(wrap: Any, sep: str | None) -> None:
    report = sg.diff({"a": 1}, {"a": 2})
    for _ in range(2):
        with pytest.raises(sg.StructureError, match="a report stands where a leaf is expected") as error:
            sg.flatten(wrap(report), sep=sep)
        assert "graft and relabel return a pair: `tree, report = graft(...)`" in str(error.value)


def test_a_leaf_put_where_an_empty_node_was_is_there_afterwards() -> None:
    for nothing in (None, {}, [], (), sg.Missing()):
        flat = sg.flatten({"a": nothing, "b": 1})
        flat["a",] = 2
        assert sg.unflatten(flat) == {"a": 2, "b": 1}, repr(nothing)
    bare = sg.flatten(None)
    bare[()] = 3
    assert sg.unflatten(bare) == 3


def test_a_branch_with_an_odd_key_behind_others_is_walked_once() -> None:
    tree: Any = {"w": 1}
    for _ in range(60):  # walked twice at each level, it would take longer than anybody lives
        tree = {"a": tree, "x y.z": 2, 3: 4}
    flat = sg.flatten(tree)
    assert len(flat) == 121 and flat[("a",) * 60 + ("w",)] == 1
    assert sg.unflatten(flat) == tree
