"""The pattern language: what matches, what is captured, what is filled in, and what does not parse."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from surgery._paths.automaton import NONE, Matcher
from surgery._paths.path import text_of
from surgery._paths.pattern import Keys, parse_pattern
from tests.core.strategies import ODD_KEYS, Label

KEYS = st.sampled_from(
    ["w", "b", "layer_0", "layer_12", "0", "12", "q", "k", "x_q_1", "", 0, 12, Label.TRAIN]
)
PATHS = st.lists(KEYS | st.sampled_from(ODD_KEYS), max_size=5).map(tuple)
SEGMENTS = st.sampled_from(
    r"w * ** layer_* *_* {i} {i:int} {rest:**} layer_{i:int} {q|k|v} x_{q|k}_{n:int}".split()
    + r'0 [0] [12] [{i:int}] [*] "" {p=w|b} w* {j}_{k}'.split()
)
PATTERNS = st.lists(SEGMENTS, max_size=4).map("/".join).filter(lambda text: "/" in text or text != "")


def regex_of(pattern: str) -> re.Pattern[str]:
    """A second opinion for patterns of `*`, `**` and plain keys: one regular expression over joined keys."""
    out = ""
    for part in pattern.split("/"):
        out += "(?:/[^/]+)*" if part == "**" else "/" + re.escape(part).replace(r"\*", "[^/]*")
    return re.compile(out)


PLAIN = st.sampled_from(["a", "b", "ab", "aab"])


@given(
    st.lists(st.sampled_from(["a", "b", "a*", "*b", "*", "**", "a*b"]), min_size=1, max_size=5).map("/".join),
    st.lists(PLAIN, min_size=1, max_size=5).map(tuple),
)
def test_globs_match_what_a_regular_expression_over_the_joined_keys_matches(pattern: str, path: Any) -> None:
    found = parse_pattern(pattern).match(path) is not None
    assert found == (regex_of(pattern).fullmatch("/" + "/".join(path)) is not None)


@given(st.lists(PATTERNS, min_size=1, max_size=6), st.lists(PATHS, min_size=1, max_size=8))
def test_many_patterns_at_once_find_what_each_finds_alone(patterns: list[str], paths: list[Any]) -> None:
    rules = Matcher(patterns)
    for path in paths * 2:  # the second time through the remembered steps
        alone = [n for n, text in enumerate(patterns) if parse_pattern(text).match(path) is not None]
        assert [*rules.all(path, None)] == [*rules.of_place(path)] == alone
        assert rules.first(path, None) == (alone[0] if alone else NONE)


@given(PATTERNS, PATHS)
def test_what_a_pattern_captures_fills_it_to_the_same_path(text: str, path: Any) -> None:
    pattern = parse_pattern(text)
    captures = pattern.match(path)
    if captures is not None:
        filled = pattern.fill(captures)
        assert list(map(str, filled)) == list(map(str, path))
        assert pattern.match(filled) is not None


@pytest.mark.parametrize(
    ("pattern", "path", "captures"),
    [
        ("h.{i:int}.w", ("h", "12", "w"), {"i": "12"}),
        ("h.{i:int}.w", ("h", 12, "w"), {"i": 12}),
        ("h.{i:int}.w", ("h", "012", "w"), None),
        ("h.{i:int}.w", ("h", "x", "w"), None),
        ("layer_{i:int}/w", ("layer_3", "w"), {"i": "3"}),
        ("{a}_{b}/w", ("x_y_z", "w"), {"a": "x", "b": "y_z"}),
        ("enc/{rest:**}", ("enc",), {"rest": Keys()}),
        ("enc/{rest:**}", ("enc", "a", 0), {"rest": Keys(("a", 0))}),
        ("**/w", ("w",), {"**0": Keys()}),
        ("**/w", ("a", "w", "w"), {"**0": Keys(("a", "w"))}),
        ("{q|k|v}.w", ("k", "w"), {"|0": 1}),
        ("{p=q|k|v}.w", ("v", "w"), {"p": 2}),
        ("attn_{q|kv|k}.w", ("attn_kv", "w"), {"|0": 1}),
        ("{i}/{i}", ("a", "a"), {"i": "a"}),
        ("{i}/{i}", ("a", "b"), None),
        ("{i}/{i}", (0, "0"), {"i": "0"}),
        ("h/{i+4}", ("h", "7"), {"i": "3"}),
        ("h/{i+4}", ("h", "3"), None),
        ("h/{i-4}", ("h", 3), {"i": 7}),
        ("0/w", (0, "w"), {}),
        ("0/w", ("0", "w"), {}),
        ("[0]/w", ("0", "w"), None),
        ("[{i:int}]/w", (5, "w"), {"i": 5}),
        ("[{i:int}]/w", ("5", "w"), None),
        ("{label}/mu", (Label.TRAIN, "mu"), {"label": Label.TRAIN}),
        ("*/mu", (Label.TRAIN, "mu"), {"*0": Label.TRAIN}),
        ("a*/mu", (Label.TRAIN, "mu"), None),
        ("a\\*/w", ("a*", "w"), {}),
        ("a\\*/w", ("ab", "w"), None),
        ('""/w', ("", "w"), {}),
        ("", (), {}),
        ("**", (), {"**0": Keys()}),
        ("mlp\\/~\\/linear/w", ("mlp/~/linear", "w"), {}),
        ("encoder/layer.0/w", ("encoder", "layer.0", "w"), {}),
        ("{a\\|b|c}/w", ("a|b", "w"), {"|0": 0}),
    ],
)
def test_a_pattern_captures(pattern: str, path: Any, captures: Any) -> None:
    found = parse_pattern(pattern).match(path)
    assert found == captures
    if captures is not None:
        assert found is not None and [type(found[name]) for name in captures] == [
            *map(type, captures.values())
        ]


@pytest.mark.parametrize(
    ("pattern", "values", "path"),
    [
        ("blocks/{i+4}/w", {"i": "3"}, ("blocks", "7", "w")),
        ("blocks/{i-3}/w", {"i": 3}, ("blocks", 0, "w")),
        ("blocks/layer_{i+1}/w", {"i": 3}, ("blocks", "layer_4", "w")),
        ("[{i:int}]/w", {"i": "3"}, (3, "w")),
        ("h/{i}/{rest:**}", {"i": 2, "rest": Keys(("a", "b"))}, ("h", 2, "a", "b")),
        ("attn/{query|key}/w", {"|0": 1}, ("attn", "key", "w")),
        ("{x}/w", {"x": ("a", "tuple")}, (("a", "tuple"), "w")),
    ],
)
def test_a_pattern_is_filled(pattern: str, values: Any, path: Any) -> None:
    filled = parse_pattern(pattern).fill(values)
    assert filled == path and [*map(type, filled)] == [*map(type, path)]


def test_the_text_of_an_odd_path_is_its_pattern_beside_all_other_odd_paths() -> None:
    odd = [key for key in ODD_KEYS if type(key) in (str, int)]
    for key, other in itertools.product(odd, odd):
        matches = parse_pattern(text_of(("a", key))).match(("a", other)) is not None
        assert matches == (str(key) == str(other) and not (type(key) is int and type(other) is str))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a/{", "a '{' without its '}'"),
        ("a/}", "a '}' without its '{'"),
        ("a/{b{c}}", "a '{' without its '}'"),
        ("a//b", 'an empty key is written ""'),
        ("/a", 'an empty key is written ""'),
        ("a/**b", "** stands alone between separators"),
        ("a/x{r:**}", "a capture of many keys, {name:**}, stands alone between separators"),
        ("[x]/a", "[x] is no int key; escape the bracket for a text key: \\["),
        ("[007]/a", "[007] is no int key; escape the bracket for a text key: \\["),
        ("a/{1x}", "{1x} is neither a name, {name:int}, {name:**}, {name+1} nor a choice {a|b}"),
        ("a/{}", "{} is neither a name, {name:int}, {name:**}, {name+1} nor a choice {a|b}"),
        ("a/{i:float}", "{i:float} is neither a name, {name:int}, {name:**}, {name+1} nor a choice {a|b}"),
        ("a/{q|q}", "the choice {q|q} offers the same twice"),
    ],
)
def test_a_pattern_that_does_not_parse_says_why(pattern: str, message: str) -> None:
    with pytest.raises(sg.RuleError) as error:
        parse_pattern(pattern)
    assert str(error.value) == f"the pattern '{pattern}' does not parse: {message}"


def test_a_number_below_zero_is_no_key() -> None:
    with pytest.raises(sg.RuleError) as error:
        parse_pattern("h/{i-4}").fill({"i": 3})
    assert str(error.value) == "'h/{i-4}' makes the key -1 of i = 3\n  hint: keys count from 0"


def test_counting_with_what_is_no_number_is_refused() -> None:
    with pytest.raises(sg.RuleError) as error:
        parse_pattern("h/{i+4}").fill({"i": "x"})
    assert str(error.value) == (
        "'h/{i+4}' counts with {i}, which is 'x' here\n  hint: capture it as a number: {i:int}"
    )


def test_many_keys_cannot_stand_inside_one() -> None:
    with pytest.raises(sg.RuleError) as error:
        parse_pattern("h/x_{rest}").fill({"rest": Keys(("a", "b"))})
    assert str(error.value) == "'h/x_{rest}' puts the many keys of {rest} inside one"


# --- matches --------------------------------------------------------------------------------------


def test_matches_gives_numbers_as_numbers_and_choices_as_text() -> None:
    tree = {"h": {"0": {"q": 1.0, "x": 2.0}, "10": {"k": 3.0}}}
    assert sg.matches(tree, "h/{i:int}/{p=q|k}") == {
        ("h", "0", "q"): {"i": 0, "p": "q"},
        ("h", "10", "k"): {"i": 10, "p": "k"},
    }


@pytest.mark.parametrize("where", ["re:enc/[wv]", ("enc", "w"), lambda path, leaf: leaf == 1.0])
def test_matches_takes_whatever_serves_as_a_pattern_elsewhere(where: Any) -> None:
    tree = {"enc": {"w": 1.0, "w2": 2.0}}
    assert sg.matches(tree, where) == {("enc", "w"): {}}


def test_matches_of_nothing_is_empty() -> None:
    assert sg.matches({"a": 1.0}, "b") == {}


@pytest.mark.parametrize("pattern", ["backbone/**", "backbone.**"])
@pytest.mark.parametrize("tree", [{"backbone": {"w": 1.0}}, {"backbone.w": 1.0}])
def test_one_pattern_serves_dots_and_slashes_on_any_tree(pattern: str, tree: Any) -> None:
    assert list(sg.matches(tree, pattern)) == [("backbone", "w")]


def test_a_variable_in_two_keys_must_be_the_same_in_every_verb() -> None:
    tree = {"a": {"a": 1.0, "b": 2.0}}
    assert sg.label(tree, [("{i}/{i}", "twice"), ("**", "else")]) == {"a": {"a": "twice", "b": "else"}}
    assert sg.select(tree, "{i}/{i}") == {"a": {"a": 1.0}}
    assert sg.map_with_path(lambda path, leaf: 0.0, tree, where="{i}/{i}") == {"a": {"a": 0.0, "b": 2.0}}


TWINS = {"h": {0: 1.0, "0": 2.0}}


@pytest.mark.parametrize(
    "use",
    [
        lambda tree: sg.label(tree, [("h/0", "x")], default="y"),
        lambda tree: sg.partition(tree, [("h/0", "x")], default="y"),
        lambda tree: sg.select(tree, "h/0"),
        lambda tree: sg.drop(tree, "h/0"),
        lambda tree: sg.map_with_path(lambda path, leaf: leaf, tree, where="h/0"),
        lambda tree: sg.rename(tree, [("h/0", "h/first")]),
        lambda tree: sg.graft(tree, tree, missing=[("h/0", "drop")]),
    ],
)
def test_a_bare_number_beside_int_and_text_of_that_name_is_refused(use: Any) -> None:
    with pytest.raises(sg.RuleError) as error:
        use(TWINS)
    assert "'h/0' matches both the int 0 and the string \"0\" at 'h'" in str(error.value)
    assert "hint: write [0] for the int, or give the path as a tuple" in str(error.value)


def test_brackets_and_path_tuples_tell_an_int_from_its_text() -> None:
    assert sg.select(TWINS, "h/[0]") == {"h": {0: 1.0}}
    assert sg.select(TWINS, ("h", 0)) == {"h": {0: 1.0}}
    assert sg.select(TWINS, ("h", "0")) == {"h": {"0": 2.0}}


def test_a_predicate_is_not_asked_about_places_without_a_leaf() -> None:
    tree = {"a": {"w": 1.0, "b": None}, "c": {}}
    assert sg.select(tree, lambda path, leaf: leaf > 0) == {"a": {"w": 1.0}}
    renamed = sg.rename(tree, [(lambda path, leaf: leaf.dtype == "float64", "new/**")])
    assert renamed == {"new": {"a": {"w": 1.0}}, "a": {"b": None}, "c": {}}


def test_a_regular_expression_hits_places_without_a_leaf_as_a_pattern_does() -> None:
    tree = {"a": {"w": 1.0, "b": None}, "c": {"w": 1.0, "d": {}}}
    assert sg.drop(tree, "re:c/.*") == sg.drop(tree, "c/**") == {"a": {"w": 1.0, "b": None}}


def test_a_regular_expression_is_held_against_the_whole_text_form() -> None:
    tree = {"enc": {"w": 1.0, "w2": 2.0}}
    assert sg.select(tree, r"re:enc\.w") == sg.select(tree, "re:enc/w") == {"enc": {"w": 1.0}}
