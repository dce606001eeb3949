"""What an array library must be able to do: the primitives that every op is written over.

A backend handles the leaves of one library where they live: a CUDA tensor stays
on its device, a sharded array keeps its sharding. Every method is pure; none
writes into its arguments. Results may be views of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from surgery._dtypes import DType
from surgery._types import Leaf, TensorSpec

if TYPE_CHECKING:
    import numpy as np


class Backend(Protocol):
    """The primitives of one array library.

    Three more are asked for only where a backend has them: `defer(op, xs, kind)`, which
    takes an op as a whole; `move(x, like=..., device=...)`, which puts a leaf elsewhere
    without a detour through numpy; `stands_for_data(x)`, which tells a leaf whose data
    cannot be read now (traced, deleted) from one that is only a shape.

    Attributes:
        name: the library, such as `"numpy"`, `"jax"`, `"torch"`.
        ties_by_object: True where `identity` is `id`: two names are tied only if
            they hold the same object.
    """

    name: str
    ties_by_object: bool

    def spec(self, x: Leaf, /) -> TensorSpec:
        """Return shape and dtype without reading data."""
        ...

    def holds_data(self, x: Leaf, /) -> bool:
        """Whether there are elements to read: not in a shape without data, a tracer, a deleted array."""
        ...

    def identity(self, x: Leaf, /) -> Hashable | None:
        """Return a value equal for two leaves exactly if they are one tensor under two names.

        None says that this leaf is never tied (a Python number, a shape without data).
        """
        ...

    def transpose(self, x: Leaf, axes: Sequence[int], /) -> Leaf:
        """Permute the axes: axis `k` of the result is axis `axes[k]` of `x`."""
        ...

    def reshape(self, x: Leaf, shape: Sequence[int], /) -> Leaf:
        """Give the same elements, in C order, another shape of the same size."""
        ...

    def slice(self, x: Leaf, axis: int, start: int, stop: int, /) -> Leaf:
        """Return elements `start:stop` along one axis."""
        ...

    def take(self, x: Leaf, axis: int, indices: Sequence[int], /) -> Leaf:
        """Return the given elements along one axis, in the given order."""
        ...

    def concat(self, xs: Sequence[Leaf], axis: int, /) -> Leaf:
        """Join along an existing axis. All have the same dtype and place."""
        ...

    def cast(self, x: Leaf, dtype: DType, /) -> Leaf:
        """Round to another dtype."""
        ...

    def scale(self, x: Leaf, factors: Sequence[float], axis: int, /) -> Leaf:
        """Multiply element `k` along one axis by `factors[k]`, keeping the dtype."""
        ...

    def copy(self, x: Leaf, /) -> Leaf:
        """Return an equal leaf that shares no memory with `x`."""
        ...

    def settled(self, x: Leaf, /) -> Leaf:
        """Return the leaf in C order, and without a hold on memory that it does not need.

        A slice keeps the whole array alive that it is cut from, and some writers
        save all of it.
        """
        ...

    def to_numpy(self, x: Leaf, /) -> np.ndarray[Any, Any]:
        """Return the elements, bit for bit, on the host. May share memory; do not write to it."""
        ...

    def is_placed_like(self, x: Leaf, like: Leaf, /) -> bool:
        """Whether a leaf of this library needs no moving to live where `like` does (device, sharding)."""
        ...

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Leaf | None = None, device: Any = None
    ) -> Leaf:
        """Return a leaf with these elements, bit for bit: placed as `like`, or on `device`, or by default."""
        ...


def must_be_readable(backend: Backend, x: Leaf) -> None:
    """Raise if a leaf has data that cannot be read now; one that is only a shape passes.

    Raises:
        SpecError: it is a traced value, or was deleted.
    """
    if not backend.holds_data(x) and is_there(backend, x):
        backend.to_numpy(x)


def is_there(backend: Backend, x: Leaf) -> bool:
    """Whether a leaf has data, even if it cannot be read now: it is not only a shape."""
    stands_for_data = getattr(backend, "stands_for_data", None)
    return backend.holds_data(x) or (stands_for_data is not None and stands_for_data(x))


def stack(backend: Backend, xs: Sequence[Leaf], axis: int) -> Leaf:
    """Join along a new axis, through `reshape` and `concat`."""
    shape = backend.spec(xs[0]).shape
    widened = [*shape[:axis], 1, *shape[axis:]]
    return backend.concat([backend.reshape(x, widened) for x in xs], axis)
