"""Flat mappings whose string keys are joined names, such as a torch state_dict.

`{"encoder.layer.0.weight": w}` is read as a tree: the keys are split at the
separator, and joined again on the way back. Nothing is lost either way; where
it would be (`a` beside `a.b`), the mapping stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery._trees.registry import kind_of
from surgery._types import Leaf, Path

# What a torch module keeps beside its tensors. Its value is the module's own business: a leaf,
# whatever container it may be.
OPAQUE_NAME = "_extra_state"


# What torch hides on a state_dict. By it a mapping is known for one: that of a single layer has no
# dot in its names, and names of its submodules may hold a slash.
STATE_DICT_MARK = "_metadata"


def separator(mapping: Mapping[Any, Any], attributes: Mapping[str, Any] | None = None) -> str | None:
    """Return the separator of a mapping of joined names, or None if it is none.

    It is one when all keys are strings, some hold `/` or `.`, no value is a
    container with something in it, and no name is the beginning of another. The separator that more
    keys hold is taken; `/` when both are in equally many. A state_dict, known by what
    is among its attributes, has dots.
    """
    slashes = dots = 0
    for key, value in mapping.items():
        if type(key) is not str:
            return None
        slashes += "/" in key
        dots += "." in key
        kind = kind_of(value)
        if kind is not None and kind.open(value)[1] and not is_opaque(key):
            return None
    if attributes and STATE_DICT_MARK in attributes:
        sep = "."
    elif slashes or dots:
        sep = "/" if slashes >= dots else "."
    else:
        return None
    return None if _has_conflict(mapping, sep) else sep


def is_opaque(name: str) -> bool:
    """Whether the value under this name, a key or several joined, is a leaf whatever it is."""
    return name == OPAQUE_NAME or name.endswith((f".{OPAQUE_NAME}", f"/{OPAQUE_NAME}"))


def split_name(name: str, sep: str) -> Path:
    """Return the keys of a joined name."""
    return tuple(name.split(sep))


def _has_conflict(names: Mapping[str, Leaf], sep: str) -> bool:
    parents: set[str] = set()
    for name in names:
        parent, inside, _ = name.rpartition(sep)
        while inside and parent not in parents:
            parents.add(parent)
            parent, inside, _ = parent.rpartition(sep)
    return not parents.isdisjoint(names)
