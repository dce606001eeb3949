"""A shape is not a tensor: what holds no data is not equal, bit for bit, to what does."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import surgery as sg

PAIRS = [
    pytest.param(jax.ShapeDtypeStruct((2,), jnp.float32), jnp.ones(2), id="jax"),
    pytest.param(torch.empty(2, device="meta"), torch.ones(2), id="torch"),
    pytest.param(sg.TensorSpec((2,), "float32"), np.ones(2, np.float32), id="spec"),
]


@pytest.mark.parametrize(("abstract", "real"), PAIRS)
def test_an_abstract_leaf_is_not_equal_to_a_real_one(abstract: Any, real: Any) -> None:
    assert not sg.equal({"w": abstract}, {"w": real})
    assert not sg.equal({"w": real}, {"w": abstract})
    (row,) = sg.diff({"w": abstract}, {"w": real}, values=True)
    assert (row.status, row.note) == ("value", "only one of the two holds data")


@pytest.mark.parametrize(("abstract", "real"), PAIRS)
def test_two_abstract_leaves_of_one_spec_are_equal(abstract: Any, real: Any) -> None:
    assert sg.equal({"w": abstract}, {"w": abstract})
    assert sg.equal({"w": abstract}, sg.spec({"w": real}))


@pytest.mark.parametrize(("abstract", "real"), PAIRS)
def test_specs_can_be_compared_without_values(abstract: Any, real: Any) -> None:
    assert not sg.diff({"w": abstract}, {"w": real})
