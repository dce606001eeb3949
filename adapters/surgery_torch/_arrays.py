"""The primitives of the core, on torch tensors, on whatever device they are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from surgery.extend import DType, Leaf, SpecError, TensorSpec, itemsize_in_memory, numpy_dtype

# torch's float4 packs two elements to a byte and counts the pairs.
_PAIRS = {"float4_e2m1fn_x2": "float4_e2m1fn"}
_SAME_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def name_of(dtype: torch.dtype) -> DType:
    """Return the canonical name of a torch dtype; torch's own types keep torch's name."""
    return str(dtype).removeprefix("torch.")


def torch_dtype(name: DType) -> torch.dtype:
    """Return the torch dtype of a canonical name.

    Raises:
        SpecError: torch has no such type.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise SpecError(f"torch has no dtype '{name}'", hint="cast it first, or stay in numpy")
    return found


class TorchBackend:
    """torch.Tensor and its subclasses, on any device; meta tensors count as shapes."""

    name = "torch"
    ties_by_object = False

    def spec(self, x: Leaf, /) -> TensorSpec:
        if isinstance(x, UninitializedTensorMixin):
            return TensorSpec((), "uninitialized")
        dtype = name_of(x.dtype)
        if dtype in _PAIRS and x.ndim:
            return TensorSpec((*x.shape[:-1], 2 * x.shape[-1]), _PAIRS[dtype])
        return TensorSpec(tuple(x.shape), dtype)

    def holds_data(self, x: Leaf, /) -> bool:
        return not isinstance(x, UninitializedTensorMixin) and not x.is_meta

    def identity(self, x: Leaf, /) -> Hashable | None:
        """The same view of the same storage: detached tensors of one parameter are one tensor."""
        if isinstance(x, UninitializedTensorMixin) or x.layout is not torch.strided:
            return id(x)
        try:
            storage = x.untyped_storage()
        except (RuntimeError, NotImplementedError):  # a subclass that wraps others
            return id(x)
        lazily = (x.is_conj(), x.is_neg())  # views that change the values and not the place
        return (storage._cdata, x.storage_offset(), tuple(x.shape), x.stride(), x.dtype, *lazily)

    def transpose(self, x: Leaf, axes: Sequence[int], /) -> Leaf:
        return x.detach().permute(tuple(axes))

    def reshape(self, x: Leaf, shape: Sequence[int], /) -> Leaf:
        return x.detach().reshape(tuple(shape))

    def slice(self, x: Leaf, axis: int, start: int, stop: int, /) -> Leaf:
        return x.detach().narrow(axis, start, stop - start)

    def take(self, x: Leaf, axis: int, indices: Sequence[int], /) -> Leaf:
        return x.detach().index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=x.device))

    def concat(self, xs: Sequence[Leaf], axis: int, /) -> Leaf:
        return torch.cat([x.detach() for x in xs], dim=axis)

    def cast(self, x: Leaf, dtype: DType, /) -> Leaf:
        return x.detach().to(torch_dtype(dtype))

    def scale(self, x: Leaf, factors: Sequence[float], axis: int, /) -> Leaf:
        shape = [1] * x.ndim
        shape[axis] = -1
        return x.detach() * torch.tensor(list(factors), dtype=x.dtype, device=x.device).reshape(shape)

    def copy(self, x: Leaf, /) -> Leaf:
        return x.detach().clone(memory_format=torch.preserve_format)

    def settled(self, x: Leaf, /) -> Leaf:
        if isinstance(x, UninitializedTensorMixin) or x.layout is not torch.strided:
            return x
        if not x.is_contiguous():
            return x.contiguous()
        if x.is_meta or x.untyped_storage().nbytes() <= x.numel() * x.element_size():
            return x
        return x.clone()

    def to_numpy(self, x: Leaf, /) -> np.ndarray[Any, Any]:
        """The elements bit for bit: narrow floats go through integers of the same width."""
        if x.is_meta:
            raise SpecError("a meta tensor has no data", hint="materialise the module first")
        if x.layout is not torch.strided:
            raise SpecError(
                f"a tensor of layout {str(x.layout).removeprefix('torch.')} has no dense elements",
                hint="use its to_dense(), or save it to a .pt file",
            )
        try:
            plain = x.detach().resolve_conj().resolve_neg().cpu()
        except NotImplementedError as error:
            hint = "it may have its own way out, such as dequantize(); a .pt file holds it as it is"
            text = f"a {type(x).__name__} does not let its elements be read"
            raise SpecError(text, hint=hint) from error
        spec = self.spec(x)
        try:
            found: np.ndarray[Any, Any] = plain.numpy()
            return found
        except (TypeError, RuntimeError):
            pass
        dtype = numpy_dtype(spec.dtype)
        if spec.dtype in _PAIRS.values():
            return _unpacked(plain.view(torch.uint8).numpy(), dtype)
        width = itemsize_in_memory(spec.dtype)
        as_integers: np.ndarray[Any, Any] = plain.view(_SAME_WIDTH[width]).numpy()
        return as_integers.view(dtype)

    def is_placed_like(self, x: Leaf, like: Leaf, /) -> bool:
        return bool(x.device == like.device)

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Leaf | None = None, device: Any = None
    ) -> Leaf:
        place = device if device is not None else like.device if like is not None else None
        array = np.asarray(array)
        if (
            not array.flags.writeable or not array.flags.c_contiguous
        ):  # torch must not write to what is shared
            array = np.array(array, order="C", copy=True)
        try:
            tensor = torch.from_numpy(array)
        except TypeError:
            dtype = torch_dtype(array.dtype.name)
            width = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[array.dtype.itemsize]
            tensor = torch.from_numpy(array.view(width)).view(dtype)
        return tensor if place is None else tensor.to(place)


def _unpacked(pairs: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Spread packed 4-bit elements to one byte each, the low half first."""
    out = np.empty((*pairs.shape[:-1], 2 * pairs.shape[-1]), np.uint8)
    out[..., 0::2] = pairs & 0xF
    out[..., 1::2] = pairs >> 4
    return out.view(dtype)


TORCH = TorchBackend()
