"""What a plan saves you: the edit of part 4 by hand, on parameters and on Adam's state."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from flax import traverse_util
from flax.training.train_state import TrainState

from cnn import TorchCNN


def flax_by_hand(state: TrainState, order: list[int]) -> TrainState:
    """Flatten, edit, unflatten, three times; put the optimizer state together again."""
    index = np.array(order)

    def edited(tree: Any) -> Any:
        flat = traverse_util.flatten_dict(tree)
        flat["Conv_0", "kernel"] = flat["Conv_0", "kernel"][..., index]
        flat["Conv_0", "bias"] = flat["Conv_0", "bias"][index]
        flat["Conv_1", "kernel"] = flat["Conv_1", "kernel"][:, :, index]
        return traverse_util.unflatten_dict(flat)

    adam, rest = state.opt_state
    adam = adam._replace(mu=edited(adam.mu), nu=edited(adam.nu))
    return state.replace(params=edited(state.params), opt_state=(adam, rest))


def torch_by_hand(module: TorchCNN, optimizer: torch.optim.Adam, order: list[int]) -> list[Any]:
    """Edit a state_dict, and find in the optimizer's, which counts parameters, the same ones."""
    weights, moments = copy.deepcopy(module.state_dict()), copy.deepcopy(optimizer.state_dict())
    numbers = {name: n for n, (name, _) in enumerate(module.named_parameters())}
    for name, axis in {"conv_0.weight": 0, "conv_0.bias": 0, "conv_1.weight": 1}.items():
        index = torch.tensor(order)
        weights[name] = weights[name].index_select(axis, index)
        slots = moments["state"][numbers[name]]
        for slot in ("exp_avg", "exp_avg_sq"):
            slots[slot] = slots[slot].index_select(axis, index)
    return [weights, moments]
