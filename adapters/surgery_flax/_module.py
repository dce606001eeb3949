"""Writing a tree back into a live nnx module."""

from __future__ import annotations

from typing import Any

from flax import nnx

import surgery as sg
from surgery.extend import Path, Report, Tree


def update(
    module: nnx.Module,
    tree: Tree,
    *,
    at: str | Path = (),
    donor_at: str | Path = (),
    rules: Any = None,
    missing: Any = "error",
    unexpected: Any = "error",
    mismatched: Any = "error",
) -> Report:
    """Write a tree into an nnx module, in place. Arguments and errors are those of `surgery.graft`.

    `nnx.update` makes a new attribute of an unknown name and takes any shape; here
    everything is checked before the first value is set. Variables stay the objects
    they are.

    Returns:
        The report of the graft.

    >>> import jax.numpy as jnp, surgery as sg
    >>> from flax import nnx
    >>> module = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> print(sg.flax.update(module, {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}))
    graft: 2 loaded, 0 cast, 0 tied, 0 missing, 0 unexpected, 0 mismatched
      loaded  bias    f32[1]
      loaded  kernel  f32[2,1]
    """
    state = nnx.state(module)
    grafted, report = sg.graft(
        state,
        tree,
        at=at,
        donor_at=donor_at,
        rules=rules,
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
    )
    changed = sg.diff(state, grafted)
    changed.raise_if(removed=True, added=True, shape=True, dtype=True)
    nnx.update(module, grafted)
    return report
