"""Parameters and Adam's state of a torch model on one device, and what there is to measure on it."""

from __future__ import annotations

from typing import Any

import torch

import surgery as sg

NAME = "torch"


class World:
    """A training state on a device, and how its library waits, copies and counts memory."""

    kernel = "{p:**}.weight"
    qkv = "{p:**}.qkv.weight"
    parts = ("{p}.q.weight", "{p}.k.weight", "{p}.v.weight")
    out_axis = 0  # a weight is out x in
    layer = ("h.{i:int}.{p:**}", "h.{p}")

    def __init__(self, device: str, layers: int, width: int) -> None:
        self.device = torch.device(device)
        torch.manual_seed(0)
        sizes = {"qkv": (3, 1), "up": (4, 1), "down": (1, 4)}
        self.params = {
            f"h.{n}.{name}.weight": torch.randn(rows * width, columns * width, device=self.device)
            for n in range(layers)
            for name, (rows, columns) in sizes.items()
        }
        self.opt = {
            "state": {
                n: {"step": torch.tensor(1.0), "exp_avg": weight.clone(), "exp_avg_sq": weight.square()}
                for n, weight in enumerate(self.params.values())
            },
            "param_groups": [
                {
                    **torch.optim.AdamW([torch.zeros(1)]).state_dict()["param_groups"][0],
                    "params": [*range(len(self.params))],
                    "param_names": [*self.params],
                }
            ],
        }

    def moment(self, name: str) -> dict[str, torch.Tensor]:
        """Adam's state of that name under the parameters' names."""
        return {key: self.opt["state"][n][name] for n, key in enumerate(self.params)}

    def tree(self) -> Any:
        """Everything as one tree, for verbs that need no plan."""
        return {"params": self.params, "mu": self.moment("exp_avg"), "nu": self.moment("exp_avg_sq")}

    def edit(self, plan: sg.Plan) -> Any:
        """Apply a plan to parameters and moments, leaf by leaf."""
        state = plan.apply(sg.TrainingState.of(params=self.params, opt=self.opt))
        return state.params, state.opt

    def programs(self, plan: sg.Plan) -> dict[str, Any]:
        return {}

    def by_hand(self, what: str) -> Any:
        """The loop that users write, over parameters and moments."""
        return tuple(_BY_HAND[what](tree) for tree in self.tree().values())

    def result(self, edited: Any) -> Any:
        """What `by_hand` gives, taken from what `edit` gives."""
        params, opt = edited
        names = opt["param_groups"][0]["param_names"]
        moments = ({name: opt["state"][n][key] for n, name in enumerate(names)} for key in _MOMENTS)
        return (params, *moments)

    def copy(self) -> Any:
        return {name: {key: leaf.clone() for key, leaf in one.items()} for name, one in self.tree().items()}

    def wait(self, value: Any = None) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """The most bytes that were in use since the last reset, or None where the device does not count."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _transposed(tree: Any) -> Any:
    return {name: weight.t().contiguous() for name, weight in tree.items()}


def _split(tree: Any) -> Any:
    out = {}
    for name, weight in tree.items():
        if ".qkv." not in name:
            out[name] = weight
            continue
        for letter, part in zip("qkv", weight.chunk(3), strict=True):
            out[name.replace("qkv", letter)] = part.clone()
    return out


def _stacked(tree: Any) -> Any:
    blocks: dict[str, list[torch.Tensor]] = {}
    for name, weight in tree.items():
        _, _, rest = name.split(".", 2)
        blocks.setdefault(f"h.{rest}", []).append(weight)
    return {name: torch.stack(weights) for name, weights in blocks.items()}


_BY_HAND = {"transpose": _transposed, "split": _split, "stack": _stacked}
