"""Part 4: surgery in the middle of training, by hand and by a plan of three lines.

The edit: the channels of a CNN's first layer, the strongest first, as one sorts them
before pruning. The network computes what it did if all that counts these channels
moves along: the next layer too, and Adam's two moments of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax.training.train_state import TrainState
from numpy.typing import NDArray
from torch.nn import functional

import surgery as sg
from cnn import FlaxCNN, TorchCNN
from demo_by_hand import flax_by_hand, torch_by_hand
from demo_page import check, heading, say, table

RATE = 1e-3
STEPS = 5  # before the surgery, so that Adam has a history
NOISE = 1e-4  # sums in another order are rounded in another way, and Adam repeats it

FLAX_TO_TORCH = [
    ("Conv_{i}/kernel", "conv_{i}.weight", sg.ops.permute_axes([3, 2, 0, 1])),
    ("Dense_{i}/kernel", "dense_{i}.weight", sg.ops.transpose()),
    ("{Conv|Dense}_{i}/bias", "{conv|dense}_{i}.bias"),
]

Losses = list[float]


def edit_while_training(out: Path) -> None:
    """Edit parameters and moments together, in both frameworks."""
    heading("4. Surgery while training: parameters and Adam's moments together")
    say("A CNN after a few steps of Adam. Its first layer's 32 channels are sorted, the strongest first:")
    model = FlaxCNN()
    fresh = jax.jit(model.init)(jax.random.key(0), pictures()[0])["params"]
    in_flax(TrainState.create(apply_fn=model.apply, params=fresh, tx=optax.adam(RATE)), out)
    in_torch(fresh)


def in_flax(state: TrainState, out: Path) -> None:
    """A TrainState, edited by the plan and by hand."""
    state, _ = flax_steps(state, STEPS)
    order = strongest_first(np.asarray(state.params["Conv_0"]["kernel"]), (0, 1, 2))
    plan = sg.plan(
        [
            ("Conv_0/kernel", "Conv_0/kernel", sg.ops.take(order, axis=3)),
            ("Conv_0/bias", "Conv_0/bias", sg.ops.take(order, axis=0)),
            ("Conv_1/kernel", "Conv_1/kernel", sg.ops.take(order, axis=2)),
        ],
        state.params,
    )
    say(str(plan))
    edited = plan.apply(sg.TrainingState.of(state)).native

    say("\nFlax, a TrainState with optax.adam:")
    check(
        "the plan does to params, mu and nu what was done by hand",
        sg.equal(edited, flax_by_hand(state, order)),
    )
    back = plan.inverse().apply(sg.TrainingState.of(edited)).native
    check("its inverse gives the whole state back, bit for bit", sg.equal(back, state))
    forgetful = edited.replace(opt_state=state.opt_state)
    compare(*(flax_steps(one, 2)[1] for one in (state, edited, forgetful)))
    (out / "sort_channels.toml").write_text(plan.to_recipe(), "utf-8")


def in_torch(fresh: Any) -> None:
    """The same CNN from the same weights as a module with a torch optimizer."""
    module, optimizer = torch_pair()
    sg.torch.load_into(module, fresh, rules=FLAX_TO_TORCH)
    torch_steps(module, optimizer, STEPS)
    order = strongest_first(module.conv_0.weight.detach().numpy(), (1, 2, 3))
    plan = sg.plan(
        [
            ("conv_0.weight", "conv_0.weight", sg.ops.take(order, axis=0)),
            ("conv_0.bias", "conv_0.bias", sg.ops.take(order, axis=0)),
            ("conv_1.weight", "conv_1.weight", sg.ops.take(order, axis=1)),
        ],
        module.state_dict(),
    )
    edited, forgetful = torch_pair(), torch_pair()
    plan.apply(sg.TrainingState.of((module, optimizer))).write_into(*edited)
    sg.TrainingState.of((module, optimizer)).write_into(*forgetful)
    sg.torch.load_into(forgetful[0], edited[0].state_dict())

    say("\nPyTorch, a module from the same weights with torch.optim.Adam:")
    by_plan = [one.state_dict() for one in edited]
    check(
        "the plan does to weights and moments what was done by hand",
        sg.equal(by_plan, torch_by_hand(module, optimizer, order)),
    )
    compare(*(torch_steps(*pair, 2) for pair in ((module, optimizer), edited, forgetful)))


def compare(before: Losses, after: Losses, forgetful: Losses) -> None:
    """Show that training goes on as it would have, and what happens to those who forget the moments."""
    rows = {"as it was": before, "edited": after, "edited, but not the moments": forgetful}
    table(
        [("loss", "now", "after one more step")]
        + [(name, *(f"{loss:.5f}" for loss in losses)) for name, losses in rows.items()]
    )
    apart = np.abs(np.subtract([after, forgetful], before)).max(axis=1)
    check(
        f"training goes on as it would have: losses differ by {apart[0]:.1g}, without the moments by {apart[1]:.1g}",
        apart[0] < NOISE < apart[1],
    )


def strongest_first(kernel: NDArray[np.float32], axes: tuple[int, ...]) -> list[int]:
    """Return the numbers of the output channels, by falling size of their weights along the other axes."""
    return np.argsort(-np.abs(kernel).sum(axis=axes)).tolist()


def pictures() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return f32[80,28,28,1] and i64[80]: ten patterns under noise."""
    random = np.random.default_rng(0)
    patterns, kinds = random.normal(size=(10, 28, 28, 1)), np.arange(80) % 10
    return (patterns[kinds] + random.normal(size=(80, 28, 28, 1))).astype(np.float32), kinds


# Training, as anybody does it.


@jax.jit
def flax_step(state: TrainState) -> tuple[TrainState, jax.Array]:
    """One step; the loss is the one before it."""
    images, kinds = pictures()

    def loss(params: Any) -> jax.Array:
        return -state.apply_fn({"params": params}, images)[jnp.arange(len(kinds)), kinds].mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


def flax_steps(state: TrainState, steps: int) -> tuple[TrainState, Losses]:
    """Return the state after so many steps, and the loss before each of them."""
    losses = []
    for _ in range(steps):
        state, loss = flax_step(state)
        losses.append(loss.item())
    return state, losses


def torch_pair() -> tuple[TorchCNN, torch.optim.Adam]:
    """Return a fresh CNN and its optimizer, which remembers the parameters' names."""
    module = TorchCNN()
    return module, torch.optim.Adam(module.named_parameters(), lr=RATE)


def torch_steps(module: TorchCNN, optimizer: torch.optim.Adam, steps: int) -> Losses:
    """Train in place; return the loss before each step."""
    images, kinds = map(torch.from_numpy, pictures())
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.nll_loss(module(images), kinds)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
