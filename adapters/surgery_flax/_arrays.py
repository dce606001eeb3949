"""The primitives of the core, on jax arrays, sharded ones, tracers, PRNG keys and abstract values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from surgery.extend import DType, Leaf, SpecError, TensorSpec, name_of, numpy_dtype

_TWO_BITS: dict[Any, Any] = {
    np.dtype(getattr(jnp, name)): wide
    for name, wide in (("int2", np.int8), ("uint2", np.uint8))
    if hasattr(jnp, name)
}


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

    def stands_for_data(self, x: Leaf, /) -> bool:
        """Whether there is data, even if it cannot be read: of a tracer, or of a deleted array."""
        return True

    def transpose(self, x: Leaf, axes: Sequence[int], /) -> Leaf:
        return jnp.transpose(_alive(x), tuple(axes))

    def reshape(self, x: Leaf, shape: Sequence[int], /) -> Leaf:
        return jnp.reshape(_alive(x), tuple(shape))

    def slice(self, x: Leaf, axis: int, start: int, stop: int, /) -> Leaf:
        return _alive(x)[(slice(None),) * axis + (slice(start, stop),)]

    def take(self, x: Leaf, axis: int, indices: Sequence[int], /) -> Leaf:
        return _alive(x)[(slice(None),) * axis + (np.asarray(list(indices), dtype=np.int32),)]

    def concat(self, xs: Sequence[Leaf], axis: int, /) -> Leaf:
        _must_live_together([_alive(x) for x in xs])
        if xs[0].dtype in _TWO_BITS:  # XLA ends the process when it joins these (jax 0.10)
            wide = jnp.concatenate([x.astype(_TWO_BITS[xs[0].dtype]) for x in xs], axis=axis)
            return wide.astype(xs[0].dtype)
        return jnp.concatenate(list(xs), axis=axis)

    def cast(self, x: Leaf, dtype: DType, /) -> Leaf:
        _refuse_narrowing(numpy_dtype(dtype))
        return _alive(x).astype(numpy_dtype(dtype))

    def scale(self, x: Leaf, factors: Sequence[float], axis: int, /) -> Leaf:
        shape = [1] * x.ndim
        shape[axis] = -1
        return _alive(x) * jnp.asarray(np.asarray(factors).reshape(shape), dtype=x.dtype)

    def copy(self, x: Leaf, /) -> Leaf:
        return jnp.array(_alive(x), copy=True)

    def settled(self, x: Leaf, /) -> Leaf:
        return x

    def to_numpy(self, x: Leaf, /) -> np.ndarray[Any, Any]:
        """The elements on the host; for PRNG keys, the numbers that make them up."""
        if isinstance(x, Tracer):
            raise SpecError("a traced value has no data yet", hint="only structure verbs work inside jit")
        if not _alive(x).is_fully_addressable:
            raise SpecError(
                "parts of the array are on other hosts", hint="gather it first, or save with orbax"
            )
        return np.asarray(jax.random.key_data(x) if is_key(x) else x)

    def is_placed_like(self, x: Leaf, like: Leaf, /) -> bool:
        """Whether `x` may stay where it is. Where nobody chose a place for `like`, it may."""
        if isinstance(x, Tracer) or _chosen_place(like, x.shape) is None:
            return True
        return bool(x.shape != like.shape or x.sharding.is_equivalent_to(like.sharding, x.ndim))

    def move(self, x: Leaf, /, like: Leaf | None = None, device: Any = None) -> Leaf:
        """Return the same array in another place, from device to device; a PRNG key stays one."""
        place = device if device is not None else _chosen_place(like, x.shape)
        return x if place is None else jax.device_put(_alive(x), place)

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Leaf | None = None, device: Any = None
    ) -> Leaf:
        array = np.asarray(array)
        _refuse_narrowing(array.dtype)
        place = device if device is not None else _chosen_place(like, array.shape)
        if _is_on_host(place):
            array = array.copy()  # jax would take the memory as its own, and it is the caller's
        return jnp.asarray(array) if place is None else jax.device_put(array, place)


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
        _refuse_narrowing(numpy_dtype(dtype))
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
        _refuse_narrowing(array.dtype)
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


def _alive(x: Leaf) -> Leaf:
    """Return an array that still has its data. Shape and sharding of others can be read, but no more."""
    if not isinstance(x, Tracer) and x.is_deleted():
        raise SpecError("the array was deleted or donated", hint="use the tree before it is donated")
    return x


def _is_committed(x: Leaf) -> bool:
    """Whether somebody chose where this array lives; jax moves the others to where they are needed."""
    return len(x.sharding.device_set) > 1 or bool(getattr(x, "committed", True))


def _chosen_place(like: Leaf | None, shape: Sequence[int]) -> Sharding | None:
    """Return where an array of this shape has to live to be with `like`, None where nobody chose.

    Axes of another shape cannot be laid out like those of `like`; then every one of its
    devices gets the whole array, so that both can still be used together.
    """
    if like is None or isinstance(like, Tracer) or not _is_committed(like):
        return None
    sharding: Sharding = like.sharding
    if tuple(like.shape) == tuple(shape) or len(sharding.device_set) == 1:
        return sharding
    whole = PartitionSpec()  # type: ignore[no-untyped-call]
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, whole, memory_kind=sharding.memory_kind)
    devices = sorted(sharding.device_set, key=_number)
    return NamedSharding(Mesh(np.array(devices), ("devices",)), whole)


def _number(device: Any) -> int:
    number: int = device.id
    return number


def _is_on_host(place: Any) -> bool:
    if place is None:
        return jax.default_backend() == "cpu" or getattr(jax.config, "jax_default_device", None) is not None
    devices = place.device_set if isinstance(place, Sharding) else [place]
    return any(getattr(device, "platform", "cpu") == "cpu" for device in devices)


def _must_live_together(xs: Sequence[Leaf]) -> None:
    places = {
        tuple(sorted(map(_number, x.sharding.device_set)))
        for x in xs
        if not isinstance(x, Tracer) and _is_committed(x)
    }
    if len(places) > 1:
        raise SpecError(
            "one op meets arrays that live on different devices",
            found="devices " + " and ".join(str(list(place)) for place in sorted(places)),
            hint="put them together first: realize(tree, 'jax', device=...)",
        )


JAX = JaxBackend()
ABSTRACT = AbstractBackend()
