"""Part 3: transfer learning, the same in Flax and in PyTorch.

A trained encoder becomes the backbone of a classifier. One list of rules says what
is frozen; it labels the parameters for optax, and groups them for torch.
"""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax.training.train_state import TrainState
from numpy.typing import NDArray
from transformers import BertConfig as TorchConfig
from transformers import BertModel

import surgery as sg
from bert_flax import Bert, BertConfig, mean_of_tokens
from demo_page import check, heading, say, table
from sentences import Labelled, Tokens, labelled, minilm, tokens, torch_mean

RULES = [("backbone/**", "frozen"), ("**", "train")]
KEEP_HEAD = [("head/**", "keep-target")]  # the pretrained model has none: keep the fresh one
RATE, STEPS = 5e-3, 6


class FlaxClassifier(nn.Module):
    """A head on the mean of the tokens. It begins at zero, so every kind is equally likely."""

    config: BertConfig
    kinds: int

    def setup(self) -> None:
        self.backbone = Bert(self.config, pooler=False)
        self.head = nn.Dense(self.kinds, kernel_init=nn.initializers.zeros)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        hidden, _ = self.backbone(ids, mask)
        return self.head(mean_of_tokens(hidden, mask))


class TorchClassifier(torch.nn.Module):
    """The same in torch."""

    def __init__(self, config: TorchConfig, kinds: int) -> None:
        super().__init__()
        self.backbone = BertModel(config, add_pooling_layer=False)
        self.head = torch.nn.Linear(config.hidden_size, kinds)
        for parameter in self.head.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, batch: Tokens) -> torch.Tensor:
        return self.head(torch_mean(self.backbone, batch))


def transfer(out: Path) -> None:
    """Train the head of a classifier in both frameworks, and show what did not change."""
    heading("3. A frozen backbone under a new head, from one list of rules")
    names, learn, test = labelled()
    batches = tokens(learn.sentences), tokens(test.sentences)
    say(f"{len(learn.kinds)} sentences about {', '.join(names)}; RULES = {RULES}")
    losses, rights = {}, {}
    for name, run in (("Flax", in_flax), ("PyTorch", in_torch)):
        say(f"\n{name}:")
        losses[name], logits = run(out, learn, *batches, len(names))
        rights[name] = int((np.argmax(logits, axis=1) == test.kinds).sum())
    say("")
    shown = range(0, STEPS + 1, 2)
    table(
        [("loss at step", *map(str, shown), "right of those kept for testing")]
        + [
            (name, *(f"{losses[name][n]:.4f}" for n in shown), f"{rights[name]} of {len(test.kinds)}")
            for name in losses
        ]
    )
    check("the loss goes down in both", all(found[-1] < found[0] / 2 for found in losses.values()))
    # Not nearer: the kinds are equally many, so the bias' first gradient is only rounding, which Adam enlarges.
    apart = float(np.abs(np.subtract(losses["Flax"], losses["PyTorch"])).max())
    check(f"both frameworks learn alike: losses are never more than {apart:.0e} apart", apart < 1e-3)


def in_flax(
    out: Path, data: Labelled, learn: Tokens, test: Tokens, kinds: int
) -> tuple[list[float], NDArray[np.float32]]:
    """Return the losses, and the logits of the test sentences, from a flax TrainState."""
    model = FlaxClassifier(BertConfig.of(sg.load(minilm()).config), kinds)
    fresh = jax.jit(model.init)(jax.random.key(0), learn.ids, learn.mask)["params"]

    pretrained = sg.load(out / "minilm.msgpack", to="jax")
    encoder = sg.drop(sg.extract(pretrained, "params"), "pooler/**")
    params, report = sg.graft(fresh, encoder, at="backbone", missing=KEEP_HEAD)
    say(report.headline())

    labels = sg.label(params, RULES)
    say(f"labels: {dict(Counter(sg.flatten(labels).values()))}")
    tx = optax.multi_transform({"train": optax.adam(RATE), "frozen": optax.set_to_zero()}, labels)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state: TrainState) -> tuple[TrainState, jax.Array]:
        def loss(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, learn.ids, learn.mask)
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(data.kinds)).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    losses = []
    for _ in range(STEPS + 1):
        state, value = step(state)
        losses.append(float(value))

    only_the_head_changed(params, state.params)
    sg.save(sg.select(state.params, "head/**"), out / "head.safetensors", overwrite=True)
    return losses, np.asarray(jax.jit(model.apply)({"params": state.params}, test.ids, test.mask))


def in_torch(
    out: Path, data: Labelled, learn: Tokens, test: Tokens, kinds: int
) -> tuple[list[float], NDArray[np.float32]]:
    """Return the same from a torch module and optimizer."""
    model = TorchClassifier(TorchConfig.from_pretrained(minilm()), kinds).eval()

    encoder = sg.drop(sg.load(minilm(), to="torch"), ["pooler/**", "**/position_ids"])
    report = sg.torch.load_into(model, encoder, at="backbone", missing=KEEP_HEAD)
    say(report.headline())

    say(sg.torch.freeze(model, RULES).headline())
    optimizer = torch.optim.Adam(sg.torch.param_groups(model, RULES, {"train": {"lr": RATE}, "frozen": None}))
    before = copy.deepcopy(model.state_dict())
    losses = []
    for _ in range(STEPS + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(learn), torch.from_numpy(data.kinds))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    only_the_head_changed(before, model.state_dict())
    with torch.no_grad():
        return losses, model(test).numpy()


def only_the_head_changed(before: Any, after: Any) -> None:
    """Show what differs, and check that everything under the backbone has the bits that it had."""
    changed = sg.diff(before, after, values=True)
    say(str(changed))
    frozen = sg.flatten(sg.extract(before, "backbone"))
    check(
        f"the head has learned; all {len(frozen)} leaves of the backbone are the same, bit for bit",
        {row.path[0] for row in changed} == {"head"},
    )
