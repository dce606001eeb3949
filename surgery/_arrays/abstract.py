"""The backend of leaves that are only a shape and a dtype: every op becomes shape algebra."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

from surgery._dtypes import DType
from surgery._errors import SpecError
from surgery._types import Leaf, TensorSpec


class AbstractBackend:
    """`TensorSpec` leaves."""

    name = "spec"
    ties_by_object = False

    def spec(self, x: TensorSpec, /) -> TensorSpec:
        return x

    def holds_data(self, x: TensorSpec, /) -> bool:
        return False

    def identity(self, x: TensorSpec, /) -> Hashable | None:
        return x.alias

    def transpose(self, x: TensorSpec, axes: Sequence[int], /) -> Leaf:
        return TensorSpec(tuple(x.shape[axis] for axis in axes), x.dtype)

    def reshape(self, x: TensorSpec, shape: Sequence[int], /) -> Leaf:
        return TensorSpec(tuple(shape), x.dtype)

    def slice(self, x: TensorSpec, axis: int, start: int, stop: int, /) -> Leaf:
        return _resized(x, axis, stop - start)

    def take(self, x: TensorSpec, axis: int, indices: Sequence[int], /) -> Leaf:
        return _resized(x, axis, len(indices))

    def concat(self, xs: Sequence[TensorSpec], axis: int, /) -> Leaf:
        return _resized(xs[0], axis, sum(x.shape[axis] for x in xs))

    def cast(self, x: TensorSpec, dtype: DType, /) -> Leaf:
        return TensorSpec(x.shape, dtype)

    def scale(self, x: TensorSpec, factors: Sequence[float], axis: int, /) -> Leaf:
        return TensorSpec(x.shape, x.dtype)

    def copy(self, x: TensorSpec, /) -> Leaf:
        return TensorSpec(x.shape, x.dtype)

    def settled(self, x: TensorSpec, /) -> Leaf:
        return x

    def to_numpy(self, x: TensorSpec, /) -> NoReturn:
        raise SpecError(
            f"{x} is a shape without data", hint="apply the plan to the tree that holds the arrays"
        )

    def is_placed_like(self, x: Leaf, like: Leaf, /) -> bool:
        return True

    def from_numpy(self, array: Any, /, like: Leaf | None = None, device: Any = None) -> Leaf:
        from surgery._dtypes import name_of

        return TensorSpec(array.shape, name_of(array.dtype))


def _resized(x: TensorSpec, axis: int, size: int) -> TensorSpec:
    return TensorSpec((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)


ABSTRACT = AbstractBackend()
