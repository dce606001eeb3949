"""label and partition: one value per leaf, every leaf and every rule accounted for."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from tests.core.strategies import Frozen, Pair, is_same, trees

TREE = {"backbone": {"w": 1.0, "b": 2.0}, "head": {"w": 3.0, "b": 4.0}, "none": None, "empty": {}}


def assigned(tree: Any, data: Any) -> dict[Any, str]:
    """Return a value for each leaf object, so that the names of one leaf get the same."""
    ids = list(dict.fromkeys(id(leaf) for leaf in sg.flatten(tree).values()))
    return {one: data.draw(st.sampled_from("abc")) for one in ids}


@given(trees(), st.data())
def test_the_parts_of_a_tree_merge_to_the_tree_in_any_order(tree: Any, data: Any) -> None:
    value = assigned(tree, data)
    rules = [((lambda path, leaf, one=one: value[id(leaf)] == one), one) for one in sorted({*value.values()})]
    parts = sg.partition(tree, rules, default="rest")
    assert set(parts) == {*value.values(), "rest"}
    assert is_same(sg.merge(*parts.values()), tree)
    assert is_same(sg.merge(*data.draw(st.permutations(list(parts.values())))), tree)


@given(trees(), st.data())
def test_each_leaf_is_in_the_part_that_its_label_names_and_in_no_other(tree: Any, data: Any) -> None:
    value = assigned(tree, data)
    rules = [(lambda path, leaf: value[id(leaf)] == "a", "a")] if "a" in value.values() else []
    labels = sg.flatten(sg.label(tree, rules, default="other"))
    assert list(labels) == sg.paths(tree)
    for name, part in sg.partition(tree, rules, default="other").items():
        assert sg.paths(part) == [path for path, label in labels.items() if label == name]


@given(trees())
def test_labels_stand_in_the_containers_of_the_tree(tree: Any) -> None:
    labels = sg.label(tree, [], default="x")
    assert sg.paths(labels) == sg.paths(tree)
    back = sg.unflatten(dict(sg.flatten(tree)), like=labels)
    assert is_same(back, tree)


@pytest.mark.parametrize(
    "rules",
    [
        [("backbone/**", "frozen"), ("**", "train")],
        [("backbone.**", "frozen"), ("**", "train")],
        {"backbone/**": "frozen", "**": "train"},
        [("re:backbone/.*", "frozen"), (lambda path, leaf: leaf > 2, "train")],
        [(("backbone", "w"), "frozen"), ("backbone/b", "frozen"), ("head/{w|b}", "train")],
    ],
)
def test_one_rule_list_says_the_same_in_every_spelling(rules: Any) -> None:
    assert sg.label(TREE, rules) == {
        "backbone": {"w": "frozen", "b": "frozen"},
        "head": {"w": "train", "b": "train"},
        "none": None,
        "empty": {},
    }


def test_the_first_rule_that_matches_decides() -> None:
    assert sg.label({"a": {"w": 1, "b": 2}}, [("**/b", 0), ("a/**", 1), ("x?", 2)]) == {"a": {"w": 1, "b": 0}}


def test_a_label_may_be_anything_and_is_the_object_itself() -> None:
    value = ["not", "hashable"]
    assert sg.label({"a": 1}, [("a", value)])["a"] is value


def test_holes_stand_in_every_container_and_mappings_keep_their_order() -> None:
    tree = OrderedDict(z=[1, 2], a=Pair(3, Frozen(4)))
    parts = sg.partition(tree, [("z/1", "one"), ("**", "rest")])
    hole = sg.Missing()
    one, rest = parts["one"], parts["rest"]
    assert one["z"] == [hole, 2] and one["a"].left == hole and type(one["a"].right) is Frozen
    assert one["a"].right.weight == hole and one["a"].right.bias is None
    assert rest["z"] == [1, hole] and list(one) == list(rest) == ["z", "a"] and type(one) is OrderedDict


def test_joined_names_are_parted_by_their_keys() -> None:
    tree = {"enc.0.weight": 1, "enc.0.bias": 2, "head.weight": 3}
    parts = sg.partition(tree, [("enc.**", "enc"), ("**", "rest")])
    assert parts["enc"] == {"enc.0.weight": 1, "enc.0.bias": 2, "head.weight": sg.Missing()}


def test_a_value_that_no_leaf_gets_is_an_empty_part() -> None:
    assert sg.partition({"a": 1}, [("**", "x")], default="y")["y"] == {"a": sg.Missing()}
    assert sg.partition({}, [], default="y") == {"y": {}}
    assert sg.partition(1.0, [("**", "x")], default="y") == {"x": 1.0, "y": sg.Missing()}


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [sg.label, sg.partition])
def test_a_leaf_without_a_rule_and_a_rule_without_a_leaf_are_errors(verb: Any) -> None:
    with pytest.raises(sg.RuleError) as error:
        verb(TREE, [("backbone/**", "x")])
    assert [problem.path for problem in error.value.problems] == ["head/w", "head/b"]
    assert (
        "no rule matches a leaf at 'head/w'\n    hint: add a rule for it, a last rule ('**', value)"
        in str(error.value)
    )
    with pytest.raises(sg.RuleError, match=f"{verb.__name__}: 'hed/\\*\\*' matches none of 4 leaves"):
        verb(TREE, [("hed/**", "x"), ("**", "y")])
    with pytest.raises(sg.RuleError) as error:
        verb(TREE, [("backbone/**", "x"), ("haed/**", "y")])
    assert [(problem.message, problem.path) for problem in error.value.problems] == [
        ("'haed/**' matches none of 4 leaves", None),
        ("no rule matches a leaf", "head/w"),
        ("no rule matches a leaf", "head/b"),
    ]
    with pytest.raises(sg.RuleError, match=r"\('a', 'b', 'c'\) is no where-rule"):
        verb(TREE, [("a", "b", "c")])


def test_a_value_that_cannot_name_a_part_is_refused() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.partition(TREE, [("**", ["x"])])
    assert str(error.value) == (
        "partition: ['x'] cannot name a part: it is not hashable\n"
        "  hint: a text, a number, a tuple; label(tree, rules) takes any value"
    )


@pytest.mark.parametrize("verb", [sg.label, sg.partition])
def test_the_names_of_one_tensor_get_one_value(verb: Any) -> None:
    w = np.ones(2)
    with pytest.raises(sg.RuleError) as error:
        verb({"wte": w, "head": w}, [("wte", "frozen"), ("head", "train")])
    assert str(error.value) == (
        f"{verb.__name__}: one tensor under two names is treated in two ways at 'head'\n"
        "  expected  'frozen', as 'wte'\n"
        "  found     'train'\n"
        "  hint: treat both alike, or separate them first: "
        "transform(tree, [('head', 'head', ops.untie())])"
    )


# --- large and deep --------------------------------------------------------------------------------


def test_100_000_leaves_are_parted_and_merged() -> None:
    tree = {f"l{n}": {f"w{k}": float(1000 * n + k) for k in range(100)} for n in range(1000)}
    parts = sg.partition(tree, [("*/w7", "seven"), ("**", "rest")])
    assert len(sg.paths(parts["seven"])) == 1000 and sg.merge(*parts.values()) == tree


def test_a_tree_deeper_than_the_recursion_limit_is_parted_and_merged() -> None:
    deep: Any = {"w": 1.0, "b": 2.0}
    for _ in range(sys.getrecursionlimit() + 500):
        deep = {"d": deep}
    parts = sg.partition(deep, [("**.w", "w"), ("**", "rest")])
    assert sg.flatten(sg.merge(*parts.values())) == sg.flatten(deep)
    assert next(iter(sg.flatten(sg.label(deep, [("**", "x")])).values())) == "x"
