"""optax states in neutral form: found by class and structure, never by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgery.extend import (
    AdapterError,
    Bank,
    Flat,
    Leaf,
    Path,
    Slots,
    SpecError,
    Structure,
    build,
    spec_of,
    text_of,
    walk,
)


@dataclass(frozen=True, slots=True)
class _Known:
    """What one class of optax state holds: its slots by field, and the field that counts steps."""

    algorithm: str
    slots: dict[str, str]
    count: str | None = None


# The table of known states. Fields that are not named here are scalars, and kept as they are.
KNOWN = {
    "ScaleByAdamState": _Known("adam", {"mu": "mu", "nu": "nu"}, "count"),
    "TraceState": _Known("sgd", {"trace": "trace"}),
    "ScaleByScheduleState": _Known("schedule", {}, "count"),
    "EmptyState": _Known("none", {}),
}


def is_optax_state(tree: Any) -> bool:
    """Whether a tree is an optax state: a state class, or a tuple of such, at any depth."""
    if isinstance(tree, tuple) and type(tree).__module__.partition(".")[0] == "optax":
        return True
    return type(tree) is tuple and bool(tree) and all(is_optax_state(inner) for inner in tree)


def optax_slots(state: Any, params: Flat) -> Slots:
    """Return an optax state in neutral form.

    Raises:
        AdapterError: it holds a state of an unknown class, or one that is not laid out as
            the parameters are.
        SpecError: a slot has another shape than its parameter.
    """
    flat = walk(state)
    banks: list[Bank] = []
    places: list[tuple[Path, int, str]] = []  # where a slot stands, its bank, its name
    for path, nodes in flat.structure.items():
        cls = getattr(nodes[-1].kind, "cls", type(None))
        if not hasattr(cls, "_fields") or cls.__module__.partition(".")[0] != "optax":
            continue
        known = KNOWN.get(cls.__name__)
        if known is None:
            raise AdapterError(
                f"the optax state {cls.__name__} is not known here",
                verb="slots",
                path=text_of(path),
                hint=f"known: {', '.join(KNOWN)}",
            )
        slots = {name: _slot((*path, field), flat, params) for field, name in known.slots.items()}
        if slots:
            places += [((*path, field), len(banks), name) for field, name in known.slots.items()]
            count = flat.get((*path, known.count)) if known.count else None
            counts = dict.fromkeys(params, count) if count is not None else {}
            bank = Bank(
                text_of(path), known.algorithm, tuple(params), slots, counts, one_count=count is not None
            )
            banks.append(bank)
    if not banks and any(hasattr(leaf, "shape") and spec_of(leaf).shape for leaf in flat.values()):
        raise AdapterError("this state holds arrays, and no class that is known here", verb="slots")
    return Slots(tuple(banks), _Restorer(flat, tuple(places), params.structure), params.structure)


def _slot(place: Path, flat: Flat, params: Flat) -> dict[Path, Leaf]:
    """Return what lies at one field of a state, under the paths of the parameters."""
    depth = len(place)
    found = {path[depth:]: leaf for path, leaf in flat.items() if path[:depth] == place}
    if found.keys() != params.keys():
        other = next((path for path in [*params, *found] if (path in params) != (path in found)), ())
        raise AdapterError(
            "a slot is not laid out as the parameters are",
            verb="slots",
            path=text_of((*place, *other)),
            expected=f"{len(params)} leaves under the paths of the parameters",
            found=f"{len(found)}",
            hint="give the parameters that this state was made for",
        )
    for path, leaf in found.items():
        if spec_of(leaf).shape != spec_of(params[path]).shape:
            raise SpecError(
                "a slot has another shape than its parameter",
                verb="slots",
                path=text_of((*place, *path)),
                expected=str(spec_of(params[path])),
                found=str(spec_of(leaf)),
            )
    return {path: found[path] for path in params}


@dataclass(frozen=True)
class _Restorer:
    """Puts slots back into the state they were taken from."""

    flat: Flat
    places: tuple[tuple[Path, int, str], ...]
    params: Structure

    def __call__(self, slots: Slots) -> Any:
        edited = slots.params is not self.params
        leaves: dict[Path, Leaf] = {}
        structure = Structure(self.flat.structure)
        for path, leaf in self.flat.items():
            place = next((one for one in self.places if path[: len(one[0])] == one[0]), None)
            if place is None:
                leaves[path] = leaf
            elif edited:
                leaves.update(self._moved(place, slots))
            else:
                prefix, bank, name = place
                leaves[path] = slots.banks[bank].slots[name][path[len(prefix) :]]
        if edited:
            for prefix, _, _ in self.places:
                for path in [path for path in structure if path[: len(prefix)] == prefix]:
                    del structure[path]
                structure.update({(*prefix, *path): nodes for path, nodes in slots.params.items()})
        return build(leaves, structure, verb="restore")

    def _moved(self, place: tuple[Path, int, str], slots: Slots) -> dict[Path, Leaf]:
        prefix, bank, name = place
        return {(*prefix, *path): leaf for path, leaf in slots.banks[bank].slots[name].items()}
