"""Parameters and Adam's state of a jax model on one device, and what there is to measure on it."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax

import surgery as sg

NAME = "jax"


class World:
    """A training state on a device, and how its library waits, copies and counts memory."""

    kernel = "{p:**}/kernel"
    qkv = "{p:**}/qkv/kernel"
    parts = ("{p}/q/kernel", "{p}/k/kernel", "{p}/v/kernel")
    out_axis = 1  # a kernel is in x out
    layer = ("h_{i:int}/{p:**}", "h/{p}")

    def __init__(self, device: str, layers: int, width: int) -> None:
        self.device = jax.devices("gpu" if device == "cuda" else device)[0]
        with jax.default_device(self.device):
            key = jax.random.key(0)
            self.params = {
                f"h_{n}": {
                    "qkv": {"kernel": jax.random.normal(key, (width, 3 * width))},
                    "up": {"kernel": jax.random.normal(key, (width, 4 * width))},
                    "down": {"kernel": jax.random.normal(key, (4 * width, width))},
                }
                for n in range(layers)
            }
            self.opt = optax.scale_by_adam().init(self.params)
            self.opt = self.opt._replace(mu=copied(self.params), nu=jax.tree.map(jnp.square, self.params))
        self.wait(self.opt)

    def tree(self) -> Any:
        """Everything as one tree, for verbs that need no plan."""
        return {"params": self.params, "mu": self.opt.mu, "nu": self.opt.nu}

    def edit(self, plan: sg.Plan) -> Any:
        """Apply a plan to parameters and moments, leaf by leaf."""
        state = plan.apply(sg.TrainingState.of(params=self.params, opt=self.opt))
        return state.params, state.opt

    def programs(self, plan: sg.Plan) -> dict[str, Any]:
        """The same as one compiled program; donated, it may write where its arguments lie."""

        def both(params: Any, opt: Any) -> Any:
            state = plan.apply(sg.TrainingState.of(params=params, opt=opt))
            return state.params, state.opt

        program = jax.jit(both)
        donated = jax.jit(both, donate_argnums=(0, 1))
        self.wait(program(self.params, self.opt))  # compiled before it is timed
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")  # their shapes change
        self.wait(donated(copied(self.params), copied(self.opt)))
        return {
            "one jitted program": lambda: program(self.params, self.opt),
            "one jitted, donated program": (
                lambda arguments: donated(*arguments),
                lambda: (copied(self.params), copied(self.opt)),
            ),
        }

    def by_hand(self, what: str) -> Any:
        """The loop that users write, over parameters and moments."""
        return tuple(_BY_HAND[what](tree) for tree in (self.params, self.opt.mu, self.opt.nu))

    def result(self, edited: Any) -> Any:
        """What `by_hand` gives, taken from what `edit` gives."""
        params, opt = edited
        return params, opt.mu, opt.nu

    def copy(self) -> Any:
        return copied(self.tree())

    def wait(self, value: Any = None) -> None:
        jax.block_until_ready(value)

    def reset_peak(self) -> None:
        """The allocator keeps one peak for the process: what a way adds to it is what counts."""

    def peak(self) -> int | None:
        """The most bytes that were ever in use, or None where the device does not count."""
        counted = self.device.memory_stats()
        return counted.get("peak_bytes_in_use") if counted else None


def copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _transposed(tree: Any) -> Any:
    return jax.tree.map(jnp.transpose, tree)


def _split(tree: Any) -> Any:
    out = {}
    for name, block in tree.items():
        q, k, v = jnp.split(block["qkv"]["kernel"], 3, axis=1)
        rest = {key: value for key, value in block.items() if key != "qkv"}
        out[name] = {"q": {"kernel": q}, "k": {"kernel": k}, "v": {"kernel": v}, **rest}
    return out


def _stacked(tree: Any) -> Any:
    blocks = [tree[f"h_{n}"] for n in range(len(tree))]
    return {"h": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


_BY_HAND = {"transpose": _transposed, "split": _split, "stack": _stacked}
