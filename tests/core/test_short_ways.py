"""The short ways of the verbs give what the general ones give, and refuse what those refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from surgery._paths.path import text_of
from surgery._trees.text import NotPlain
from surgery._trees.walk import Irregular
from tests.core.strategies import is_same, trees


@contextmanager
def without_short_ways() -> Iterator[None]:
    with (
        patch("surgery._verbs.tree.flatten_text", return_value=None),
        patch("surgery._verbs.partition.Division", side_effect=Irregular),
        patch("surgery._plans.graft.Overlay", side_effect=Irregular),
        patch("surgery._verbs.tree.nest_text", side_effect=NotPlain),
    ):
        yield


def outcome(verb: Callable[[], Any]) -> Any:
    """Return what a verb returns, or the text of its error."""
    try:
        return verb()
    except sg.SurgeryError as error:
        return f"{type(error).__name__}: {error}"


def both(verb: Callable[[], Any]) -> tuple[Any, Any]:
    with without_short_ways():
        general = outcome(verb)
    return outcome(verb), general


def agree(verb: Callable[[], Any]) -> bool:
    """Whether both ways give the same containers with the same leaf objects, or the same error."""
    short, general = both(verb)
    return short == general if isinstance(general, str) else is_same(short, general)


@st.composite
def patterns(draw: Any, tree: Any) -> Any:
    """Return a where-rule that may match something in the tree: a path, a glob, or a predicate."""
    path = draw(st.sampled_from([*sg.paths(tree), ("no", "such")]))
    kind = draw(st.sampled_from(["path", "glob", "deep", "all", "predicate", "twice"]))
    if kind == "path":
        return path
    if kind == "predicate":
        return lambda where, leaf: len(where) == len(path)
    if kind == "twice":
        return "{a}/**/{a}"
    if kind == "all":
        return "**"
    texts = [text_of((key,)) for key in path]
    if kind == "deep":
        return "/".join(["**", *texts[-1:]])
    stars = draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    return "/".join("*" if star else text for star, text in zip(stars, texts, strict=True))


@st.composite
def trees_with_rules(draw: Any) -> tuple[Any, list[tuple[Any, str]]]:
    tree = draw(trees())
    wheres = draw(st.lists(patterns(tree), max_size=4))
    rules = [(where, draw(st.sampled_from("abc"))) for where in wheres]
    return tree, [*rules, *([("**", "rest")] if draw(st.booleans()) else [])]


@given(trees_with_rules())
def test_labels_are_those_of_the_general_way(drawn: tuple[Any, Any]) -> None:
    tree, rules = drawn
    assert agree(lambda: sg.label(tree, rules))


@given(trees_with_rules())
def test_parts_are_those_of_the_general_way(drawn: tuple[Any, Any]) -> None:
    tree, rules = drawn
    assert agree(lambda: sg.partition(tree, rules))


@given(trees(), st.data())
def test_grafts_are_those_of_the_general_way(tree: Any, data: Any) -> None:
    flat = sg.flatten(tree)
    chosen = data.draw(st.sets(st.sampled_from([*flat])) if flat else st.just(set()))
    change = data.draw(st.sampled_from(["values", "shape", "one more"]))

    def new(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        return np.zeros((7, *leaf.shape), leaf.dtype) if change == "shape" else leaf.copy()

    donor: dict[Any, Any] = sg.Flat({path: new(flat[path]) for path in flat if path in chosen})
    if change == "one more" and () not in donor:
        donor[("one", "more")] = np.zeros(1)
    short, general = both(lambda: sg.graft(tree, sg.unflatten(donor), missing="keep-target"))
    if isinstance(general, str):
        assert short == general
    else:
        assert is_same(short[0], general[0]) and str(short[1]) == str(general[1])


@given(trees(), st.sampled_from("/."))
def test_text_keys_are_those_of_the_general_way(tree: Any, sep: str) -> None:
    assert agree(lambda: dict(sg.flatten(tree, sep=sep)))
    texts = dict(sg.flatten(tree, sep=sep))
    assert agree(lambda: sg.unflatten(texts, sep=sep))
