"""The checks of arrays: how they are known, and the primitives against numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from surgery._arrays.backend import Backend
from surgery._arrays.numpy import NUMPY
from surgery._dtypes import DType, is_floating, is_lossless, numpy_dtype
from surgery._testing.common import SHAPES, layouts, same_bits, sample
from surgery._trees.registry import backend_of, is_array
from surgery._types import Leaf


class ArrayChecks:
    """The half of `AdapterSuite` that is about single arrays."""

    dtypes: ClassVar[tuple[DType, ...]] = ("float32", "float16", "int32", "int8", "bool")

    # --- what a subclass says -------------------------------------------------------------------

    def make(self, array: np.ndarray[Any, Any]) -> Leaf:
        """Return an array of the library with these elements, at its usual place."""
        raise NotImplementedError

    def make_elsewhere(self, array: np.ndarray[Any, Any]) -> Leaf | None:
        """Return such an array on another device, or with another sharding; None if there is but one place."""
        return None

    def make_abstract(self, shape: tuple[int, ...], dtype: DType) -> Leaf | None:
        """Return a leaf that has a shape and a dtype but no data; None if the library has no such thing."""
        return None

    # --- what the checks use --------------------------------------------------------------------

    def leaf(self, *shape: int, dtype: DType | None = None, seed: int = 0) -> Leaf:
        """Return an array of the library."""
        return self.make(sample(shape, dtype or self.dtypes[0], seed))

    def backend(self) -> Backend:
        """Return the backend that the registry finds for an array of the library."""
        return backend_of(self.leaf(2, 3))

    def samples(self) -> Iterator[tuple[str, np.ndarray[Any, Any], Leaf]]:
        """Yield what to say of it, an array of numpy, and its equal of the library, of every dtype and shape."""
        for dtype in self.dtypes:
            for shape in SHAPES:
                array = sample(shape, dtype)
                yield f"{dtype}{list(shape)}", array, self.make(array)

    # --- arrays ---------------------------------------------------------------------------------

    def test_the_registry_finds_one_backend_for_all_arrays(self) -> None:
        backend = self.backend()
        for name, _, x in self.samples():
            assert backend_of(x) is backend, name
            assert is_array(x) and backend.holds_data(x), name

    def test_the_spec_is_that_of_the_elements(self) -> None:
        for name, array, x in self.samples():
            found = self.backend().spec(x)
            assert (found.shape, numpy_dtype(found.dtype)) == (array.shape, array.dtype), f"{name}: {found}"
            assert all(type(size) is int for size in found.shape), name

    def test_the_elements_come_back_bit_for_bit(self) -> None:
        for name, array, x in self.samples():
            assert same_bits(self.backend().to_numpy(x), array), name

    def test_arrays_are_made_of_numpy_arrays_however_they_lie_in_memory(self) -> None:
        backend = self.backend()
        for dtype in self.dtypes:
            for shape in SHAPES:
                for how, array in layouts(sample(shape, dtype)).items():
                    made = backend.from_numpy(array)
                    assert same_bits(backend.to_numpy(made), array), f"{dtype}{list(shape)} {how}"
                    assert backend_of(made) is backend

    def test_a_leaf_is_itself_and_no_other(self) -> None:
        backend = self.backend()
        x, other = self.leaf(2, 3), self.leaf(2, 3)
        name = backend.identity(x)
        assert name == backend.identity(x)
        assert name is None or name != backend.identity(other)
        assert not backend.ties_by_object or name == id(x)
        hash(name)

    def test_a_copy_is_equal_and_is_not_the_leaf(self) -> None:
        backend = self.backend()
        for name, array, x in self.samples():
            copied = backend.copy(x)
            assert same_bits(backend.to_numpy(copied), array), name
            if array.size:
                assert backend.identity(x) is None or backend.identity(copied) != backend.identity(x), name

    # --- primitives -----------------------------------------------------------------------------

    def _agree(self, name: str, made: Leaf, expected: np.ndarray[Any, Any], like: Leaf) -> None:
        backend = self.backend()
        assert backend_of(made) is backend, f"{name}: the result is a {type(made).__name__}"
        assert backend.spec(made).shape == expected.shape, f"{name}: {backend.spec(made)}"
        assert same_bits(backend.to_numpy(made), expected), name
        assert backend.is_placed_like(made, like), f"{name}: the result is in another place"
        assert same_bits(backend.to_numpy(backend.settled(made)), expected), f"{name}, settled"

    def test_transpose_permutes_axes_as_numpy_does(self) -> None:
        for name, array, x in self.samples():
            axes = list(range(array.ndim))[::-1]
            self._agree(name, self.backend().transpose(x, axes), np.transpose(array, axes), x)
        x = self.leaf(2, 3, 4)
        for order in ([1, 2, 0], (0, 2, 1)):
            expected = np.transpose(self.backend().to_numpy(x), order)
            self._agree(str(order), self.backend().transpose(x, order), expected, x)

    def test_reshape_reads_and_fills_in_C_order_even_after_a_transpose(self) -> None:
        backend = self.backend()
        for name, array, x in self.samples():
            self._agree(name, backend.reshape(x, [array.size]), array.reshape(-1), x)
            self._agree(name, backend.reshape(x, (1, *array.shape)), array[None], x)
            turned = backend.transpose(x, list(range(array.ndim))[::-1])
            self._agree(f"{name}.T", backend.reshape(turned, [array.size]), array.T.reshape(-1), x)

    def test_slice_and_take_select_along_one_axis(self) -> None:
        backend = self.backend()
        for name, array, x in self.samples():
            for axis, size in enumerate(array.shape):
                half = size // 2
                for start, stop in ((0, size), (half, size), (0, half), (half, half)):
                    expected = np.take(array, range(start, stop), axis) if size else array
                    self._agree(f"{name}[{start}:{stop}]", backend.slice(x, axis, start, stop), expected, x)
                wanted = [*range(size)][::-1] + [0] * (size > 0)
                expected = np.take(array, np.array(wanted, np.intp), axis)
                self._agree(f"{name} take {wanted}", backend.take(x, axis, wanted), expected, x)
                self._agree(
                    f"{name} take none",
                    backend.take(x, axis, []),
                    np.take(array, np.array([], np.intp), axis),
                    x,
                )

    def test_concat_joins_along_one_axis_in_order(self) -> None:
        backend = self.backend()
        for name, array, x in self.samples():
            for axis in range(array.ndim):
                other = sample(array.shape, str(backend.spec(x).dtype), seed=3)
                expected = np.concatenate([array, other, array], axis)
                self._agree(name, backend.concat([x, self.make(other), x], axis), expected, x)
            if array.ndim:
                self._agree(f"{name} alone", backend.concat([x], 0), array, x)

    def test_cast_rounds_as_numpy_does(self) -> None:
        backend = self.backend()
        for source in self.dtypes:
            for target in self.dtypes:
                if source.startswith("complex") and not target.startswith("complex"):
                    continue  # the op refuses it before a backend is asked
                array = sample((2, 3), source)
                if is_floating(source) and not is_floating(target):
                    array = np.abs(np.nan_to_num(array.astype(np.float64), posinf=1)).astype(array.dtype)
                x = self.make(array)
                made = backend.to_numpy(backend.cast(x, target))
                expected = NUMPY.cast(array, target)
                assert made.dtype == expected.dtype, f"{source} -> {target}"
                wide = (made.astype(np.complex128), expected.astype(np.complex128))
                assert np.array_equal(*wide, equal_nan=True), f"{source} -> {target}"
                if is_lossless(source, target) and not target.startswith("complex"):
                    back = backend.to_numpy(backend.cast(backend.cast(x, target), source))
                    assert np.array_equal(
                        back.astype(np.complex128), array.astype(np.complex128), equal_nan=True
                    )

    def test_scale_multiplies_along_one_axis_and_keeps_the_dtype(self) -> None:
        backend = self.backend()
        for dtype in filter(is_floating, self.dtypes):
            array = np.arange(1, 7).reshape(2, 3).astype(numpy_dtype(dtype))
            for axis, factors in ((0, [0.5, 0.25]), (1, [2.0, 0.5, 1.0])):
                shape = [-1 if n == axis else 1 for n in range(2)]
                expected = (array * np.reshape(factors, shape)).astype(array.dtype)
                x = self.make(array)
                self._agree(f"{dtype} axis {axis}", backend.scale(x, factors, axis), expected, x)

    def test_no_primitive_writes_into_what_it_is_given(self) -> None:
        backend = self.backend()
        array = sample((2, 3), self.dtypes[0])
        x = self.make(array)
        backend.transpose(x, [1, 0])
        backend.reshape(x, [6])
        backend.concat([backend.slice(x, 0, 0, 1), backend.take(x, 0, [1])], 0)
        backend.cast(x, self.dtypes[0])
        if is_floating(self.dtypes[0]):
            backend.scale(x, [2.0, 2.0], 0)
        backend.settled(backend.copy(x))
        assert same_bits(backend.to_numpy(x), array)
