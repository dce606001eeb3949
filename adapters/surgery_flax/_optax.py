"""optax states in neutral form: found by class and structure, never by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgery.extend import (
    AdapterError,
    Bank,
    Flat,
    Leaf,
    Node,
    Path,
    Slots,
    SpecError,
    Structure,
    build,
    is_childless,
    kind_of,
    same_aux,
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
    """Whether a tree is an optax state: a state class, or what chains make of such, at any depth."""
    if isinstance(tree, tuple) and type(tree).__module__.partition(".")[0] == "optax":
        return True
    inner = tree if type(tree) is tuple else tree.values() if isinstance(tree, dict) else ()
    return bool(inner) and all(map(is_optax_state, inner))


def optax_slots(state: Any, params: Flat) -> Slots:
    """Return an optax state in neutral form.

    Raises:
        AdapterError: it holds a state of an unknown class, or one that is not laid out as
            the parameters are.
        SpecError: a slot has another shape than its parameter.
    """
    flat = walk(state)
    _refuse_unknown(flat)
    banks: list[Bank] = []
    places: list[tuple[Path, int, str]] = []  # where a slot stands, its bank, its name
    for path, nodes in flat.structure.items():
        cls = getattr(nodes[-1].kind, "cls", type(None))
        if not _is_state(cls):
            continue
        known = KNOWN[cls.__name__]
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


def _is_state(cls: type) -> bool:
    return hasattr(cls, "_fields") and cls.__module__.partition(".")[0] == "optax"


def _refuse_unknown(flat: Flat) -> None:
    """Raise at the outermost state that is not known: what stands in it means what that one says."""
    kinds = {path: getattr(nodes[-1].kind, "cls", type(None)) for path, nodes in flat.structure.items()}
    unknown = [path for path, cls in kinds.items() if _is_state(cls) and cls.__name__ not in KNOWN]
    if unknown:
        path = min(unknown, key=len)
        raise AdapterError(
            f"the optax state {kinds[path].__name__} is not known here",
            verb="slots",
            path=text_of(path) if path else None,
            hint=f"known: {', '.join(KNOWN)}",
        )


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
        done: set[Path] = set()
        for path, leaf in self.flat.items():
            place = next((one for one in self.places if path[: len(one[0])] == one[0]), None)
            if place is None:
                leaves[path] = leaf
            elif place[0] not in done:
                prefix, bank, name = place
                done.add(prefix)
                moved = slots.banks[bank].slots[name]
                leaves.update(((*prefix, *below), moved[below]) for below in moved)
        structure = self._structure(slots) if edited else self.flat.structure
        return build(leaves, structure, verb="restore")

    def _structure(self, slots: Slots) -> Structure:
        """Return the containers of the state around parameters that were edited."""
        out = Structure(self.flat.structure)
        for prefix, bank, name in self.places:
            inside = [path for path in out if path[: len(prefix)] == prefix]
            own = Structure({path[len(prefix) :]: out.pop(path) for path in inside})
            new = _slot_containers(own, self.params, slots)
            if not slots.banks[bank].slots[name] and () not in new:
                new[()] = NOTHING_LEFT
            out.update({(*prefix, *path): nodes for path, nodes in new.items()})
        return out


NOTHING_LEFT = (Node(kind_of({}), None, ()),)  # type: ignore[arg-type]


def _slot_containers(own: Structure, before: Structure, slots: Slots) -> Structure:
    """Return the containers of a slot after an edit, given those that it and the parameters had before.

    They are those of the edited parameters, except where the slot had others: a dict under
    FrozenDict parameters, no boxes, or the OptVariables of nnx around what is a Param there.
    """
    if all(_same(own.get(path, ()), before.get(path, ())) for path in {*own, *before}):
        return Structure(slots.params)
    out = Structure()
    for path in dict.fromkeys([*slots.params, *own]):
        mine, theirs, new = (_inner(nodes.get(path, ())) for nodes in (own, before, slots.params))
        differs = _names(mine) != _names(theirs)
        keeps = differs and all(node.kind.family == "mapping" for node in mine)
        chosen = mine if keeps and (path in slots.params or not any(map(is_childless, mine))) else new
        if chosen:
            out[path] = chosen
    boxes = Structure({path: found for path, nodes in own.items() if (found := _boxes(nodes))})
    for stage in slots.edits:
        boxes = stage.containers_of(boxes, "restore")
    for path, nodes in boxes.items():
        out[path] = (*nodes, *out.get(path, ()))
    return out


def _same(a: tuple[Node, ...], b: tuple[Node, ...]) -> bool:
    return _names(a) == _names(b) and all(
        x.kind.family != "box" or same_aux(x.aux, y.aux) for x, y in zip(a, b, strict=True)
    )


def _inner(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(node for node in nodes if node.kind.family != "box")


def _boxes(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(node for node in nodes if node.kind.family == "box")


def _names(nodes: tuple[Node, ...]) -> list[str]:
    return [node.kind.name for node in nodes]
