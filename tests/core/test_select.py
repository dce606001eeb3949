"""select, drop, extract, map_with_path, spec: looking at a part of a tree, and nothing else touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import surgery as sg
from surgery._paths.path import text_of
from tests.core.strategies import Frozen, Pair, ReadOnly, is_same, trees


@st.composite
def trees_and_places(draw: Any) -> tuple[Any, Any]:
    """Return a tree and the path of one of its leaves."""
    tree = draw(trees(joined=False))
    found = sg.paths(tree)
    assume(found)
    return tree, draw(st.sampled_from(found))


@st.composite
def trees_and_choices(draw: Any) -> tuple[Any, set[Any]]:
    """Return a tree and some of its paths."""
    tree = draw(trees(joined=False))
    found = sg.paths(tree)
    assume(found)
    return tree, draw(st.sets(st.sampled_from(found), min_size=1))


def in_order(tree: Any) -> dict[Any, int]:
    return {path: id(leaf) for path, leaf in sg.flatten(tree).items()}


@given(trees_and_choices())
def test_select_and_drop_are_complementary(drawn: tuple[Any, set[Any]]) -> None:
    tree, chosen = drawn
    taken = sg.select(tree, lambda path, leaf: path in chosen)
    rest = sg.drop(tree, lambda path, leaf: path in chosen)
    assert set(sg.paths(taken)) == chosen
    assert set(sg.paths(rest)) == set(sg.paths(tree)) - chosen
    merged = sg.merge(taken, rest)
    assert in_order(merged) == in_order(tree)
    assert type(merged) is type(tree)


@given(
    st.dictionaries(st.text("ab.", min_size=1, max_size=5), st.integers(), min_size=1, max_size=6), st.data()
)
def test_select_and_drop_of_joined_names_are_complementary_too(tree: Any, data: Any) -> None:
    chosen = data.draw(st.sets(st.sampled_from(sg.paths(tree)), min_size=1))
    taken = sg.select(tree, lambda path, leaf: path in chosen)
    rest = sg.drop(tree, lambda path, leaf: path in chosen)
    assert taken.keys() | rest.keys() == tree.keys() and not taken.keys() & rest.keys()
    assert sg.merge(taken, rest) == tree


@given(trees_and_choices())
def test_select_keeps_leaf_objects_order_and_the_places_of_sequences(drawn: tuple[Any, set[Any]]) -> None:
    tree, chosen = drawn
    taken = sg.flatten(sg.select(tree, lambda path, leaf: path in chosen))
    assert [(path, id(leaf)) for path, leaf in taken.items()] == [
        (path, id(leaf)) for path, leaf in sg.flatten(tree).items() if path in chosen
    ]


@given(trees_and_places())
def test_a_path_tuple_selects_just_its_leaf(drawn: tuple[Any, Any]) -> None:
    tree, path = drawn
    assert sg.paths(sg.select(tree, path)) == [path]


@given(trees())
def test_selecting_everything_gives_the_tree(tree: Any) -> None:
    assume(sg.paths(tree))
    assert is_same(sg.select(tree, "**"), tree)


@given(trees_and_places())
def test_extract_of_a_path_gives_the_object_that_stands_there(drawn: tuple[Any, Any]) -> None:
    tree, path = drawn
    assert sg.extract(tree, path) is sg.flatten(tree)[path]


@given(trees())
def test_extract_of_the_empty_path_gives_the_tree_itself(tree: Any) -> None:
    assert sg.extract(tree, ()) is tree


@given(trees())
def test_a_map_that_changes_nothing_gives_the_same_tree(tree: Any) -> None:
    assert is_same(sg.map_with_path(lambda path, leaf: leaf, tree), tree)


@given(trees())
def test_a_map_is_called_once_per_leaf_in_tree_order_with_its_path(tree: Any) -> None:
    called: list[Any] = []

    def note(path: Any, leaf: Any) -> Any:
        called.append((path, id(leaf)))
        return leaf

    sg.map_with_path(note, tree)
    assert called == [*in_order(tree).items()]


@given(trees_and_choices())
def test_a_map_leaves_all_other_leaves_the_objects_they_are(drawn: tuple[Any, set[Any]]) -> None:
    tree, chosen = drawn
    new = object()
    mapped = sg.map_with_path(lambda path, leaf: new, tree, where=lambda path, leaf: path in chosen)
    expected = {path: id(new) if path in chosen else id_ for path, id_ in in_order(tree).items()}
    assert in_order(mapped) == expected


@given(trees())
def test_the_spec_of_a_tree_has_its_containers_and_paths(tree: Any) -> None:
    spec = sg.spec(tree)
    assert type(spec) is type(tree) or not isinstance(tree, (dict, list, tuple))
    assert sg.paths(spec) == sg.paths(tree)
    assert all(isinstance(one, sg.TensorSpec) for one in sg.flatten(spec).values())
    assert not sg.diff(sg.spec(spec), spec)


# --- examples -------------------------------------------------------------------------------------


def test_a_selected_field_leaves_holes_in_the_others() -> None:
    assert sg.select({"opt": Pair(1.0, {"mu": 2.0})}, "opt/right/**") == {
        "opt": Pair(sg.Missing(), {"mu": 2.0})
    }
    taken = sg.select(Frozen(1.0, 2.0), "bias")  # built without its __init__, whose check would fail
    assert type(taken) is Frozen and taken.weight == sg.Missing() and taken.bias == 2.0


def test_a_list_of_patterns_means_any_of_them() -> None:
    tree = {"a": {"w": 1, "b": 2}, "c": {"w": 3}}
    assert sg.select(tree, ["a/b", "c/**"]) == {"a": {"b": 2}, "c": {"w": 3}}


def test_extract_lets_a_star_keep_its_key() -> None:
    tree = {"params": {"enc": {"w": 1}, "head": {"w": 2}}, "stats": ReadOnly({"enc": {"m": 3}})}
    out = sg.extract(tree, "*/enc")
    assert out == {"params": {"w": 1}, "stats": {"m": 3}} and type(out["stats"]) is dict


def test_extract_goes_through_joined_names() -> None:
    tree = {"model": {"enc.0.w": 1, "enc.1.w": 2, "head.w": 3}}
    assert sg.extract(tree, "model.enc") == {"0.w": 1, "1.w": 2}
    assert sg.extract(tree, "model.enc.1.w") == 2


def test_extract_of_an_int_and_of_its_text() -> None:
    tree = {"h": [{"w": 1}, {"w": 2}]}
    assert sg.extract(tree, "h/1") == sg.extract(tree, "h/[1]") == sg.extract(tree, ("h", 1)) == {"w": 2}


def test_a_tied_tensor_has_one_alias_in_the_spec() -> None:
    w = np.ones(2)
    spec = sg.spec({"wte": w, "lm_head": w, "other": np.ones(2)})
    assert spec["wte"].alias == spec["lm_head"].alias == "wte" and spec["other"].alias is None


# --- errors ---------------------------------------------------------------------------------------

TREE = {"encoder": {"kernel": 1.0, "bias": 2.0}, "head": {"kernel": 3.0}}


@pytest.mark.parametrize(
    ("verb", "use"),
    [
        ("select", lambda where: sg.select(TREE, where)),
        ("drop", lambda where: sg.drop(TREE, where)),
        ("map_with_path", lambda where: sg.map_with_path(lambda path, leaf: leaf, TREE, where=where)),
        ("label", lambda where: sg.label(TREE, [(where, 1), ("**", 2)])),
        ("partition", lambda where: sg.partition(TREE, [(where, 1), ("**", 2)])),
    ],
)
@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("encoder/kernl", "nearest: 'encoder/kernel', 'encoder/bias', 'head/kernel'"),
        ("encoder.kernl", "nearest: 'encoder/kernel', 'encoder/bias', 'head/kernel'"),
        ("encoder", "'encoder' is a container; what lies in it is 'encoder/**'"),
        ("zzz", "the first leaf is 'encoder/kernel'"),
        ("re:zzz.*", "the first leaf is 'encoder/kernel'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_a_way_out(
    verb: str, use: Any, where: str, hint: str
) -> None:
    with pytest.raises(sg.RuleError) as error:
        use(where)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{verb}: '{where}' matches none of 3 leaves"
    assert (
        lines[1].startswith("  hint: ")
        and lines[1].removeprefix("  hint: ").split(",")[0] == hint.split(",")[0]
    )
    assert len(lines) == 2


def test_a_tree_without_leaves_says_so() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.select({"a": {}}, "a/w")
    assert str(error.value) == "select: 'a/w' matches none of 0 leaves\n  hint: the tree has no leaves"


def test_a_pattern_marked_optional_may_match_nothing() -> None:
    assert sg.select(TREE, ["zzz?", "head/**"]) == {"head": {"kernel": 3.0}}
    assert sg.drop(TREE, "zzz?") == TREE


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.select(TREE, 3)  # type: ignore[arg-type]
    assert str(error.value) == (
        "select: 3 is no pattern\n  hint: a text such as 'backbone/**', a path tuple, or f(path, leaf)"
    )


def test_a_broken_regular_expression_is_refused() -> None:
    with pytest.raises(sg.RuleError, match=r"'re:\(' is no regular expression: missing \)"):
        sg.select(TREE, "re:(")


def test_nothing_to_extract_names_what_is_near() -> None:
    with pytest.raises(sg.PathError) as error:
        sg.extract(TREE, "encoder/kernle")
    lines = str(error.value).splitlines()
    assert lines[0] == "extract: nothing lies at 'encoder/kernle'"
    with pytest.raises(sg.PathError, match=r"hint: at the top lie 'model', 'epoch'$"):
        sg.extract({"model": {"w": 1}, "epoch": 2}, "qqqq")
    assert lines[1].startswith("  hint: nearest: 'encoder/kernel'")
    assert error.value.path == "encoder/kernle" and error.value.verb == "extract"


def test_extract_refuses_to_take_two_places_to_one() -> None:
    with pytest.raises(sg.PathError) as error:
        sg.extract({"h": {0: {"w": 1}, "0": {"w": 2}}}, "h/0")
    assert str(error.value) == "extract: 'h/0' takes two places to one\n  hint: name the keys to keep: *"


def test_text_of_a_path_is_what_messages_show() -> None:
    with pytest.raises(sg.PathError) as error:
        sg.extract(TREE, ("encoder", 0))
    assert text_of(("encoder", 0)) == error.value.path == "encoder/[0]"
