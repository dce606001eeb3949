"""The same layer in both frameworks: what each kind of kernel needs to become the other."""

from __future__ import annotations

from typing import Any

import flax.linen as fnn
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import surgery as sg

CASES: dict[str, tuple[nn.Module, fnn.Module, sg.ops.Op | Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(5, 5), fnn.Dense(5), sg.ops.transpose(), (2, 5)),
    "conv1d": (
        nn.Conv1d(3, 4, 3),
        fnn.Conv(4, (3,), padding="VALID"),
        sg.ops.permute_axes([2, 1, 0]),
        (2, 9, 3),
    ),
    "conv2d": (
        nn.Conv2d(3, 4, (2, 3)),
        fnn.Conv(4, (2, 3), padding="VALID"),
        sg.ops.permute_axes([2, 3, 1, 0]),
        (2, 6, 7, 3),
    ),
    "depthwise": (
        nn.Conv2d(4, 8, 3, groups=4),
        fnn.Conv(8, (3, 3), padding="VALID", feature_group_count=4),
        sg.ops.permute_axes([2, 3, 1, 0]),
        (2, 6, 7, 4),
    ),
    "transposed": (
        nn.ConvTranspose2d(3, 4, (2, 3), stride=2),
        fnn.ConvTranspose(4, (2, 3), strides=(2, 2), padding="VALID", transpose_kernel=True),
        sg.ops.permute_axes([2, 3, 1, 0]),
        (2, 5, 4, 3),
    ),
}


def run(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    """Run a torch layer on an input whose channels come last, as linen has them."""
    ahead = torch.from_numpy(np.moveaxis(x, -1, 1)) if x.ndim > 2 else torch.from_numpy(x)
    with torch.no_grad():
        out = layer(ahead).numpy()
    return np.moveaxis(out, 1, -1) if x.ndim > 2 else out


@pytest.mark.parametrize("name", CASES)
def test_2a_21_a_converted_layer_computes_the_same(name: str) -> None:
    theirs, ours, op, shape = CASES[name]
    rules = [("weight", "params/kernel", op), ("bias", "params/bias")]
    plan = sg.plan(rules, theirs.state_dict())
    variables = sg.realize(sg.unflatten(dict(sg.flatten(plan.apply(theirs.state_dict())))), "jax")
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(ours.apply(variables, jnp.asarray(x)), run(theirs, x), atol=1e-5)
    back = plan.inverse().apply(plan.apply(theirs.state_dict()))
    assert sg.equal(back, theirs.state_dict())


def test_2c_48_trees_of_two_libraries_are_matched_by_path_and_not_by_position() -> None:
    """A dict has its keys sorted in jax, and in their order in torch: the first leaf here is the last there."""
    import jax

    state = {f"{name}.w": torch.full((2,), float(n)) for n, name in enumerate("dcba")}
    params = sg.realize(state, "jax")
    assert [float(x[0]) for x in jax.tree.leaves(params)] == [3, 2, 1, 0]
    target = {name: {"w": jnp.zeros(2)} for name in "abcd"}
    grafted, _ = sg.graft(target, state)
    assert {name: float(node["w"][0]) for name, node in grafted.items()} == {"a": 3, "b": 2, "c": 1, "d": 0}
    assert not sg.diff(grafted, sg.unflatten(dict(sg.flatten(params))), values=True)


def test_2c_47_torch_never_writes_into_an_array_of_jax() -> None:
    params = {"w": jnp.arange(4.0), "n": np.asarray(jnp.arange(3.0))}
    assert not params["n"].flags.writeable
    tensors: dict[str, Any] = sg.realize(params, "torch")
    for x in tensors.values():
        x.add_(100)
    assert params["w"].tolist() == [0, 1, 2, 3] and params["n"].tolist() == [0, 1, 2]
