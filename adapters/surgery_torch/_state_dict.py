"""A module as a tree, and the metadata that its state_dict hides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from surgery.extend import Move, Path


def module_tree(module: torch.nn.Module) -> OrderedDict[str, Any]:
    """Return every parameter and buffer under its name, tied ones under each of theirs.

    Non-persistent buffers are there too, and what modules keep as extra state. The
    tensors are those of the module itself, not detached copies.
    """
    out: OrderedDict[str, Any] = OrderedDict(module.state_dict(keep_vars=True))
    for name, buffer in module.named_buffers(remove_duplicate=False):
        out.setdefault(name, buffer)
    return out


def moved_metadata(metadata: Mapping[str, Any], moves: Sequence[Move]) -> OrderedDict[str, Any]:
    """Return a state_dict's `_metadata`, which is keyed by module, after its tensors moved.

    A module goes where its tensors go: their new paths without the keys that they have
    below it. A module whose tensors go different ways, or whose keys below it changed
    in number, keeps no entry; one without tensors follows its parent.
    """
    out: OrderedDict[str, Any] = OrderedDict()
    homes: dict[Path, Path | None] = {}
    for old, new in moves:
        for depth in range(len(old or ())):
            place = (old or ())[:depth]
            below = len(old or ()) - depth
            home = new[: len(new) - below] if len(new) >= below else None
            homes[place] = home if homes.get(place, home) == home else None
    for name, value in metadata.items():
        place = tuple(name.split(".")) if name else ()
        home = homes.get(place) if place in homes else _beside(place, homes)
        if home is not None:
            out[".".join(map(str, home))] = value
        elif not place:
            out[""] = value  # the root module stays the root
    return out


def _beside(place: Path, homes: Mapping[Path, Path | None]) -> Path | None:
    """A module without tensors of its own stands under the nearest one that has some."""
    for depth in range(len(place) - 1, -1, -1):
        if place[:depth] in homes:
            home = homes[place[:depth]]
            return None if home is None else (*home, *place[depth:])
    return None
