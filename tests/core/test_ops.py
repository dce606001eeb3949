"""The laws that every op keeps: its shapes, its way back, its boxes, its cotangent map."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import surgery as sg
from surgery import ops
from surgery._arrays.abstract import ABSTRACT
from surgery._arrays.numpy import NUMPY
from tests.core.op_cases import (
    ALL,
    MOVES,
    RELAYOUTS,
    arrays_for,
    bits,
    boxes,
    concats,
    cut,
    integers_for,
    others,
    permutations,
    specs_of,
    splits,
    stacks,
    takes,
    unstacks,
)
from tests.core.strategies import DTYPES

# --- T ---------------------------------------------------------------------------------------------


@given(ALL, st.sampled_from(DTYPES), st.integers(0, 9))
def test_what_an_op_infers_is_what_it_makes_of_arrays_and_of_specs(drawn: Any, dtype: Any, seed: int) -> None:
    op, shapes = drawn
    xs = arrays_for(shapes, dtype, seed)
    inferred = op.infer(specs_of(xs))
    assert specs_of(op.apply(xs, NUMPY)) == inferred
    assert op.apply(specs_of(xs), ABSTRACT) == inferred


@given(ALL, st.sampled_from(DTYPES), st.integers(0, 9))
def test_an_op_and_its_inverse_give_the_same_bytes(drawn: Any, dtype: Any, seed: int) -> None:
    op, shapes = drawn
    xs = arrays_for(shapes, dtype, seed)
    inverse = op.inverse(specs_of(xs))
    if inverse is None:
        assert isinstance(op, ops.take)
        counted = Counter(op.indices)
        assert set(counted.values()) - {1} or len(counted) < shapes[0][op.axis]
        return
    made = op.apply(xs, NUMPY)
    assert inverse.infer(specs_of(made)) == specs_of(xs)
    assert list(map(bits, inverse.apply(made, NUMPY))) == list(map(bits, xs))


@given(ALL, st.sampled_from(DTYPES), st.integers(0, 9))
def test_the_inverse_of_the_inverse_does_what_the_op_does(drawn: Any, dtype: Any, seed: int) -> None:
    op, shapes = drawn
    xs = arrays_for(shapes, dtype, seed)
    inverse = op.inverse(specs_of(xs))
    assume(inverse is not None)
    made = op.apply(xs, NUMPY)
    again = inverse.inverse(specs_of(made))
    assert list(map(bits, again.apply(xs, NUMPY))) == list(map(bits, made))


@given(ALL, st.sampled_from([np.float32, np.int8]), st.integers(0, 9), st.data())
def test_any_box_that_is_pulled_is_that_box_of_the_whole(
    drawn: Any, dtype: Any, seed: int, data: Any
) -> None:
    op, shapes = drawn
    xs = arrays_for(shapes, dtype, seed)
    for out, made in enumerate(op.apply(xs, NUMPY)):
        box = data.draw(boxes(made.shape))
        pulled = op.pull(specs_of(xs), out, box)
        for source, need in pulled.needs:
            assert len(need) == len(shapes[source])
            assert all(
                0 <= low <= high <= size for (low, high), size in zip(need, shapes[source], strict=True)
            )
        blocks = [cut(xs[source], need) for source, need in pulled.needs]
        assert bits(pulled.compute(blocks, NUMPY)) == bits(cut(made, box))


@given(RELAYOUTS, st.data())
def test_boxes_at_multiples_of_the_steps_that_an_op_names_read_no_element_twice(
    drawn: Any, data: Any
) -> None:
    op, (shape,) = drawn
    spec = sg.TensorSpec(shape, "float32")
    result = op.infer([spec])[0].shape
    steps = op.tiles([spec], 0)
    assert len(steps) == len(result)
    steps = tuple(step * data.draw(st.integers(1, 3)) for step in steps)
    spans = [
        [(0, size)] if not step else [(n, min(n + step, size)) for n in range(0, size, step)]
        for size, step in zip(result, steps, strict=True)
    ]
    read = 0
    for box in itertools.product(*spans):
        for _, need in op.pull([spec], 0, box).needs:
            read += prod(high - low for low, high in need)
    assert read == prod(shape)


@given(permutations() | splits() | unstacks() | stacks() | concats())
def test_a_box_needs_no_more_elements_than_it_has_where_axes_stay_whole(drawn: Any) -> None:
    op, shapes = drawn
    ins = [sg.TensorSpec(shape, "float32") for shape in shapes]
    for out, spec in enumerate(op.infer(ins)):
        assume(spec.size)
        box = tuple((size // 2, size) for size in spec.shape)
        needed = sum(prod(high - low for low, high in need) for _, need in op.pull(ins, out, box).needs)
        assert needed == prod(high - low for low, high in box)


# --- C ---------------------------------------------------------------------------------------------


def inner(xs: Sequence[Any], ys: Sequence[Any]) -> float:
    return float(sum(np.sum(np.asarray(x) * np.asarray(y)) for x, y in zip(xs, ys, strict=True)))


@given(MOVES | others(), st.integers(0, 99))
def test_C_is_the_adjoint_of_the_way_back(drawn: Any, seed: int) -> None:
    """<C g, T x> = <g, x>: a step along a gradient changes the loss by the same amount as before."""
    op, shapes = drawn
    xs, gs = integers_for(shapes, seed), integers_for(shapes, seed + 100)
    moved = inner(op.move("covector", gs, NUMPY), op.apply(xs, NUMPY))
    assert moved == pytest.approx(inner(gs, xs), rel=1e-12, abs=1e-9)


@given(takes(), st.integers(0, 99))
def test_C_of_take_shares_a_gradient_among_the_copies_and_drops_it_with_the_element(
    drawn: Any, seed: int
) -> None:
    op, shapes = drawn
    (x,), (g,) = integers_for(shapes, seed), integers_for(shapes, seed + 100)
    kept = np.zeros(shapes[0][op.axis])
    kept[list(op.indices)] = 1
    kept = kept.reshape([-1 if n == op.axis % x.ndim else 1 for n in range(x.ndim)])
    moved = inner(op.move("covector", [g], NUMPY), op.apply([x], NUMPY))
    assert moved == pytest.approx(inner([g * kept], [x]), rel=1e-12, abs=1e-9)


@given(ALL, st.integers(0, 99))
def test_second_moments_and_norms_move_by_the_entries_of_C(drawn: Any, seed: int) -> None:
    """These ops have one entry in each row of C, so that what is squared before or after is the same."""
    op, shapes = drawn
    gs = integers_for(shapes, seed)
    first = op.move("covector", gs, NUMPY)
    second = op.move("covector_sq", [g * g for g in gs], NUMPY)
    norm = op.move("covector_abs", [abs(g) for g in gs], NUMPY)
    for mu, nu, size in zip(first, second, norm, strict=True):
        np.testing.assert_allclose(nu, mu * mu, rtol=1e-12)
        np.testing.assert_allclose(size, abs(mu), rtol=1e-12)


@given(ALL, st.integers(0, 99))
def test_T_and_C_differ_only_where_the_op_says_that_it_changes_values(drawn: Any, seed: int) -> None:
    op, shapes = drawn
    xs = integers_for(shapes, seed)
    same_way = list(map(bits, op.move("covector", xs, NUMPY))) == list(map(bits, op.apply(xs, NUMPY)))
    assert same_way or op.changes_values
    assert list(map(bits, op.move("vector", xs, NUMPY))) == list(map(bits, op.apply(xs, NUMPY)))


def test_a_cast_rounds_weights_and_leaves_moments_as_they_are() -> None:
    x, cast = np.array([1.0009765625, -0.0], np.float32), ops.cast("bfloat16")
    assert cast.move("vector", [x], NUMPY)[0].dtype.name == "bfloat16"
    for kind in ("covector", "covector_sq", "covector_abs"):
        assert cast.move(kind, [x], NUMPY)[0] is x  # type: ignore[arg-type]


def test_copies_share_a_gradient_equally_and_a_second_moment_by_the_square() -> None:
    plan = sg.plan([("w", ["a", "b"])], {"w": np.float64([4.0, 8.0])})
    tree = {"w": np.float64([4.0, 8.0])}
    assert [x.tolist() for x in plan.apply(tree).values()] == [[4, 8], [4, 8]]
    assert [x.tolist() for x in plan.apply(tree, kind="covector").values()] == [[2, 4], [2, 4]]
    assert [x.tolist() for x in plan.apply(tree, kind="covector_sq").values()] == [[1, 2], [1, 2]]
    assert [x.tolist() for x in plan.apply(tree, kind="covector_abs").values()] == [[2, 4], [2, 4]]


# --- exactness -------------------------------------------------------------------------------------

F32, F16 = sg.TensorSpec((2, 3), "float32"), sg.TensorSpec((2, 3), "float16")


@pytest.mark.parametrize(
    ("op", "spec", "weights", "moments"),
    [
        (ops.transpose(), F32, "exact", "exact"),
        (ops.reshape([-1]), F32, "exact", "exact"),
        (ops.rearrange("a b -> (b a)"), F32, "exact", "exact"),
        (ops.permute_axes([1, 0]), F32, "exact", "exact"),
        (ops.concat(), F32, "exact", "exact"),
        (ops.split([1, 1]), F32, "exact", "exact"),
        (ops.stack(), F32, "exact", "exact"),
        (ops.unstack(), F32, "exact", "exact"),
        (ops.take([0, 0, 1]), F32, "exact", "exact"),
        (ops.cast("float16"), F32, "policy", "exact"),
        (ops.cast("float32"), F16, "exact", "exact"),
        (ops.untie(), F32, "exact", "policy"),
        (ops.new([2]), F32, "exact", "policy"),
        (ops.drop(), F32, "dropped", "dropped"),
    ],
)
def test_an_op_says_what_its_results_are_worth(op: sg.ops.Op, spec: Any, weights: str, moments: str) -> None:
    assert op.exactness("vector", [spec]) == weights
    for kind in ("covector", "covector_sq", "covector_abs"):
        assert op.exactness(kind, [spec]) == moments  # type: ignore[arg-type]
