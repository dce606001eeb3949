"""Ops along one axis: take, concat and split, stack and unstack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

from surgery._arrays.backend import Backend
from surgery._arrays.backend import stack as stack_primitive
from surgery._errors import SpecError
from surgery._ops.base import (
    AxisNames,
    Box,
    Op,
    Pull,
    SlotKind,
    box_shape,
    on_axis,
    register_op,
    sizes_of,
)
from surgery._types import Leaf, TensorSpec


def _replaced(values: Sequence[Any], at: int, *new: Any) -> tuple[Any, ...]:
    return (*values[:at], *new, *values[at + 1 :])


def _same(ins: Sequence[TensorSpec], op: Op, *, but: int | None = None) -> None:
    """Raise a SpecError unless all inputs agree in dtype and shape, one axis excepted."""
    first = ins[0]
    for n, spec in enumerate(ins):
        a = first.shape if but is None else _replaced(first.shape, but)
        b = spec.shape if but is None else _replaced(spec.shape, but)
        if a != b or spec.dtype != first.dtype:
            where = "" if but is None else f", except along axis {but}"
            raise SpecError(
                f"{op} needs equal shapes and dtypes{where}",
                expected=str(first),
                found=f"{spec} (number {n})",
            )


def _same_names(names: Sequence[AxisNames], op: Op) -> AxisNames:
    for other in names[1:]:
        if other != names[0]:
            raise SpecError(
                f"{op} joins arrays whose axes are named differently",
                expected=str(names[0]),
                found=str(other),
            )
    return names[0]


@register_op
@dataclass(frozen=True, repr=False)
class take(Op):
    """Select elements along one axis, in the given order; an index may be repeated.

    A repeated element is a copy with a symmetric role: its gradient is shared
    equally among the copies, so moments are divided by their number.

    Args:
        indices: which elements, from 0 on.
        axis: where.
        size: the size of the axis, for recipes that are also read backwards: without it,
            nothing says that a permutation leaves no element out.

    >>> import surgery as sg
    >>> str(sg.ops.take([0, 0, 2], axis=0).infer([sg.TensorSpec((3, 4), "float32")])[0])
    'f32[3,4]'
    """

    indices: tuple[int, ...]
    axis: int = 0
    size: int | None = None

    def __init__(self, indices: Sequence[int], axis: int = 0, size: int | None = None) -> None:
        object.__setattr__(self, "indices", tuple(int(index) for index in indices))
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "size", size)

    @property
    def changes_values(self) -> bool:
        return len(set(self.indices)) < len(self.indices)

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        out = []
        for spec in ins:
            axis = on_axis(self.axis, spec.ndim, "take")
            size = spec.shape[axis]
            if self.size is not None and self.size != size:
                raise SpecError(
                    f"{self} does not fit", expected=f"{self.size} along axis {axis}", found=str(spec)
                )
            bad = [index for index in self.indices if not 0 <= index < size]
            if bad:
                raise SpecError(f"take has no element {bad[0]}", expected=f"0..{size - 1}", found=str(spec))
            out.append(TensorSpec(_replaced(spec.shape, axis, len(self.indices)), spec.dtype))
        return out

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [backend.take(x, on_axis(self.axis, backend.spec(x).ndim, "take"), self.indices) for x in xs]

    def move(self, kind: SlotKind, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        moved = self.apply(xs, backend)
        times = Counter(self.indices)
        if kind == "vector" or max(times.values(), default=1) == 1:
            return moved
        power = 2 if kind == "covector_sq" else 1
        share = [1.0 / times[index] ** power for index in self.indices]
        return [backend.scale(x, share, on_axis(self.axis, backend.spec(x).ndim, "take")) for x in moved]

    def inverse(self, ins: Sequence[TensorSpec]) -> Op | None:
        size = ins[0].shape[on_axis(self.axis, ins[0].ndim, "take")]
        return self._inverse(size) if set(self.indices) == set(range(size)) else None

    def _inverse(self, size: int) -> Op | None:
        # Undoing a repetition would have to add the shares of moments up again: only a permutation is undone.
        return (
            take([self.indices.index(n) for n in range(size)], self.axis, size)
            if len(self.indices) == size
            else None
        )

    def loss(self, ins: Sequence[TensorSpec]) -> str:
        return f"{self} does not keep every element along axis {self.axis} just once"

    def reverse(self) -> Op | None:
        permutes = self.size is not None and sorted(self.indices) == list(range(self.size))
        return self._inverse(len(self.indices)) if permutes else None

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        axis = on_axis(self.axis, ins[0].ndim, "take")
        start, stop = box[axis]
        wanted = self.indices[start:stop]
        low, high = (min(wanted), max(wanted) + 1) if wanted else (0, 0)
        relative = [index - low for index in wanted]
        return Pull(
            ((0, _replaced(box, axis, (low, high))),),
            lambda blocks, backend: backend.take(blocks[0], axis, relative),
        )


@register_op
@dataclass(frozen=True, repr=False)
class concat(Op):
    """Join many tensors along an existing axis; undone by `split`.

    Args:
        axis: where to join.
        sizes: the sizes of the parts, for recipes that are also read backwards
            with unequal parts.
        over: the variable of the pattern that is collected, where there are several.
    """

    arity: ClassVar[Literal["collect"]] = "collect"
    axis: int = 0
    sizes: Sequence[int] | None = None
    over: str | None = None

    def __post_init__(self) -> None:
        if self.sizes is not None:
            object.__setattr__(self, "sizes", sizes_of("concat", self.sizes))

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        axis = on_axis(self.axis, ins[0].ndim, "concat")
        _same(ins, self, but=axis)
        sizes = [spec.shape[axis] for spec in ins]
        if self.sizes is not None and list(self.sizes) != sizes:
            raise SpecError(
                f"{self} does not fit", expected=f"{list(self.sizes)} along axis {axis}", found=f"{sizes}"
            )
        return [TensorSpec(_replaced(ins[0].shape, axis, sum(sizes)), ins[0].dtype)]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [backend.concat(xs, on_axis(self.axis, backend.spec(xs[0]).ndim, "concat"))]

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        axis = on_axis(self.axis, ins[0].ndim, "concat")
        return split(sizes=tuple(spec.shape[axis] for spec in ins), axis=self.axis, over=self.over)

    def reverse(self) -> Op:
        return split(sizes=self.sizes, axis=self.axis, over=self.over)

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        axis = on_axis(self.axis, ins[0].ndim, "concat")
        edges = [0, *accumulate(spec.shape[axis] for spec in ins)]
        start, stop = box[axis]
        needs = [
            (n, _replaced(box, axis, (max(start, low) - low, min(stop, high) - low)))
            for n, (low, high) in enumerate(pairwise(edges))
            if max(start, low) < min(stop, high)
        ] or [(0, _replaced(box, axis, (0, 0)))]
        return Pull(
            tuple(needs),
            lambda blocks, backend: blocks[0] if len(blocks) == 1 else backend.concat(blocks, axis),
        )

    def rename_axes(self, names: Sequence[AxisNames], ins: Sequence[TensorSpec]) -> list[AxisNames]:
        return [_same_names(names, self)]


@register_op
@dataclass(frozen=True, repr=False)
class split(Op):
    """Cut one tensor into several along an axis; undone by `concat`.

    Args:
        sizes: the sizes of the parts, in order; equal parts without it, as many as
            the rule has places for them.
        axis: where to cut.
        over: the variable of the pattern that is expanded, where there are several.
    """

    arity: ClassVar[Literal["expand"]] = "expand"
    sizes: Sequence[int] | None = None
    axis: int = 0
    over: str | None = None
    parts: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sizes, int):
            raise SpecError(
                f"split({self.sizes}) has one size", hint="the size of each part: split([768, 768, 768])"
            )
        if self.sizes is not None:
            object.__setattr__(self, "sizes", sizes_of("split", self.sizes))

    def cuts(self, spec: TensorSpec) -> list[int]:
        """Return where the parts begin and end along the axis."""
        axis = on_axis(self.axis, spec.ndim, "split")
        size = spec.shape[axis]
        sizes = self.sizes
        if sizes is None:
            if not self.parts or size % self.parts:
                raise SpecError(
                    f"split cannot cut {size} into {self.parts or '?'} equal parts",
                    found=str(spec),
                    hint="give the size of each part: split([...])",
                )
            sizes = (size // self.parts,) * self.parts
        if sum(sizes) != size:
            raise SpecError(
                f"{self} does not fit", expected=f"{sum(sizes)} along axis {axis}", found=str(spec)
            )
        return [0, *accumulate(sizes)]

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        axis = on_axis(self.axis, ins[0].ndim, "split")
        cuts = self.cuts(ins[0])
        return [
            TensorSpec(_replaced(ins[0].shape, axis, high - low), ins[0].dtype)
            for low, high in pairwise(cuts)
        ]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        spec = backend.spec(xs[0])
        axis = on_axis(self.axis, spec.ndim, "split")
        cuts = self.cuts(spec)
        return [backend.slice(xs[0], axis, low, high) for low, high in pairwise(cuts)]

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return concat(axis=self.axis, over=self.over)

    def reverse(self) -> Op:
        return concat(axis=self.axis, sizes=self.sizes, over=self.over)

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        axis = on_axis(self.axis, ins[0].ndim, "split")
        low = self.cuts(ins[0])[out]
        start, stop = box[axis]
        return Pull(
            ((0, _replaced(box, axis, (start + low, stop + low))),), lambda blocks, backend: blocks[0]
        )


@register_op
@dataclass(frozen=True, repr=False)
class stack(Op):
    """Join many tensors along a new axis; undone by `unstack`.

    Args:
        axis: where the new axis stands in the result.
        name: what the new axis is called in boxes that name axes (linen's
            `Partitioned`).
        over: the variable of the pattern that is collected, where there are several.

    >>> import surgery as sg
    >>> str(sg.ops.stack(axis=0).infer([sg.TensorSpec((4, 8), "float32")] * 12)[0])
    'f32[12,4,8]'
    """

    arity: ClassVar[Literal["collect"]] = "collect"
    axis: int = 0
    name_of_axis: str | None = None
    over: str | None = None

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        _same(ins, self)
        axis = on_axis(self.axis, ins[0].ndim + 1, "stack")
        shape = ins[0].shape
        return [TensorSpec((*shape[:axis], len(ins), *shape[axis:]), ins[0].dtype)]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [stack_primitive(backend, xs, on_axis(self.axis, backend.spec(xs[0]).ndim + 1, "stack"))]

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return self.reverse()

    def reverse(self) -> Op:
        return unstack(axis=self.axis, name_of_axis=self.name_of_axis, over=self.over)

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        axis = on_axis(self.axis, ins[0].ndim + 1, "stack")
        start, stop = box[axis]
        inner = _replaced(box, axis)
        if start >= stop:  # nothing along the new axis: one source still says what kind of array it is
            return Pull(
                ((0, inner),),
                lambda blocks, backend: backend.slice(stack_primitive(backend, blocks, axis), axis, 0, 0),
            )
        return Pull(
            tuple((n, inner) for n in range(start, stop)),
            lambda blocks, backend: stack_primitive(backend, blocks, axis),
        )

    def rename_axes(self, names: Sequence[AxisNames], ins: Sequence[TensorSpec]) -> list[AxisNames]:
        axis = on_axis(self.axis, ins[0].ndim + 1, "stack")
        same = _same_names(names, self)
        return [(*same[:axis], self.name_of_axis, *same[axis:])]


@register_op
@dataclass(frozen=True, repr=False)
class unstack(Op):
    """Cut one tensor into slices along an axis, and drop that axis; undone by `stack`."""

    arity: ClassVar[Literal["expand"]] = "expand"
    axis: int = 0
    name_of_axis: str | None = None
    over: str | None = None

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        axis = on_axis(self.axis, ins[0].ndim, "unstack")
        shape = ins[0].shape
        return [TensorSpec(_replaced(shape, axis), ins[0].dtype)] * shape[axis]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        shape = backend.spec(xs[0]).shape
        axis = on_axis(self.axis, len(shape), "unstack")
        kept = _replaced(shape, axis)
        return [backend.reshape(backend.slice(xs[0], axis, n, n + 1), kept) for n in range(shape[axis])]

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return self.reverse()

    def reverse(self) -> Op:
        return stack(axis=self.axis, name_of_axis=self.name_of_axis, over=self.over)

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        axis = on_axis(self.axis, ins[0].ndim, "unstack")
        shape = box_shape(box)
        return Pull(
            ((0, (*box[:axis], (out, out + 1), *box[axis:])),),
            lambda blocks, backend: backend.reshape(blocks[0], shape),
        )

    def rename_axes(self, names: Sequence[AxisNames], ins: Sequence[TensorSpec]) -> list[AxisNames]:
        axis = on_axis(self.axis, ins[0].ndim, "unstack")
        found = names[0][axis]
        if found is not None and found != self.name_of_axis:
            raise SpecError(
                f"unstack removes the axis named {found}",
                expected=f"name_of_axis={found!r}",
                found=f"name_of_axis={self.name_of_axis!r}",
                hint="say so: unstack(axis, name_of_axis=...), so that the way back can name it again",
            )
        return [_replaced(names[0], axis)] * ins[0].shape[axis]
