"""What the core must know of torch: its tensors, its modules, its hidden metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from surgery.extend import (
    API,
    Adapter,
    Backend,
    Flat,
    Leaf,
    Move,
    NodeKind,
    Parts,
    Path,
    Slots,
    TrainingState,
    Tree,
)
from surgery_torch._arrays import TORCH
from surgery_torch._optim import is_optimizer_dict, torch_slots
from surgery_torch._state_dict import module_tree, moved_metadata
from surgery_torch._training import torch_parts, write_training


class TorchAdapter(Adapter):
    """PyTorch."""

    name = "torch"
    api = API
    install = "pip install 'model-surgery[torch]'"
    targets = ("torch",)

    def kind(self, node: Any, /) -> NodeKind | None:
        return None  # its containers are those of Python

    def backend(self, leaf: Leaf, /) -> Backend | None:
        return TORCH if isinstance(leaf, torch.Tensor) else None

    def target(self, name: str, /) -> Backend:
        return TORCH

    def read(self, obj: Any, /) -> Tree | None:
        return module_tree(obj) if isinstance(obj, torch.nn.Module) else None

    def editable(self, obj: Any, /) -> str | None:
        return "module.state_dict()" if isinstance(obj, torch.nn.Module) else None

    def slots(self, opt_state: Any, params: Flat, /) -> Slots | None:
        return torch_slots(opt_state, params) if is_optimizer_dict(opt_state) else None

    def training(self, source: Any, names: Sequence[str] | None, /) -> Parts | None:
        return torch_parts(source, names)

    def write_training(self, state: TrainingState, module: Any, optimizer: Any, /) -> None:
        write_training(state, module, optimizer)

    def is_optimizer_state(self, tree: Any, /) -> bool:
        return is_optimizer_dict(tree)

    def move_attribute(self, name: str, value: Any, moves: Sequence[Move], before: Sequence[Path], /) -> Any:
        if name != "_metadata" or not isinstance(value, Mapping):
            return NotImplemented
        return moved_metadata(value, moves, before)


ADAPTER = TorchAdapter()
