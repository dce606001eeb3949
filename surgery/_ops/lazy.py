"""Leaves that are not in memory yet: an array in a file, or an op on such leaves.

A lazy leaf knows its spec, and reads any box of itself when asked. Ops on lazy
leaves are lazy again: reading a box of the result pulls the boxes it needs. So
a plan over a checkpoint reads nothing, and a writer that takes one leaf at a
time never holds more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from surgery._dtypes import DType
from surgery._ops.axes import concat, split, take
from surgery._ops.base import Box, Op, SlotKind, whole
from surgery._ops.relayout import permute_axes, reshape
from surgery._ops.structure import untie
from surgery._ops.values import cast
from surgery._types import Leaf, TensorSpec

if TYPE_CHECKING:
    import numpy as np

Reader = Callable[[Box], "np.ndarray[Any, Any]"]


class Lazy:
    """A leaf that is read when it is used: `np.asarray(leaf)`, `leaf.read()`, an op, or `save`.

    Attributes:
        spec: shape and dtype.
        origin: where it comes from, for people: a file and the bytes in it, or ops.
        tie: equal for two leaves if they are one tensor under two names; None if
            this leaf shares with no other.
    """

    __surgery_lazy__ = True
    __slots__ = ("_read", "origin", "spec", "tie")

    def __init__(self, spec: TensorSpec, read: Reader, *, origin: str, tie: Hashable | None = None) -> None:
        self.spec = spec
        self.origin = origin
        self.tie = tie
        self._read = read

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, as numpy has it."""
        from surgery._dtypes import numpy_dtype

        return numpy_dtype(self.spec.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.spec.ndim

    @property
    def nbytes(self) -> int:
        """The bytes of the elements."""
        return self.spec.nbytes

    def read(self, box: Box | None = None) -> np.ndarray[Any, Any]:
        """Return the elements of a box, from and to per axis; all of them by default."""
        return self._read(whole(self.spec.shape) if box is None else box)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.read()
        return array if dtype is None or array.dtype == dtype else array.astype(dtype)

    def __repr__(self) -> str:
        return f"<{self.spec} in {self.origin}>"


def deferred(op: Op, xs: Sequence[Lazy], kind: SlotKind) -> list[Leaf]:
    """Return the outputs of an op on lazy leaves, nothing read."""
    from surgery._arrays.numpy import NUMPY

    ins = [x.spec for x in xs]

    def reader(out: int) -> Reader:
        def read(box: Box) -> np.ndarray[Any, Any]:
            if kind != "vector":  # C of an op may need more than its T pulls
                moved = NUMPY.to_numpy(op.move(kind, [x.read() for x in xs], NUMPY)[out])
                return moved[tuple(slice(*span) for span in box)]
            pulled = op.pull(ins, out, box)
            return NUMPY.to_numpy(pulled.compute([xs[n].read(part) for n, part in pulled.needs], NUMPY))

        return read

    origin = f"{op!r} of {xs[0].origin}" + (f" and {len(xs) - 1} more" if len(xs) > 1 else "")
    return [Lazy(spec, reader(n), origin=origin, tie=object()) for n, spec in enumerate(op.infer(ins))]


class LazyBackend:
    """Lazy leaves: every primitive is an op that waits."""

    name = "file"
    ties_by_object = False

    def defer(self, op: Op, xs: Sequence[Lazy], kind: SlotKind) -> list[Leaf]:
        """Return the outputs of a whole op; see `deferred`."""
        return deferred(op, xs, kind)

    def spec(self, x: Lazy, /) -> TensorSpec:
        return x.spec

    def holds_data(self, x: Lazy, /) -> bool:
        return True

    def identity(self, x: Lazy, /) -> Hashable | None:
        return id(x) if x.tie is None else x.tie

    def transpose(self, x: Lazy, axes: Sequence[int], /) -> Leaf:
        return deferred(permute_axes(axes), [x], "vector")[0]

    def reshape(self, x: Lazy, shape: Sequence[int], /) -> Leaf:
        return deferred(reshape(shape), [x], "vector")[0]

    def slice(self, x: Lazy, axis: int, start: int, stop: int, /) -> Leaf:
        sizes = (start, stop - start, x.shape[axis] - stop)
        return deferred(split(sizes, axis), [x], "vector")[1]

    def take(self, x: Lazy, axis: int, indices: Sequence[int], /) -> Leaf:
        return deferred(take(indices, axis), [x], "vector")[0]

    def concat(self, xs: Sequence[Lazy], axis: int, /) -> Leaf:
        return deferred(concat(axis), xs, "vector")[0]

    def cast(self, x: Lazy, dtype: DType, /) -> Leaf:
        return deferred(cast(dtype), [x], "vector")[0]

    def scale(self, x: Lazy, factors: Sequence[float], axis: int, /) -> Leaf:
        from surgery._arrays.numpy import NUMPY

        return NUMPY.scale(x.read(), factors, axis)

    def copy(self, x: Lazy, /) -> Leaf:
        return deferred(untie(), [x], "vector")[0]

    def settled(self, x: Lazy, /) -> Leaf:
        return x

    def to_numpy(self, x: Lazy, /) -> np.ndarray[Any, Any]:
        return x.read()

    def is_placed_like(self, x: Lazy, like: Leaf, /) -> bool:
        return True

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Leaf | None = None, device: Any = None
    ) -> Leaf:
        return array


LAZY = LazyBackend()
