"""Ops as values, cast and new, and what every op refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from surgery import ops
from surgery._arrays.numpy import NUMPY
from surgery._ops.base import OPS, op_of
from surgery._ops.structure import same
from tests.core.op_cases import ALL, MOVES, SHAPES, arrays_for, bits, boxes, cut, specs_of, takes
from tests.core.strategies import DTYPES, array_of

UNIFORM = [-0.03661901503801346, -0.810156524181366, 0.7180027365684509]
NORMAL = [1.168842077255249, -0.48976075649261475, 0.4551985561847687]

# --- cast ------------------------------------------------------------------------------------------

NUMBERS = [np.dtype(dtype).name for dtype in DTYPES]


@given(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.integers(0, 99))
def test_a_cast_that_has_an_inverse_comes_back_with_every_value(source: str, target: str, seed: int) -> None:
    x = array_of((2, 3), np.dtype(source), seed)
    if source.startswith("complex") and not target.startswith("complex"):
        return
    inverse = ops.cast(target).inverse(specs_of([x]))
    if inverse is None:
        assert ops.cast(target).loss(specs_of([x]))
        return
    (back,) = inverse.apply(ops.cast(target).apply([x], NUMPY), NUMPY)
    assert back.dtype == x.dtype
    if x.dtype.kind in "biu":
        assert bits(back) == bits(x)
    else:  # of a NaN, only that it is one: processors make signalling ones quiet
        with np.errstate(invalid="ignore"):
            nan = np.isnan(x)
            np.testing.assert_array_equal(np.isnan(back), nan)
        assert bits(back[~nan]) == bits(x[~nan])


def test_a_cast_to_complex_says_that_its_way_back_would_drop_something() -> None:
    plan = sg.plan([("w", "w", ops.cast("complex64"))], {"w": np.ones(2, np.float32)})
    assert plan.lost == {("w",): "c64 would have to drop its imaginary part to be f32 again"}
    kept = plan.remainder({"w": np.ones(2, np.float32)})
    back = plan.inverse().apply(plan.apply({"w": np.ones(2, np.float32)}), remainder=kept)
    assert back["w"].dtype == np.float32


def test_a_cast_to_the_dtype_that_is_there_gives_the_very_same_array() -> None:
    x = np.ones(3, np.float32)
    assert sg.transform({"w": x}, [("w", "w", ops.cast("float32"))])["w"] is x


# --- new -------------------------------------------------------------------------------------------


@given(st.sampled_from(["zeros", "ones", "normal", "uniform", "arange", 0.5]), SHAPES, st.data())
def test_any_box_of_a_new_leaf_is_that_box_of_the_whole(init: Any, shape: Any, data: Any) -> None:
    op = ops.new(shape, init=init, seed=7)
    whole = op.make("head/kernel")
    assert whole.shape == shape and whole.dtype == np.float32
    box = data.draw(boxes(shape))
    assert bits(op.make("head/kernel", box)) == bits(cut(whole, box))


def test_new_random_numbers_depend_on_seed_and_path_alone() -> None:
    op = ops.new([64, 32], init="normal", seed=3)
    assert bits(op.make("a/w")) == bits(ops.new([64, 32], init="normal", seed=3).make("a/w"))
    assert bits(op.make("a/w")) != bits(op.make("a/v"))
    assert bits(op.make("a/w")) != bits(ops.new([64, 32], init="normal", seed=4).make("a/w"))
    wide = ops.new([64, 32], dtype="float64", init="normal", seed=3).make("a/w")
    assert bits(op.make("a/w")) == bits(wide.astype(np.float32))


def test_new_random_numbers_are_the_numbers_they_have_always_been() -> None:
    """A recipe must give the same model years from now."""
    assert ops.new([3], init="uniform", seed=1).make("w").tolist() == pytest.approx(UNIFORM)
    assert ops.new([3], init="normal", seed=1).make("w").tolist() == pytest.approx(NORMAL)


def test_new_random_numbers_are_spread_as_they_should_be() -> None:
    normal = ops.new([200, 500], "float64", "normal", scale=0.02).make("w") / 0.02
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02 and abs((normal**3).mean()) < 0.05
    uniform = ops.new([200, 500], "float64", "uniform").make("w")
    assert uniform.min() >= -1 and uniform.max() <= 1 and abs(uniform.mean()) < 0.02
    assert abs(uniform.var() - 1 / 3) < 0.01
    assert abs(np.corrcoef(normal[:, :-1].ravel(), normal[:, 1:].ravel())[0, 1]) < 0.02


def test_new_arange_counts_along_the_last_axis() -> None:
    assert ops.new([2, 3], "int64", "arange").make("w").tolist() == [[0, 1, 2], [0, 1, 2]]


# --- as values -------------------------------------------------------------------------------------


@given(ALL)
def test_an_op_is_built_again_from_its_name_and_plain_parameters(drawn: Any) -> None:
    op, shapes = drawn
    again = op_of(op.name, json.loads(json.dumps(op.params())))
    assert again == op and hash(again) == hash(op) and repr(again) == repr(op)
    ins = [sg.TensorSpec(shape, "float32") for shape in shapes]
    assert again.infer(ins) == op.infer(ins)


@given(MOVES | takes())
def test_an_op_turned_round_without_its_shapes_is_its_inverse_where_it_can_be(drawn: Any) -> None:
    op, shapes = drawn
    xs = arrays_for(shapes, np.int8, 1)
    back = op.reverse()
    if back is None:
        assert isinstance(op, (ops.reshape, ops.take))
        return
    if isinstance(back, ops.split) and back.sizes is None:
        return  # how many parts, the rule says
    if isinstance(op, ops.rearrange):
        try:
            back.infer(specs_of(op.apply(xs, NUMPY)))
        except sg.SpecError:
            return  # a size that the other side gave
    assert list(map(bits, back.apply(op.apply(xs, NUMPY), NUMPY))) == list(map(bits, xs))


def test_every_op_that_users_see_is_known_to_recipes() -> None:
    named = {name for name in ops.__all__ if name != "Op"}
    assert named <= OPS.keys()
    assert OPS.keys() - named == {"copies", "same"}  # what rules imply


def test_copies_that_are_taken_for_one_must_be_equal() -> None:
    x = np.float32([1, np.nan])
    assert same().apply([x, x.copy()], NUMPY)[0] is x
    with pytest.raises(sg.SpecError, match="copies that are taken for one hold different numbers"):
        same().apply([x, np.float32([1, 2])], NUMPY)


# --- errors ----------------------------------------------------------------------------------------

X = sg.TensorSpec((4, 6), "float32")


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (
            lambda: ops.split(3),
            "split(3) has one size\n  hint: the size of each part: split([768, 768, 768])",
        ),
        (lambda: ops.split([-1, 5]), "split has a size below 0\n  found     [-1, 5]"),
        (lambda: ops.split(["2"]), "split takes a list of sizes\n  found     ['2']"),
        (
            lambda: ops.split([1, 2]).infer([X]),
            "split(sizes=[1, 2]) does not fit\n  expected  3 along axis 0\n  found     f32[4,6]",
        ),
        (
            lambda: ops.split().infer([X]),
            "split cannot cut 4 into ? equal parts\n  found     f32[4,6]\n"
            "  hint: give the size of each part: split([...])",
        ),
        (lambda: ops.transpose(0, 5).infer([X]), "transpose has no axis 5 to work on\n  found     2 axes"),
        (lambda: ops.stack("0").infer([X]), "stack takes a number for an axis\n  found     '0'"),
        (
            lambda: ops.permute_axes([0, 0]),
            "permute_axes([0, 0]) is no permutation\n  expected  each of 0..n-1 once",
        ),
        (
            lambda: ops.permute_axes([0]).infer([X]),
            "permute_axes(axes=[0]) is for 1 axes\n  found     shape [4, 6]",
        ),
        (
            lambda: ops.reshape([-1, -1]),
            "reshape([-1, -1]) is no shape\n  hint: sizes, of which one may be -1",
        ),
        (
            lambda: ops.reshape([5, 5]).infer([X]),
            "reshape(shape=[5, 5]) does not fit\n  expected  25 elements\n  found     24 in [4, 6]",
        ),
        (
            lambda: ops.reshape([-1, 5]).infer([X]),
            "reshape(shape=[-1, 5]) does not fit\n  expected  a multiple of 5 elements\n  found     24 in [4, 6]",
        ),
        (
            lambda: ops.reshape([-1, 0]).infer([sg.TensorSpec((0,), "int8")]),
            "reshape(shape=[-1, 0]) does not fit\n  expected  no 0 beside the -1\n  found     0 in [0]",
        ),
        (
            lambda: ops.take([7]).infer([X]),
            "take has no element 7\n  expected  0..3\n  found     f32[4,6]",
        ),
        (
            lambda: ops.take([0, 1], size=2).infer([X]),
            "take(indices=[0, 1], size=2) does not fit\n  expected  2 along axis 0\n  found     f32[4,6]",
        ),
        (
            lambda: ops.concat(1).infer([X, sg.TensorSpec((4, 5), "float16")]),
            "concat(axis=1) needs equal shapes and dtypes, except along axis 1\n"
            "  expected  f32[4,6]\n  found     f16[4,5] (number 1)",
        ),
        (
            lambda: ops.concat(0, sizes=[1, 2]).infer([X, X]),
            "concat(sizes=[1, 2]) does not fit\n  expected  [1, 2] along axis 0\n  found     [4, 4]",
        ),
        (
            lambda: ops.stack().infer([X, sg.TensorSpec((4,), "float32")]),
            "stack() needs equal shapes and dtypes\n  expected  f32[4,6]\n  found     f32[4] (number 1)",
        ),
        (
            lambda: ops.unstack().infer([sg.TensorSpec((), "int8")]),
            "unstack has no axis 0 to work on\n  found     0 axes",
        ),
        (lambda: ops.cast("f32"), "no dtype is called 'f32'\n  hint: such as 'float32', 'bfloat16', 'int8'"),
        (
            lambda: ops.cast("float32").infer([sg.TensorSpec((), "complex64")]),
            "cast(dtype='float32') would drop the imaginary part\n  found     c64[]",
        ),
        (
            lambda: ops.cast("float32").infer([sg.TensorSpec((), "str")]),
            "cast(dtype='float32') cannot round what is no number\n  found     str[]",
        ),
        (
            lambda: ops.new([2], init="nope"),
            "new has no init 'nope'\n  hint: a number, or one of zeros, ones, normal, uniform, arange",
        ),
        (
            lambda: ops.new([2], "float33"),
            "no dtype is called 'float33'\n  hint: such as 'float32', 'bfloat16', 'int8'",
        ),
        (lambda: ops.new(3), "new takes a list of sizes\n  found     3"),
        (lambda: ops.new([-2]), "new has a size below 0\n  found     [-2]"),
        (
            lambda: ops.new([2], "int32", init=0.5),
            "int32 cannot hold 0.5\n  hint: make it of a float dtype, or choose another init",
        ),
        (
            lambda: ops.new([2], "int8", init="normal"),
            "int8 cannot hold normal\n  hint: make it of a float dtype, or choose another init",
        ),
        (
            lambda: ops.new([2], "int8", init=300),
            "int8 cannot hold 300\n  hint: make it of a float dtype, or choose another init",
        ),
        (
            lambda: ops.new([2], "float16", init=1e6),
            "float16 cannot hold 1000000.0\n  hint: make it of a float dtype, or choose another init",
        ),
    ],
)
def test_what_an_op_refuses_it_refuses_with_what_it_found(use: Any, text: str) -> None:
    with pytest.raises(sg.SpecError) as error:
        use()
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("pattern", "sizes", "text"),
    [
        ("a b", {}, "'a b' has no '->'\n  hint: such as '(h d) i -> h d i'"),
        ("a b -> a", {}, "'a b -> a' must have every axis once on each side\n  expected  a b\n  found     a"),
        ("a a -> a a", {}, "'a a -> a a' must have every axis once on each side"),
        ("a b -> b a c", {}, "'a b -> b a c' must have every axis once on each side"),
        ("(a b) -> a b", {}, "'(a b) -> a b' is for 1 axes\n  found     shape [4, 6]"),
        ("(a b) c -> a b c", {}, "'(a b) c -> a b c' needs the size of a or b\n  found     (a b) = 4"),
        (
            "(a b) c -> a b c",
            {"a": 3},
            "'(a b) c -> a b c' does not fit\n  expected  (a b) = 3\n  found     4 (a=3)",
        ),
        ("a b -> b a", {"z": 1}, "'a b -> b a' has no axis called z"),
        ("a b -> b a", {"a": 7}, "'a b -> b a' does not fit\n  expected  (a) = 7\n  found     4 (a=7)"),
        ("(a b -> a b", {}, "a '(' in '(a b -> a b' does not close"),
        ("a b) -> a b", {}, "')' in 'a b) -> a b' is no axis\n  hint: names, 1, ... and parentheses"),
        ("((a b)) -> a b", {}, "'(' in '((a b)) -> a b' is no axis"),
        ("a+b -> a", {}, "'+' in 'a+b -> a' is no axis"),
        ("a b -> (a 2) b", {}, "'2' in 'a b -> (a 2) b' is no axis"),
        ("a 1 -> a", {}, "'a 1 -> a' does not fit\n  expected  (1) = 1\n  found     6 (1)"),
        ("... a b c -> a b c ...", {}, "'... a b c -> a b c ...' is for 3 axes or more\n  found     2 axes"),
    ],
)
def test_a_pattern_that_does_not_fit_says_where(pattern: str, sizes: dict[str, int], text: str) -> None:
    with pytest.raises(sg.SpecError) as error:
        ops.rearrange(pattern, **sizes).infer([X])
    assert str(error.value).startswith(text)


def test_an_unknown_op_names_the_nearest_and_wrong_parameters_are_refused() -> None:
    with pytest.raises(sg.RuleError) as error:
        op_of("transpos", {})
    assert str(error.value) == "no op is called 'transpos'\n  hint: nearest: 'transpose'"
    with pytest.raises(sg.RuleError, match=r"transpose does not take these parameters: .*'axis'"):
        op_of("transpose", {"axis": 1})
    with pytest.raises(sg.RuleError, match="take does not take these parameters"):
        op_of("take", {"indices": 3})


# --- names of axes in boxes ------------------------------------------------------------------------


def test_names_of_axes_follow_what_an_op_does_to_them() -> None:
    names = [("in", "out")]
    spec = [sg.TensorSpec((4, 6), "float32")]
    assert ops.transpose().rename_axes(names, spec) == [("out", "in")]
    assert ops.rearrange("(h d) i -> h d i", h=2).rename_axes(names, spec) == [("in", None, "out")]
    assert ops.reshape([4, 2, 3]).rename_axes(names, spec) == [("in", "out", None)]
    assert ops.stack(1, "layers").rename_axes(names * 3, spec * 3) == [("in", "layers", "out")]
    assert ops.unstack(0, "in").rename_axes(names, spec) == [("out",)] * 4
    assert ops.split([2, 4], 1).rename_axes(names, spec) == names * 2
    assert ops.concat(1).rename_axes(names * 2, spec * 2) == names


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (
            lambda s: ops.reshape([-1]).rename_axes([("in", "out")], s),
            "the named axes in, out are merged into one",
        ),
        (lambda s: ops.unstack().rename_axes([("in", "out")], s), "unstack removes the axis named in"),
        (
            lambda s: ops.stack().rename_axes([("a", "b"), ("a", "c")], s * 2),
            "whose axes are named differently",
        ),
        (
            lambda s: ops.reshape([4]).rename_axes([("in", "one")], [sg.TensorSpec((4, 1), "int8")]),
            "the axis named one is reshaped away",
        ),
    ],
)
def test_a_name_is_never_lost_silently(use: Any, text: str) -> None:
    with pytest.raises(sg.SpecError, match=text):
        use([sg.TensorSpec((4, 6), "float32")])
