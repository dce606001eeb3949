"""Random ops, each with the shapes of inputs that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import surgery as sg
from surgery import ops
from surgery._arrays.numpy import NUMPY
from surgery._ops.structure import copies
from tests.core.strategies import array_of

SIZES = st.sampled_from([0, 1, 2, 3, 4, 6])
SHAPES = st.lists(SIZES, min_size=0, max_size=4).map(tuple)
AXIS_NAMES = ("a", "b", "c", "d", "e", "f2", "_g")


@st.composite
def permutations(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    shape = draw(SHAPES)
    if len(shape) < 1 or draw(st.booleans()):
        return ops.permute_axes(draw(st.permutations(range(len(shape))))), [shape]
    axes = st.integers(-len(shape), len(shape) - 1)
    return ops.transpose(draw(axes), draw(axes)), [shape]


@st.composite
def reshapes(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    """Any shape of the same size, those that no factors of the axes give among them."""
    shape = draw(SHAPES)
    size, new = prod(shape), []
    left = size
    while left > 1 and draw(st.booleans()):
        factor = draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0]))
        new.append(factor)
        left //= factor
    new.append(left)
    new = draw(st.permutations(new))
    if size and draw(st.booleans()):
        new[draw(st.integers(0, len(new) - 1))] = -1
    return ops.reshape(new), [shape]


@st.composite
def rearranges(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    """A pattern with axes split, permuted, merged, ones, and an ellipsis."""
    names = list(AXIS_NAMES[: draw(st.integers(0, 5))])
    sizes = {name: draw(SIZES) for name in names}
    rest = draw(st.lists(SIZES, max_size=2)) if draw(st.booleans()) else None

    def side(order: list[str]) -> list[list[str]]:
        groups: list[list[str]] = []
        left = list(order)
        while left:
            count = draw(st.integers(0, len(left)))
            groups.append(left[:count])
            del left[:count]
        if rest is not None:
            groups.insert(draw(st.integers(0, len(groups))), ["..."])
        return groups

    def text(groups: list[list[str]]) -> str:
        return " ".join(
            group[0]
            if len(group) == 1
            else f"({' '.join(group)})"
            if group
            else draw(st.sampled_from(["1", "()"]))
            for group in groups
        )

    left = side(names)
    right = side(draw(st.permutations(names)))
    shape: list[int] = []
    given_sizes: dict[str, int] = {}
    for group in left:
        shape += rest or [] if group == ["..."] else [prod(sizes[name] for name in group)]
        if group != ["..."] and group:
            open_one = draw(st.sampled_from([None, *group]))
            others = prod(sizes[name] for name in group if name != open_one)
            given_sizes |= {name: sizes[name] for name in group if name != open_one or others == 0}
    return ops.rearrange(f"{text(left)} -> {text(right)}", **given_sizes), [tuple(shape)]


@st.composite
def takes(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    shape = draw(SHAPES.filter(len))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    if draw(st.booleans()):
        indices: Any = draw(st.permutations(range(size)))
    else:
        indices = draw(st.lists(st.integers(0, size - 1), max_size=6)) if size else []
    return ops.take(indices, axis, size=draw(st.sampled_from([None, size]))), [shape]


@st.composite
def concats(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    shape = draw(SHAPES.filter(len))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    sizes = draw(st.lists(SIZES, min_size=1, max_size=4))
    at = axis % len(shape)
    shapes = [(*shape[:at], size, *shape[at + 1 :]) for size in sizes]
    return ops.concat(axis, sizes=sizes if draw(st.booleans()) else None), shapes


@st.composite
def splits(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    concat, shapes = draw(concats())
    axis = concat.axis
    sizes = [shape[axis] for shape in shapes]
    whole = list(shapes[0])
    whole[axis] = sum(sizes)
    return ops.split(sizes, axis), [tuple(whole)]


@st.composite
def stacks(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    shape = draw(SHAPES)
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    return ops.stack(axis), [shape] * draw(st.integers(1, 4))


@st.composite
def unstacks(draw: Any) -> tuple[sg.ops.Op, list[tuple[int, ...]]]:
    shape = draw(SHAPES.filter(len))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    assume(shape[axis] > 0)
    return ops.unstack(axis), [shape]


def others() -> st.SearchStrategy[Any]:
    return st.tuples(st.sampled_from([ops.untie(), copies(1), copies(3)]), SHAPES.map(lambda shape: [shape]))


RELAYOUTS = permutations() | reshapes() | rearranges()
MOVES = RELAYOUTS | concats() | splits() | stacks() | unstacks()
ALL = MOVES | takes() | others()


def arrays_for(shapes: Sequence[tuple[int, ...]], dtype: Any, seed: int) -> list[np.ndarray[Any, Any]]:
    """Return arrays of random bits in C and in Fortran order."""
    return [array_of(shape, dtype, seed + n) for n, shape in enumerate(shapes)]


def specs_of(xs: Sequence[Any]) -> list[sg.TensorSpec]:
    return [NUMPY.spec(x) for x in xs]


def bits(x: Any) -> tuple[Any, ...]:
    array = np.asarray(x)
    return array.dtype, array.shape, array.tobytes()


def cut(x: Any, box: Any) -> Any:
    return np.asarray(x)[tuple(slice(*span) for span in box)]


@st.composite
def boxes(draw: Any, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    spans = []
    for size in shape:
        start = draw(st.integers(0, size))
        spans.append((start, draw(st.integers(start, size))))
    return tuple(spans)


def integers_for(shapes: Sequence[tuple[int, ...]], seed: int) -> list[np.ndarray[Any, Any]]:
    """Return arrays of small whole numbers in f64: their sums are exact."""
    random = np.random.default_rng(seed)
    return [random.integers(-9, 10, shape).astype(np.float64) for shape in shapes]
