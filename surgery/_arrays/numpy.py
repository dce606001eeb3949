"""The numpy backend, with ml_dtypes for the narrow types. Python numbers count as 0-d arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 and the float8 family with numpy)
import numpy as np

from surgery._dtypes import DType, name_of, numpy_dtype
from surgery._types import Leaf, TensorSpec

_PYTHON = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}


class NumpyBackend:
    """numpy arrays and scalars, and Python numbers."""

    name = "numpy"
    ties_by_object = True

    def owns(self, cls: type) -> bool:
        """Whether leaves of this class are numpy's."""
        return cls in _PYTHON or issubclass(cls, (np.ndarray, np.generic))

    def spec(self, x: Leaf, /) -> TensorSpec:
        if type(x) in _PYTHON:
            return TensorSpec((), _PYTHON[type(x)])
        return TensorSpec(x.shape, name_of(x.dtype))

    def holds_data(self, x: Leaf, /) -> bool:
        return True

    def identity(self, x: Leaf, /) -> Hashable | None:
        return id(x) if isinstance(x, np.ndarray) else None

    def transpose(self, x: Leaf, axes: Sequence[int], /) -> Leaf:
        return np.transpose(x, axes)

    def reshape(self, x: Leaf, shape: Sequence[int], /) -> Leaf:
        return np.reshape(x, tuple(shape))

    def slice(self, x: Leaf, axis: int, start: int, stop: int, /) -> Leaf:
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def take(self, x: Leaf, axis: int, indices: Sequence[int], /) -> Leaf:
        return np.take(x, np.asarray(indices, dtype=np.intp), axis=axis)

    def concat(self, xs: Sequence[Leaf], axis: int, /) -> Leaf:
        return np.concatenate([np.asarray(x) for x in xs], axis=axis)

    def cast(self, x: Leaf, dtype: DType, /) -> Leaf:
        with np.errstate(over="ignore", invalid="ignore"):  # rounding to infinity is what was asked for
            return np.asarray(x).astype(numpy_dtype(dtype))

    def scale(self, x: Leaf, factors: Sequence[float], axis: int, /) -> Leaf:
        shape = [1] * np.ndim(x)
        shape[axis] = -1
        return np.asarray(x * np.asarray(factors).reshape(shape).astype(np.asarray(x).dtype))

    def copy(self, x: Leaf, /) -> Leaf:
        return np.array(x, copy=True, order="C")

    def settled(self, x: Leaf, /) -> Leaf:
        if not isinstance(x, np.ndarray):
            return x
        base = x.base
        holds_more = isinstance(base, np.ndarray) and base.nbytes > x.nbytes
        return np.array(x, order="C", copy=True) if holds_more or not x.flags.c_contiguous else x

    def to_numpy(self, x: Leaf, /) -> np.ndarray[Any, Any]:
        array = np.asarray(x)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def is_placed_like(self, x: Leaf, like: Leaf, /) -> bool:
        return True

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Leaf | None = None, device: Any = None
    ) -> Leaf:
        return array


NUMPY = NumpyBackend()


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays are equal bit for bit: NaN equals itself, and -0.0 differs from 0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(_as_bytes(a), _as_bytes(b))


def _as_bytes(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = np.ascontiguousarray(a).reshape(-1)
    return flat.view(np.uint8) if a.dtype.hasobject is False else flat


def largest_difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> str:
    """Describe how far two arrays of one shape and dtype are apart: how many elements, and how much at most."""
    bytes_differ = (
        (_as_bytes(a) != _as_bytes(b)).reshape(a.size, -1).any(axis=1) if a.size else np.zeros(0, bool)
    )
    text = f"{int(bytes_differ.sum())} of {a.size} elements"
    try:
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(a.astype(wide) - b.astype(wide))
        if np.isnan(apart).any():
            return f"{text}, NaN among them"
        return f"{text}, max abs {float(apart.max()):.3g}"
    except (TypeError, ValueError):
        return text
