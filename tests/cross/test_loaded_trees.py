"""A tree from a file, made real in a framework, is used there like any other."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import surgery as sg


@pytest.mark.parametrize("name", ["m.safetensors", "m.msgpack", "m.pt"])
def test_a_loaded_tree_is_a_pytree_of_arrays_for_jax_and_optax(name: str, tmp_path: Path) -> None:
    """A subclass of dict that jax does not know is one leaf to it."""
    sg.save({"dense": {"kernel": np.ones((2, 3), np.float32)}}, tmp_path / name)
    params = sg.load(tmp_path / name, to="jax")
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(2, 3)]
    assert jax.tree.map(lambda x: x + 1, params) is not None
    assert jax.tree.leaves(optax.adam(1e-3).init(params)[0].mu)[0].shape == (2, 3)


def test_a_lazy_tree_still_knows_its_file_and_config(tmp_path: Path) -> None:
    sg.save({"w": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"layers": 2}')
    tree = sg.load(tmp_path)
    assert isinstance(tree, sg.FileTree) and tree.config == {"layers": 2}
