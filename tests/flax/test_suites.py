"""jax arrays, the containers of flax and optax, and flax's files pass the suites of `surgery.testing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from flax.core import freeze

from surgery.testing import AdapterSuite, FormatSuite
from tests.flax.helpers import same_objects


class TestJax(AdapterSuite):
    target = "jax"
    dtypes: ClassVar[tuple[str, ...]] = (
        *("float32", "float16", "bfloat16", "float8_e4m3fn", "bool", "uint8", "int8", "int16", "int32"),
        "complex64",
    )

    def make(self, array: np.ndarray[Any, Any]) -> jax.Array:
        return jnp.array(array)

    def make_elsewhere(self, array: np.ndarray[Any, Any]) -> jax.Array | None:
        others = jax.devices()[1:]
        return jax.device_put(array, others[0]) if others else None

    def make_abstract(self, shape: tuple[int, ...], dtype: str) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]

    def is_same(self, a: Any, b: Any) -> bool:
        return super().is_same(a, b) and same_objects(a, b)

    def trees(self) -> Mapping[str, Any]:
        params = {"dense": {"kernel": self.leaf(2, 3), "bias": self.leaf(3)}}
        boxed = {"kernel": nn.Partitioned(self.leaf(2, 3), names=("in", None))}
        return {
            "plain": self.plain_tree(),
            "frozen": freeze({"params": params, "empty": {}}),
            "boxed": {"params": boxed},
            "nnx": nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
            "adam": optax.chain(optax.clip(1.0), optax.adam(0.1)).init(params),
            "masked": optax.masked(
                optax.sgd(0.1, momentum=0.9), {"dense": {"kernel": True, "bias": False}}
            ).init(params),
        }


class TestMsgpack(FormatSuite):
    name, suffix = "msgpack", ".msgpack"
    keeps_ties = keeps_metadata = False
    dtypes: ClassVar[tuple[str, ...]] = (
        *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint64", "complex64"),
    )


class TestMsgpackOfJax(TestMsgpack):
    """The same, written from jax's own arrays."""

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16", "bool", "uint8", "int8", "int32")

    def make(self, array: np.ndarray[Any, Any]) -> jax.Array:
        return jnp.asarray(array)
