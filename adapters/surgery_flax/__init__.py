"""The Flax adapter: linen and nnx trees, boxes, optax states, msgpack files.

Users reach it as `sg.flax`. Nothing here imports jax until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery_flax._adapter import ADAPTER as ADAPTER
    from surgery_flax._nnx import update as update

_HOME = {"ADAPTER": "_adapter", "update": "_nnx"}

__all__ = ["ADAPTER", "update"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'surgery_flax' has no attribute '{name}'")
    value = getattr(import_module(f"surgery_flax.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
