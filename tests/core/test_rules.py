"""Edit rules: what their variables mean, and every way to write them wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import surgery as sg
from surgery import ops


def grid(*shape: int, add: float = 0.0) -> np.ndarray[Any, Any]:
    return np.arange(float(np.prod(shape))).reshape(shape) + add


def names(tree: Any) -> list[str]:
    return list(sg.flatten(tree, sep="/"))


TREE = {
    "h": {str(n): {"attn": {"w": grid(4, 2, add=n)}, "b": grid(2, add=n)} for n in range(3)},
    "wte": grid(4, 2),
    "head": {"w": grid(2)},
}


# --- what stands on both sides, on the left, on the right -------------------------------------------


@pytest.mark.parametrize(
    ("rules", "made"),
    [
        ([("h.{i}.attn.w", "l{i}/kernel")], ["l0/kernel", "l2/kernel"]),
        ([("h.{i:int}.{rest:**}", "h.{i+10}.{rest}")], ["h/10/attn/w", "h/12/b"]),
        ([("h.*.**", "layers.*.**")], ["layers/0/attn/w", "layers/2/b"]),
        ([("**.{w|b}", "**.{kernel|bias}")], ["h/0/attn/kernel", "h/1/bias", "head/kernel"]),
        ([("{p=wte|head}?", "{p=embed|top}")], ["embed"]),
        ([("re:h/.*/b", "moved/**")], ["moved/h/0/b", "moved/h/2/b"]),
        ([(lambda path, leaf: leaf.shape == (2,), "small/**")], ["small/h/1/b", "small/head/w"]),
        ([(("head", "w"), ("top", 0, "w"))], ["top/[0]/w"]),
    ],
)
def test_what_stands_on_both_sides_stays_together(rules: Any, made: list[str]) -> None:
    assert set(made) <= set(names(sg.transform(TREE, rules)))


def test_the_first_rule_that_matches_takes_the_leaf() -> None:
    out = sg.rename(TREE, [("h.0.b", "first"), ("h.*.b", "b.*")])
    assert names(out)[:1] == ["h/0/attn/w"] and {"first", "b/1", "b/2"} <= set(names(out))


def test_captures_on_the_left_are_collected_in_numeric_order_choices_as_written() -> None:
    tree = {f"l{n}": grid(1, add=n) for n in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)}
    assert sg.transform(tree, [("l{i:int}", "l", ops.concat())])["l"].tolist() == list(range(11))
    swapped = sg.transform(TREE, [("h.{2|0|1}.b", "b", ops.stack())])["b"]
    assert swapped[:, 0].tolist() == [2, 0, 1]


def test_numbering_may_begin_anywhere_but_has_no_gap() -> None:
    tree = {"h": {str(n): grid(1, add=n) for n in (3, 4, 5)}}
    assert sg.transform(tree, [("h.{i:int}", "h", ops.concat())])["h"].tolist() == [3, 4, 5]
    del tree["h"]["4"]
    with pytest.raises(sg.RuleError) as error:
        sg.transform(tree, [("h.{i:int}", "h", ops.concat())])
    assert str(error.value).splitlines()[1:] == [
        "  found     no leaf for i = 4",
        "  hint: every combination must be there; drop or rename the odd ones by an earlier rule",
    ]


def test_two_captures_are_collected_the_inner_one_first() -> None:
    tree = {"e": {str(i): {str(j): grid(1, add=10 * i + j) for j in range(2)} for i in range(3)}}
    out = sg.transform(tree, [("e.{i:int}.{j:int}", "e", ops.concat(), ops.stack())])["e"]
    assert out.tolist() == [[0, 1], [10, 11], [20, 21]]
    turned = sg.transform(tree, [("e.{i:int}.{j:int}", "e", ops.concat(over="i"), ops.stack(over="j"))])["e"]
    assert turned.tolist() == [[0, 10, 20], [1, 11, 21]]


def test_what_is_only_on_the_right_is_expanded_and_counted_from_zero() -> None:
    tree = {"w": grid(3, 2)}
    assert names(sg.transform(tree, [("w", "l{i:int}/w", ops.unstack())])) == ["l0/w", "l1/w", "l2/w"]
    both = sg.transform(tree, [("w", "{a|b}/{i}", ops.split(axis=1), ops.unstack())])
    assert names(both) == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"] and both["b"]["2"].tolist() == [5]


def test_one_source_may_go_to_two_places_and_one_target_may_come_from_two() -> None:
    out = sg.transform(TREE, [("wte", ["wte", "head/w2"])])
    assert out["wte"] is TREE["wte"] and out["head"]["w2"] is not TREE["wte"]
    assert sg.equal(out["head"]["w2"], TREE["wte"])
    both = sg.transform(TREE, [(["h.1.b", "h.0.b"], "b", ops.stack())])
    assert both["b"][:, 0].tolist() == [1, 0]


def test_places_can_be_swapped_and_rotated() -> None:
    tree = {"a": 1, "b": 2, "c": 3}
    assert sg.rename(tree, [("{a|b|c}", "{b|c|a}")]) == {"b": 1, "c": 2, "a": 3}


def test_a_new_digit_key_takes_the_type_that_the_tree_has_there() -> None:
    tree = {"layers": {0: {"w": 1.0}, 1: {"w": 2.0}}, "extra": {"w": 3.0}}
    assert list(sg.rename(tree, [("extra.w", "layers.2.w")])["layers"]) == [0, 1, 2]
    tree = {"layers": {"0": {"w": 1.0}}, "extra": {"w": 3.0}}
    assert list(sg.rename(tree, [("extra.w", "layers.1.w")])["layers"]) == ["0", "1"]


def test_a_rule_to_none_drops_and_one_from_none_makes() -> None:
    out = sg.transform(TREE, [("h.**", None), (None, "bias", ops.new([2], init="ones"))])
    assert names(out) == ["wte", "head/w", "bias"] and out["bias"].tolist() == [1, 1]


# --- optional, expect, when ------------------------------------------------------------------------


def test_an_optional_rule_may_match_nothing() -> None:
    for rule in (("nothing?", "x"), sg.Rule("nothing", "x", optional=True)):
        assert names(sg.rename(TREE, [rule])) == names(TREE)
    assert "x" in names(sg.rename(TREE, [("wte?", "x")]))


def test_expect_counts_the_leaves_that_a_rule_takes() -> None:
    assert "h/0/bias" in names(sg.rename(TREE, [sg.Rule("h.*.b", "h.*.bias", expect=3)]))
    for rules, found in (
        ([sg.Rule("h.*.b", "h.*.bias", expect=2)], "3"),
        ([("h.0.b", "x"), sg.Rule("h.*.b", "h.*.bias", expect=3)], "2"),
        ([sg.Rule("nope?", "x", expect=1)], "0"),
    ):
        with pytest.raises(sg.RuleError) as error:
            sg.rename(TREE, rules)
        assert "takes another number of leaves" in str(error.value) and f"found     {found}" in str(
            error.value
        )


def test_a_rule_with_a_condition_counts_only_where_a_leaf_meets_it() -> None:
    rule = sg.Rule("wte", "embed", when="head.w")
    assert "embed" in names(sg.rename(TREE, [rule]))
    assert "wte" in names(sg.rename(sg.drop(TREE, "head.w"), [rule]))


# --- ties ------------------------------------------------------------------------------------------


def tied() -> dict[str, Any]:
    w = grid(4, 2)
    return {"wte": w, "head": w, "b": grid(2)}


def test_the_names_of_one_tensor_move_together_and_stay_one() -> None:
    out = sg.transform(tied(), [("{wte|head}", "{embed|out}", ops.transpose())])
    assert out["embed"] is out["out"] and out["embed"].shape == (2, 4)


def test_one_tensor_cannot_be_treated_in_two_ways() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.transform(tied(), [("wte", "wte", ops.transpose())])
    assert str(error.value) == (
        "transform: one tensor under two names is treated in two ways at 'head'\n"
        "  expected  as 'wte' is\n"
        "  hint: use the same ops for both, drop one of the names, or put untie() first among its ops"
    )
    out = sg.transform(tied(), [("head", "head", ops.untie(), ops.transpose())])
    assert out["head"].shape == (2, 4) and out["wte"].shape == (4, 2)


def test_a_name_may_be_dropped_and_the_tensor_stays_and_back() -> None:
    tree = tied()
    plan = sg.plan([("head", None)], tree)
    assert plan.lost == {} and set(plan.apply(tree)) == {"wte", "b"}
    back = plan.inverse().apply(plan.apply(tree))
    assert back["head"] is back["wte"]


def test_tie_drops_an_equal_copy_and_makes_the_alias_again_on_the_way_back() -> None:
    tree = {"wte": grid(4, 2), "head": grid(4, 2)}
    plan = sg.plan([("head", None, ops.tie("wte"))], tree)
    out = plan.apply(tree)
    assert set(out) == {"wte"} and plan.lost == {}
    back = plan.inverse().apply(out)
    assert back["head"] is back["wte"]
    with pytest.raises(sg.SpecError) as error:
        plan.apply({"wte": grid(4, 2), "head": grid(4, 2, add=1)})
    assert str(error.value) == (
        "apply: it is to be an alias of 'wte', but holds something else at 'head'\n"
        "  hint: the two are not tied here: give this one a place of its own"
    )


def test_a_rule_without_a_source_may_make_an_alias() -> None:
    out = sg.transform({"wte": grid(4, 2)}, [(None, "head", ops.tie("wte"))])
    assert out["head"] is out["wte"]
    with pytest.raises(sg.StructureError, match="'nothing' is not there to be tied to at 'head'"):
        sg.transform({"wte": grid(4, 2)}, [(None, "head", ops.tie("nothing"))])


# --- what is refused -------------------------------------------------------------------------------

T, S = ops.transpose(), ops.stack()
WRITTEN = "a rule is (source, target, *ops): ('h.{i}.w', 'layers/{i}/w', ops.transpose())"


@pytest.mark.parametrize(
    ("rule", "message", "hint"),
    [
        (None, "None is no edit rule", WRITTEN),
        (("wte",), "('wte',) is no edit rule", WRITTEN),
        (("wte", "x", "transpose"), "('wte', 'x', 'transpose') is no edit rule", WRITTEN),
        ((None, None), "has neither a source nor a target", None),
        (
            (None, "x"),
            "has no source and nothing that makes the leaf",
            "begin its ops with new(...), or tie(...)",
        ),
        (
            ("wte", "x", ops.new([2])),
            "has a source, and new(shape=[2]) which makes a leaf of none",
            "of new is None",
        ),
        (("wte", "x", ops.drop()), "has a target, and drop", "the target of a rule that drops is None"),
        (("wte", None, T), "drops what its ops make", "give it a target"),
        ((["wte", "head.w"], ["a", "b"]), "has as many targets as sources", "pair them with choices"),
        (("h.*.b", "b", S), "has a * only on the left", "name it: {name}, or {name:**}"),
        (("wte", "x/*"), "has a * only on the right", "name it: {name}, or {name:**}"),
        (
            ("re:wte", "x"),
            "takes whole paths by a predicate or a regular expression",
            "write ** into the target",
        ),
        (("wte", "re:x"), "has a target that is no pattern", "a target is a pattern or a path"),
        (
            ("wte", lambda path, leaf: True),
            "has a target that is no pattern",
            "a target is a pattern or a path",
        ),
        ((None, "x/{i}", ops.new([2])), "makes leaves for i, which nothing names", "write one rule per leaf"),
        (("{q|k}", "{a|b|c}"), "pairs {q|k} with {a|b|c}", "choices in the same position pair up"),
        ((["h.{i}.b", "wte"], "x", S), "lists patterns with different variables", "the same {names}"),
        (("h.{i}.b", "b"), "no op collects {i}", "add stack(axis) or concat(axis)"),
        (("wte", "x/{i}"), "no op expands {i}", "add unstack(axis) or split(...)"),
        (("wte", "x", S), "stack() has no variable to collect", "stands only on the left"),
        (("wte", "x", ops.split()), "split() has no variable to expand", "stands only on the right"),
        (
            ("h.{i}.b", "b", ops.stack(over="j")),
            "stack(over='j') has no variable to collect called j",
            "left",
        ),
        (("wte", "{q|k}", ops.unstack()), "unstack() gives 4 tensors for the choice", None),
        (
            ("wte", "{a|b|c}", ops.split()),
            "split cannot cut 4 into 3 equal parts",
            "give the size of each part",
        ),
        ((["wte", "head.w"], "x", S), "stack() needs equal shapes and dtypes at 'wte'", None),
        (("nope", "x"), "rule 1: 'nope' matches none of 8 leaves", "the first leaf is 'h/0/attn/w'"),
        (("wte", "h.0.b"), "two sources go to one place at 'h/0/b'", "rename one of the two"),
        (("wte", "h"), "one place is to be both a leaf and a container at 'h'", "rename one of the two"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_a_way_out(rule: Any, message: str, hint: str | None) -> None:
    with pytest.raises(sg.SurgeryError) as error:
        sg.plan([rule], TREE)
    text = str(error.value)
    assert text.startswith("plan: ") and message in text
    if hint is not None:
        assert hint in text.split("hint: ", 1)[1]
    assert len(error.value.problems) == 1


def test_a_rule_that_an_earlier_one_leaves_nothing_says_which() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.rename(TREE, [("h.*.b", "b.*"), ("h.0.b", "x")])
    assert str(error.value) == (
        "rename: rule 2 (Rule('h.0.b' -> 'x')) takes nothing: every leaf that it matches goes to "
        "rule 1 (Rule('h.*.b' -> 'b.*'))\n"
        "  hint: put the more special rule first, or mark it optional with a '?'"
    )


def test_all_problems_are_found_before_anything_is_raised() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.rename(TREE, [("nope", "x"), ("wte", "head.w"), ("neither", "y"), ("h.{i}.b", "b")])
    messages = [problem.message for problem in error.value.problems]
    assert messages == [
        "rule 1: 'nope' matches none of 8 leaves",
        "rule 3: 'neither' matches none of 8 leaves",
        "rule 4 (Rule('h.{i}.b' -> 'b')): no op collects {i}",
        "two sources go to one place",
    ]
    assert str(error.value).startswith("rename: 4 problems (8 leaves, 4 rules)\n")


def test_more_than_five_problems_are_counted() -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.rename(TREE, [(f"nope{n}", f"x{n}") for n in range(9)])
    assert str(error.value).splitlines()[-1] == "  ... and 4 more, all in `.problems` of this error"
    assert len(error.value.problems) == 9


def test_rest_says_what_becomes_of_leaves_without_a_rule() -> None:
    assert names(sg.rename(TREE, [("wte", "x")], rest="drop")) == ["x"]
    with pytest.raises(sg.RuleError) as error:
        sg.rename(TREE, [("h.**", "h.**")], rest="error")
    assert [problem.path for problem in error.value.problems] == ["wte", "head/w"]
    with pytest.raises(sg.RuleError, match="rest='maybe' is unknown"):
        sg.plan([("wte", "x")], TREE, rest="maybe")  # type: ignore[arg-type]


def test_a_rule_prints_as_it_was_written() -> None:
    rule = sg.Rule(["a", "b"], "c", ops.concat(1), expect=2)
    assert repr(rule) == "Rule(['a', 'b'] -> 'c', concat(axis=1))"
    assert repr(rule.with_(target=None, ops=())) == "Rule(['a', 'b'] -> None)"
    assert (
        rule == sg.Rule(["a", "b"], "c", ops.concat(1), expect=2) != sg.Rule(["a", "b"], "c", ops.concat(1))
    )
