"""The primitives of the core, on jax arrays, sharded ones, tracers, PRNG keys and abstract values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from surgery.extend import DType, Leaf, SpecError, TensorSpec, name_of, numpy_dtype


def is_key(x: Leaf) -> bool:
    """Whether this is a typed PRNG key array."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


class JaxBackend:
    """jax.Array and tracers. Ops are jax's own, so an array keeps its devices and its sharding."""

    name = "jax"
    ties_by_object = True

    def spec(self, x: Leaf, /) -> TensorSpec:
        return TensorSpec(tuple(x.shape), str(x.dtype) if is_key(x) else name_of(np.dtype(x.dtype)))

    def holds_data(self, x: Leaf, /) -> bool:
        return not isinstance(x, Tracer) and not x.is_deleted()

    def identity(self, x: Leaf, /) -> Hashable | None:
        return id(x)

    def transpose(self, x: Leaf, axes: Sequence[int], /) -> Leaf:
        return jnp.transpose(x, tuple(axes))

    def reshape(self, x: Leaf, shape: Sequence[int], /) -> Leaf:
        return jnp.reshape(x, tuple(shape))

    def slice(self, x: Leaf, axis: int, start: int, stop: int, /) -> Leaf:
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def take(self, x: Leaf, axis: int, indices: Sequence[int], /) -> Leaf:
        return x[(slice(None),) * axis + (np.asarray(list(indices), dtype=np.int32),)]

    def concat(self, xs: Sequence[Leaf], axis: int, /) -> Leaf:
        return jnp.concatenate(list(xs), axis=axis)

    def cast(self, x: Leaf, dtype: DType, /) -> Leaf:
        _refuse_narrowing(numpy_dtype(dtype))
        return x.astype(numpy_dtype(dtype))

    def scale(self, x: Leaf, factors: Sequence[float], axis: int, /) -> Leaf:
        shape = [1] * x.ndim
        shape[axis] = -1
        return x * jnp.asarray(np.asarray(factors).reshape(shape), dtype=x.dtype)

    def copy(self, x: Leaf, /) -> Leaf:
        return jnp.array(x, copy=True)

    def settled(self, x: Leaf, /) -> Leaf:
        return x

    def to_numpy(self, x: Leaf, /) -> np.ndarray[Any, Any]:
        """The elements on the host; for PRNG keys, the numbers that make them up."""
        if isinstance(x, Tracer):
            raise SpecError("a traced value has no data yet", hint="only structure verbs work inside jit")
        if x.is_deleted():
            raise SpecError("the array was deleted or donated", hint="use the tree before it is donated")
        if not x.is_fully_addressable:
            raise SpecError(
                "parts of the array are on other hosts", hint="gather it first, or save with orbax"
            )
        return np.asarray(jax.random.key_data(x) if is_key(x) else x)

    def is_placed_like(self, x: Leaf, like: Leaf, /) -> bool:
        if isinstance(x, Tracer) or isinstance(like, Tracer):
            return True
        return bool(x.sharding.is_equivalent_to(like.sharding, x.ndim)) if x.shape == like.shape else True

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Leaf | None = None, device: Any = None
    ) -> Leaf:
        array = np.asarray(array)
        _refuse_narrowing(array.dtype)
        if device is not None:
            return jax.device_put(array, device)
        if like is not None and not isinstance(like, Tracer) and _was_placed(like):
            fits = tuple(like.shape) == array.shape
            return jax.device_put(array, like.sharding if fits else next(iter(like.devices())))
        return jnp.asarray(array)


class AbstractBackend:
    """jax.ShapeDtypeStruct: ops are shape algebra, and the result is one again."""

    name = "jax (abstract)"
    ties_by_object = False

    def spec(self, x: Leaf, /) -> TensorSpec:
        return TensorSpec(tuple(x.shape), str(x.dtype) if is_key(x) else name_of(np.dtype(x.dtype)))

    def holds_data(self, x: Leaf, /) -> bool:
        return False

    def identity(self, x: Leaf, /) -> Hashable | None:
        return None  # one ShapeDtypeStruct may stand for many arrays of that shape

    def _new(self, x: Leaf, shape: Sequence[int], dtype: Any = None) -> Leaf:
        return _struct(shape, dtype or x.dtype)

    def transpose(self, x: Leaf, axes: Sequence[int], /) -> Leaf:
        return self._new(x, [x.shape[axis] for axis in axes])

    def reshape(self, x: Leaf, shape: Sequence[int], /) -> Leaf:
        return self._new(x, shape)

    def slice(self, x: Leaf, axis: int, start: int, stop: int, /) -> Leaf:
        return self._new(x, [*x.shape[:axis], stop - start, *x.shape[axis + 1 :]])

    def take(self, x: Leaf, axis: int, indices: Sequence[int], /) -> Leaf:
        return self._new(x, [*x.shape[:axis], len(indices), *x.shape[axis + 1 :]])

    def concat(self, xs: Sequence[Leaf], axis: int, /) -> Leaf:
        size = sum(x.shape[axis] for x in xs)
        return self._new(xs[0], [*xs[0].shape[:axis], size, *xs[0].shape[axis + 1 :]])

    def cast(self, x: Leaf, dtype: DType, /) -> Leaf:
        return self._new(x, x.shape, numpy_dtype(dtype))

    def scale(self, x: Leaf, factors: Sequence[float], axis: int, /) -> Leaf:
        return self._new(x, x.shape)

    def copy(self, x: Leaf, /) -> Leaf:
        return x

    def settled(self, x: Leaf, /) -> Leaf:
        return x

    def to_numpy(self, x: Leaf, /) -> np.ndarray[Any, Any]:
        raise SpecError(
            "a ShapeDtypeStruct has no data", hint="apply the plan to the tree that holds the arrays"
        )

    def is_placed_like(self, x: Leaf, like: Leaf, /) -> bool:
        return True

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Leaf | None = None, device: Any = None
    ) -> Leaf:
        return _struct(array.shape, array.dtype)


def _struct(shape: Sequence[int], dtype: Any) -> Leaf:
    return jax.ShapeDtypeStruct(tuple(shape), dtype)  # type: ignore[no-untyped-call]


def _refuse_narrowing(dtype: np.dtype[Any]) -> None:
    """Jax would make 64-bit numbers 32 bits wide without a word where x64 is off."""
    kept = jax.dtypes.canonicalize_dtype(dtype)
    if kept != dtype:
        raise SpecError(
            f"jax would narrow {dtype} to {kept}",
            hint="jax.config.update('jax_enable_x64', True), or cast it by a rule that says so",
        )


def _was_placed(x: Leaf) -> bool:
    """Whether somebody chose where this array lives, so that others should live there too."""
    return len(x.devices()) > 1 or bool(getattr(x, "committed", True))


JAX = JaxBackend()
ABSTRACT = AbstractBackend()
