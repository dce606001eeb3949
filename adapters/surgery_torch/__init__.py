"""The PyTorch adapter: modules and state_dicts, optimizer states, `.pt` files.

Users reach it as `sg.torch`. Nothing here imports torch until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery_torch._adapter import ADAPTER as ADAPTER
    from surgery_torch._groups import freeze as freeze
    from surgery_torch._groups import param_groups as param_groups
    from surgery_torch._module import load_into as load_into

_HOME = {"ADAPTER": "_adapter", "freeze": "_groups", "load_into": "_module", "param_groups": "_groups"}

__all__ = ["ADAPTER", "freeze", "load_into", "param_groups"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'surgery_torch' has no attribute '{name}'")
    value = getattr(import_module(f"surgery_torch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
