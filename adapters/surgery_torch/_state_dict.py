"""A module as a tree, and the metadata that its state_dict hides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch

from surgery.extend import Move, Path


def module_tree(module: torch.nn.Module) -> OrderedDict[str, Any]:
    """Return every parameter and buffer under its name, tied ones under each of theirs.

    Non-persistent buffers are there too, and what modules keep as extra state. The
    tensors are those of the module itself, not detached copies.
    """
    out: OrderedDict[str, Any] = OrderedDict(module.state_dict(keep_vars=True))
    for name, buffer in non_persistent_buffers(module).items():
        out.setdefault(name, buffer)
    return out


def non_persistent_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers that no state_dict holds, under each of their names."""
    out: dict[str, torch.Tensor] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for name, buffer in part._buffers.items():
            if buffer is not None and name in part._non_persistent_buffers_set:
                out[f"{prefix}.{name}" if prefix else name] = buffer
    return out


def moved_metadata(
    metadata: Mapping[str, Any], moves: Sequence[Move], before: Sequence[Path]
) -> OrderedDict[str, Any]:
    """Return a state_dict's `_metadata`, which is keyed by module, after its tensors moved.

    Each module of the result takes the entry of the module that its own tensors come
    from; if they come from modules whose entries differ, it has none. A module around
    others takes that of the module around them before. A module without tensors stays
    under the nearest one that has some. The root stays the root.
    """
    known: dict[Path, Any] = {
        tuple(name.split(".")) if name else (): entry for name, entry in metadata.items()
    }
    moved: dict[Path, list[tuple[Path, Path]]] = {}
    for old, new in moves:
        if old is not None:
            for end in range(len(new)):
                moved.setdefault(new[:end], []).append((old, new))
    origins: dict[Path, Path | None] = {}
    takers: dict[Path, list[Path]] = {}
    for place, inside in moved.items():
        origins[place] = exact = _same_content(place, inside, known)
        if exact is not None:
            takers.setdefault(exact, []).append(place)
    for place, inside in moved.items():
        if origins[place] is None and not _has_own(place, inside):
            origins[place] = loose = _around_the_same(place, inside, known)
            if loose is not None:
                takers.setdefault(loose, [place])
    around = {path[:end] for path in before for end in range(len(path))}
    for place in known:
        if place not in around:
            for new in _without_tensors(place, around, takers):
                origins.setdefault(new, place)
    order = {place: n for n, place in enumerate(known)}
    taken = [(old, new) for new, old in origins.items() if old is not None and old in known]
    taken.sort(key=lambda pair: order[pair[0]])
    return OrderedDict((".".join(map(str, new)), copy(known[old])) for old, new in taken)


def _has_own(place: Path, inside: Sequence[tuple[Path, Path]]) -> bool:
    return any(len(new) == len(place) + 1 for _, new in inside)


def _same_content(place: Path, inside: Sequence[tuple[Path, Path]], known: Mapping[Path, Any]) -> Path | None:
    """Return the old module that this one is: by its own tensors, else by all that lies below it."""
    if _has_own(place, inside):
        own = list(dict.fromkeys(old[:-1] for old, new in inside if len(new) == len(place) + 1))
        return own[0] if all(known.get(one) == known.get(own[0]) for one in own) else None
    above = {_above(old, new[len(place) :]) for old, new in inside}
    return above.pop() if len(above) == 1 else None


def _above(old: Path, below: Path) -> Path | None:
    """Return the module under which `old` has the keys `below`, or None if it has others."""
    return old[: -len(below)] if old[-len(below) :] == below else None


def _around_the_same(
    place: Path, inside: Sequence[tuple[Path, Path]], known: Mapping[Path, Any]
) -> Path | None:
    """Return the old module that stood around what this one stands around now."""
    if place in known and all(old[: len(place)] == place for old, _ in inside):
        return place
    heights = {len(old) - len(new) + len(place) for old, new in inside}
    as_deep = {old[: len(old) - len(new) + len(place)] for old, new in inside}
    return as_deep.pop() if len(as_deep) == 1 and min(heights) >= 0 else None


def _without_tensors(place: Path, around: set[Path], takers: Mapping[Path, list[Path]]) -> list[Path]:
    """Return where a module without tensors goes: wherever the nearest one around it that has some goes."""
    near = next((place[:end] for end in range(len(place) - 1, -1, -1) if place[:end] in around), None)
    if near is None:
        return [place]
    return [(*new, *place[len(near) :]) for new in takers.get(near, ())]
