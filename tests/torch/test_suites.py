"""torch tensors, modules' trees and torch's files pass the suites of `surgery.testing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from surgery.testing import AdapterSuite, FormatSuite
from surgery_torch._arrays import TORCH, torch_dtype
from tests.torch.nets import TiedNet


class TestTorch(AdapterSuite):
    target = "torch"
    dtypes: ClassVar[tuple[str, ...]] = (
        *("float32", "float64", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"),
        "complex64",
    )

    def make(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor: torch.Tensor = TORCH.from_numpy(array.copy())
        return tensor

    def make_abstract(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=torch_dtype(dtype), device="meta")

    def trees(self) -> Mapping[str, Any]:
        net = TiedNet()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return {
            "plain": self.plain_tree(),
            "state_dict": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict(),
            "optimizer": optimizer.state_dict(),
            "checkpoint": {"model": torch.nn.Linear(2, 3).state_dict(), "epoch": 3},
        }


class TestTorchParameters(AdapterSuite):
    """The same for parameters, which autograd watches."""

    target = "torch"
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    def make(self, array: np.ndarray[Any, Any]) -> torch.nn.Parameter:
        return torch.nn.Parameter(TORCH.from_numpy(array.copy()))


class TestTorchFile(FormatSuite):
    name, suffix = "torch", ".pt"
    streams = False  # torch.save knows no other way
    keeps_metadata = False
    dtypes: ClassVar[tuple[str, ...]] = (
        *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("bool", "uint8", "int8", "int16", "int32", "int64", "complex64"),
    )


class TestTorchFileOfTensors(TestTorchFile):
    """The same, written from torch's own tensors."""

    def make(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor: torch.Tensor = TORCH.from_numpy(array)
        return tensor
