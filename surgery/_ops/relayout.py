"""Re-layouts: every element moves to one place, unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from surgery._arrays.backend import Backend
from surgery._errors import SpecError
from surgery._ops.base import AxisNames, Box, Op, Pull, crop, on_axis, register_op, sizes_of, whole
from surgery._ops.layout import Layout, parse_layout, permuted, reshaped
from surgery._types import Leaf, TensorSpec


class _Relayout(Op):
    """An op that is one `Layout` once the shape is known."""

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return the normal form for inputs of this shape."""
        raise NotImplementedError

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        return [TensorSpec(self.layout(spec.shape).out_shape, spec.dtype) for spec in ins]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [self.layout(backend.spec(x).shape).apply(x, backend) for x in xs]

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        return self.layout(ins[0].shape).pull(box)

    def tiles(self, ins: Sequence[TensorSpec], out: int) -> tuple[int, ...]:
        return self.layout(ins[0].shape).tiles()

    def rename_axes(self, names: Sequence[AxisNames], ins: Sequence[TensorSpec]) -> list[AxisNames]:
        return [self.layout(ins[0].shape).rename_axes(names[0])]


@register_op
@dataclass(frozen=True, repr=False)
class rearrange(_Relayout):
    """Take axes apart, permute, and merge, in einops' notation.

    Args:
        pattern: such as `"(h two d) i -> (h d two) i"`; `...` stands for any axes.
        sizes: the sizes that the shape alone does not give: `h=12`.

    >>> import numpy as np, surgery as sg
    >>> op = sg.ops.rearrange("(h d) i -> i h d", h=4)
    >>> op.infer([sg.TensorSpec((64, 32), "float32")])[0].shape
    (32, 4, 16)
    """

    pattern: str
    sizes: tuple[tuple[str, int], ...] = ()

    def __init__(self, pattern: str, **sizes: int) -> None:
        object.__setattr__(self, "pattern", pattern)
        numbers = sizes_of("rearrange", list(sizes.values()))
        object.__setattr__(self, "sizes", tuple(sorted(zip(sizes, numbers, strict=True))))

    def layout(self, shape: Sequence[int]) -> Layout:
        return parse_layout(self.pattern, shape, dict(self.sizes))

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        layout = self.layout(ins[0].shape)
        named = [f"f{n}" for n in range(len(layout.factors))]
        left = _text([tuple(named[f] for f in group) for group in layout.targets])
        right = _text([tuple(named[f] for f in group) for group in layout.source_groups])
        return rearrange(f"{left} -> {right}", **dict(zip(named, layout.factors, strict=True)))

    def reverse(self) -> Op:
        left, _, right = self.pattern.partition("->")
        return rearrange(f"{right.strip()} -> {left.strip()}", **dict(self.sizes))

    def params(self) -> dict[str, Any]:
        return {"pattern": self.pattern, **dict(self.sizes)}

    def __repr__(self) -> str:
        sizes = "".join(f", {name}={size}" for name, size in self.sizes)
        return f"rearrange({self.pattern!r}{sizes})"


def _text(groups: Sequence[Sequence[str]]) -> str:
    return " ".join(
        group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1" for group in groups
    )


@register_op
@dataclass(frozen=True, repr=False)
class transpose(_Relayout):
    """Swap two axes; the last two by default, so that it also serves stacked kernels.

    >>> import surgery as sg
    >>> str(sg.ops.transpose().infer([sg.TensorSpec((12, 64, 32), "float32")])[0])
    'f32[12,32,64]'
    """

    a: int = -2
    b: int = -1

    def layout(self, shape: Sequence[int]) -> Layout:
        axes = list(range(len(shape)))
        a, b = on_axis(self.a, len(shape), "transpose"), on_axis(self.b, len(shape), "transpose")
        axes[a], axes[b] = axes[b], axes[a]
        return permuted(shape, axes)

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return self

    def reverse(self) -> Op:
        return self


@register_op
@dataclass(frozen=True, repr=False)
class permute_axes(_Relayout):
    """Permute all axes: axis `k` of the result is axis `axes[k]` of the source.

    >>> import surgery as sg
    >>> str(sg.ops.permute_axes([2, 3, 1, 0]).infer([sg.TensorSpec((64, 3, 7, 7), "float32")])[0])
    'f32[7,7,3,64]'
    """

    axes: tuple[int, ...]

    def __init__(self, axes: Sequence[int]) -> None:
        if sorted(axes) != list(range(len(axes))):
            raise SpecError(f"permute_axes({list(axes)}) is no permutation", expected="each of 0..n-1 once")
        object.__setattr__(self, "axes", tuple(axes))

    def layout(self, shape: Sequence[int]) -> Layout:
        if len(shape) != len(self.axes):
            raise SpecError(f"{self} is for {len(self.axes)} axes", found=f"shape {list(shape)}")
        return permuted(shape, self.axes)

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return self.reverse()

    def reverse(self) -> Op:
        return permute_axes([self.axes.index(axis) for axis in range(len(self.axes))])


@register_op
@dataclass(frozen=True, repr=False)
class reshape(_Relayout):
    """Give the same elements, in C order, another shape; one size may be -1.

    >>> import surgery as sg
    >>> str(sg.ops.reshape([4, -1]).infer([sg.TensorSpec((8, 3), "float32")])[0])
    'f32[4,6]'
    """

    shape: tuple[int, ...]

    def __init__(self, shape: Sequence[int]) -> None:
        if sum(size == -1 for size in shape) > 1 or any(size < -1 for size in shape):
            raise SpecError(f"reshape({list(shape)}) is no shape", hint="sizes, of which one may be -1")
        object.__setattr__(self, "shape", tuple(shape))

    def resolved(self, old: Sequence[int]) -> tuple[int, ...]:
        """Return the new shape with -1 filled in."""
        known = prod(size for size in self.shape if size != -1)
        size = prod(old)
        if -1 in self.shape and known and size % known == 0:
            return tuple(size // known if n == -1 else n for n in self.shape)
        if size != known or -1 in self.shape:
            expected = f"{known} elements" if -1 not in self.shape else f"a multiple of {known} elements"
            raise SpecError(
                f"{self} does not fit",
                expected=expected if known else "no 0 beside the -1",
                found=f"{size} in {list(old)}",
            )
        return self.shape

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        return [TensorSpec(self.resolved(spec.shape), spec.dtype) for spec in ins]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [backend.reshape(x, self.resolved(backend.spec(x).shape)) for x in xs]

    def layout(self, shape: Sequence[int]) -> Layout:
        new = self.resolved(shape)
        found = reshaped(shape, new)
        if found is None:
            raise SpecError(f"{self} of {list(shape)} crosses its axes")
        return found

    def _crosses(self, shape: Sequence[int]) -> bool:
        return reshaped(shape, self.resolved(shape)) is None

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return reshape(ins[0].shape)

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        shape = ins[0].shape
        if not self._crosses(shape):
            return super().pull(ins, out, box)
        new = self.resolved(shape)  # no axis of the one is made of axes of the other: the whole is needed
        return Pull(
            ((0, whole(shape)),), lambda blocks, backend: crop(backend, backend.reshape(blocks[0], new), box)
        )

    def tiles(self, ins: Sequence[TensorSpec], out: int) -> tuple[int, ...]:
        if self._crosses(ins[0].shape):
            return (0,) * len(self.resolved(ins[0].shape))
        return super().tiles(ins, out)
