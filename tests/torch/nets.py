"""Small torch modules that the tests of the adapter share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A linear layer, a norm, and a module that holds no tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.norm(self.linear(x)))


class TiedNet(nn.Module):
    """An embedding tied to the head, blocks, a BatchNorm, and buffers of both kinds."""

    def __init__(self, vocabulary: int = 7, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.bn = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.register_buffer("offset", torch.ones(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.bn(x))


class Versioned(nn.Module):
    """A module whose `_version` is its own, so that it can be told from any other in `_metadata`."""

    def __init__(self, version: int, **children: nn.Module) -> None:
        super().__init__()
        self._version = version
        for name, child in children.items():
            self.add_module(name, child)


class Extra(nn.Module):
    """A linear layer that keeps extra state of any kind."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        if state == "refused":
            raise ValueError("this extra state is refused")
        self.extra = state


def versioned(version: int, width: int = 2) -> nn.Module:
    """Return a linear layer with a `_version`."""
    layer = nn.Linear(width, width)
    layer._version = version
    return layer


def mlp() -> nn.Sequential:
    """Return the MLP 100-64-32-10 of an article on transfer learning: 8,874 parameters."""
    return nn.Sequential(nn.Linear(100, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state_dicts hold the same names and bits."""
    return list(a) == list(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y)
        for x, y in zip(a.values(), b.values(), strict=True)
    )
