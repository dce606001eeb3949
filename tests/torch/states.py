"""Checkpoints with an optimizer state, made by three real steps, and the module they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

DATA = Path(__file__).parents[1] / "data" / "torch"
KNOWN = ["adam", "adamw", "adam_named", "adam_l2_amsgrad", "sgd", "sgd_momentum"]
UNKNOWN = {"rmsprop": "RMSprop", "muon": "Muon", "adafactor": "Adafactor"}


class OracleBlock(nn.Module):
    """A fused projection and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.ln = nn.LayerNorm(4)


class OracleNet(nn.Module):
    """The module of the checkpoints: two groups, a frozen norm, an unused layer, a tied head, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out = nn.Parameter(torch.zeros(3))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList([OracleBlock(), OracleBlock()])
        self.bn = nn.BatchNorm1d(4)
        self.unused = nn.Linear(4, 2)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def facts(kind: str) -> dict[str, Any]:
    """Return what is written beside a checkpoint: its groups, and which parameters have state."""
    return json.loads((DATA / f"{kind}.json").read_text())


def names_of(kind: str) -> list[str]:
    """Return the names of the optimizer's parameters, in the order of its groups."""
    return facts(kind)["param_order"]


def optimizer_for(kind: str, net: nn.Module) -> optim.Optimizer:
    """Return a fresh optimizer of the checkpoint's kind, over the same groups, with other hyperparameters."""
    about = facts(kind)
    named = dict(net.named_parameters())
    names = iter(about["param_order"])
    groups = [{"params": [named[next(names)] for _ in group["params"]]} for group in about["groups"]]
    cls = getattr(optim, about["optimizer"])
    return cls(groups, lr=1.0, **({"momentum": 0.5} if cls is optim.SGD else {}))


def raw(kind: str) -> dict[str, Any]:
    """Return a checkpoint as torch itself reads it."""
    return torch.load(DATA / f"{kind}.pt", weights_only=True)
