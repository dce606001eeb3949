"""Paths and their text: no two paths print alike, and every text reads back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import surgery as sg
from surgery._paths.path import natural_key, parse_path, split_text, text_of
from surgery._paths.pattern import parse_pattern
from tests.core.strategies import ODD_KEYS, Label, paths

SEPS = st.sampled_from(["/", "."])


@given(paths(), SEPS)
def test_a_text_reads_back_as_its_path(path: Any, sep: str) -> None:
    again = parse_path(text_of(path, sep), sep)
    assert again == path and list(map(type, again)) == list(map(type, path))


@given(paths(), SEPS)
def test_a_text_decides_its_own_separator(path: Any, sep: str) -> None:
    assert parse_path(text_of(path, sep)) == path


@given(paths(readable=False), paths(readable=False), SEPS, SEPS)
def test_two_different_paths_never_print_alike(a: Any, b: Any, sep: str, other: str) -> None:
    assume((a, [*map(type, a)]) != (b, [*map(type, b)]))
    assert text_of(a, sep) != text_of(b, sep)
    if {type(key) for key in (*a, *b)} <= {str, int}:
        assert text_of(a, sep) != text_of(b, other) or len(a) < 2


@given(paths(), SEPS)
def test_the_text_of_a_path_is_a_pattern_that_matches_it_and_nothing_else(path: Any, sep: str) -> None:
    pattern = parse_pattern(text_of(path, sep))
    assert not pattern.optional and pattern.is_path
    assert pattern.match(path) == {}
    if not any(type(key) is str and key.isdecimal() for key in path):
        assert pattern.fill({}) == path


@given(paths(), paths())
def test_the_text_of_one_path_matches_no_other(path: Any, other: Any) -> None:
    assume([str(key) for key in path] != [str(key) for key in other])
    assert parse_pattern(text_of(path)).match(other) is None


@pytest.mark.parametrize("key", ODD_KEYS, ids=repr)
def test_no_odd_key_prints_like_another(key: Any) -> None:
    twins = [
        other
        for other in ODD_KEYS
        if (type(other) is not type(key) or other != key) and text_of((other,)) == text_of((key,))
    ]
    assert not twins


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("",), '""'),
        (("layers", 0, "w"), "layers/[0]/w"),
        (("layers", "0", "w"), "layers/0/w"),
        (("layers", -1), "layers/[-1]"),
        (("a/b", "c.d"), "a\\/b/c.d"),
        (("c.d",), "c\\.d"),
        (("[0]",), "\\[0]"),
        (("a[0]", "b"), "a[0]/b"),
        (("*", "{i}"), "\\*/\\{i\\}"),
        (("re:x", "y?"), "\\re:x/y\\?"),
        (("a\\b",), "a\\\\b"),
        ((Label.FROZEN, "w"), "<<Label.FROZEN: 'frozen'>>/w"),
        ((("a", 0), "w"), "<('a', 0)>/w"),
        ((True, "w"), "<True>/w"),
    ],
)
def test_the_text_of_a_path_is(path: Any, text: str) -> None:
    assert text_of(path) == text


def test_with_dots_a_slash_inside_a_key_is_escaped_too() -> None:
    assert text_of(("mlp/~/x", "a.b"), ".") == "mlp\\/~\\/x.a\\.b"


def test_a_slash_inside_braces_does_not_decide_the_separator() -> None:
    assert split_text("h.{a/b|c}.w") == (".", ["h", "{a/b|c}", "w"])


def test_natural_order_counts_and_never_fails_on_mixed_keys() -> None:
    keys = ["layer_10", "layer_2", 3, "x", 10, Label.TRAIN, ("t",), "", "1", 1]
    found = sorted([(key,) for key in keys], key=natural_key)
    texts = [key for (key,) in found if type(key) in (str, int)]
    assert texts == ["", "1", 1, 3, 10, "layer_2", "layer_10", "x"]


@given(st.lists(paths(readable=False), max_size=6))
def test_natural_order_is_an_order_on_any_paths(found: list[Any]) -> None:
    assert sorted(sorted(found, key=natural_key), key=natural_key) == sorted(found, key=natural_key)


def test_a_key_that_cannot_be_read_back_says_so() -> None:
    with pytest.raises(sg.PathError) as error:
        parse_path("a/<Label.TRAIN>")
    assert str(error.value) == (
        "<Label.TRAIN> in 'a/<Label.TRAIN>' cannot be read back\n  hint: give the path as a tuple of keys"
    )


def test_an_empty_key_must_be_written() -> None:
    with pytest.raises(sg.PathError) as error:
        parse_path("a//b")
    assert str(error.value) == "an empty key in 'a//b'\n  hint: write an empty key as \"\""


@pytest.mark.parametrize("text", ["a/*", "a/{i}", "[x]/a", "a/}"])
def test_a_pattern_is_no_path(text: str) -> None:
    with pytest.raises(sg.PathError) as error:
        parse_path(text)
    assert str(error.value) == (
        f"'{text}' is a pattern, not a path\n  hint: escape with \\, or use a verb that takes patterns"
    )
