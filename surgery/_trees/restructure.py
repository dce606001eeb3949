"""The containers of a tree after its leaves have moved.

Each new place takes the kind of container that its content came from; failing
that, what stood there before; failing that, the kind of its parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from surgery._errors import StructureError
from surgery._paths.path import text_of
from surgery._trees.joined import split_name
from surgery._trees.nodes import DICT
from surgery._trees.registry import move_attributes
from surgery._trees.structure import Attributed, Node, Structure, attributes_of, is_childless
from surgery._types import Key, Move, Path


def ordered_paths(leaves: Iterable[Path], structure: Structure) -> list[Path]:
    """Return the paths of leaves and childless nodes together, in tree order."""
    childless = structure.childless()
    found = list(leaves)
    if not childless:
        return found
    trie: dict[Key, Any] = {}
    for path in [*found, *childless]:
        node = trie
        for key in path:
            node = node.setdefault(key, {})
    out: list[Path] = []
    stack: list[tuple[Path, dict[Key, Any]]] = [((), trie)]
    while stack:
        path, node = stack.pop()
        if not node:
            out.append(path)
            continue
        keys: Sequence[Key] = list(node)
        record = structure.get(path)
        if record and record[-1].sep is not None:
            out += _by_name(path, record[-1], node)
            continue
        if record:
            keys = list(dict.fromkeys([*(key for key in record[-1].keys if key in node), *keys]))
        stack.extend(((*path, key), node[key]) for key in reversed(keys))
    return out


def _by_name(at: Path, record: Node, trie: Mapping[Key, Any]) -> list[Path]:
    """Return the paths below a mapping of joined names in the order of the names, unknown ones last."""
    inside: dict[Path, None] = {}
    stack: list[tuple[Path, Mapping[Key, Any]]] = [(at, trie)]
    while stack:
        path, node = stack.pop()
        if not node:
            inside[path] = None
        stack.extend(((*path, key), node[key]) for key in reversed(node))
    names = [(*at, *split_name(str(name), record.sep or ".")) for name in record.keys]
    known = [path for path in names if path in inside]
    first = set(known)
    return known + [path for path in inside if path not in first]


def restructure(old: Structure, moves: Sequence[Move], *, verb: str) -> Structure:
    """Return the structure of the tree whose leaves have moved.

    Args:
        old: the structure before.
        moves: old and new place of every leaf and childless node, in the new order.
            A childless node is one that `old` records as such.
        verb: the caller, for messages.

    Raises:
        StructureError: a sequence, or a node with fixed fields, would have to hold
            keys that it cannot.
    """
    if not old:
        return Structure()
    children: dict[Path, dict[Key, None]] = {}
    first: dict[Path, Move] = {}
    for source, target in moves:
        for end in range(len(target)):
            prefix = target[:end]
            children.setdefault(prefix, {})[target[end]] = None
            first.setdefault(prefix, (source, target))
    new = Structure()
    joined: set[Path] = set()
    for prefix in sorted(children, key=len):
        if any(prefix[:end] in joined for end in range(len(prefix))):
            continue  # a place inside joined names is no container
        nodes = _nodes_for(prefix, first[prefix], children, old, new, verb)
        if nodes:
            new[prefix] = _with_moved_attributes(
                nodes, prefix, _origin(prefix, first[prefix], old), moves, old
            )
            if nodes[-1].sep:
                joined.add(prefix)
    for source, target in moves:
        if source is not None and source in old:
            new[target] = old[source]  # boxes around a leaf; a node without children
    _remember_order(new, children, joined)
    _name_joined(new, joined, moves)
    return new


def _nodes_for(
    prefix: Path,
    move: Move,
    children: Mapping[Path, Mapping[Key, None]],
    old: Structure,
    new: Structure,
    verb: str,
) -> tuple[Node, ...]:
    keys = tuple(children[prefix])
    origin = _origin(prefix, move, old)
    for place in (origin, prefix):
        if place is None:
            continue
        nodes = old.get(_outside_names(place, old), ())
        if not nodes:
            if place == origin:
                return ()  # it was a dict, and stays one
            continue
        last = nodes[-1]
        if is_childless(last) and last.kind.family != "mapping":
            continue  # None, a hole, an empty tuple: nothing that could take children
        if _fits(last, keys):
            return (*nodes[:-1], last._replace(keys=_in_place(last, keys)))
        if place == origin == prefix:
            raise StructureError(
                f"a {last.kind.name} cannot hold these keys",
                verb=verb,
                path=text_of(prefix, old.sep),
                expected=f"{[*last.keys]}",
                found=f"{[*keys]}",
                hint="move the whole container, or turn it into a dict first",
            )
    parent = new.get(prefix[:-1], ())
    if prefix and parent and parent[-1].kind.family == "mapping":
        return (parent[-1]._replace(keys=keys),)
    return ()


def _origin(prefix: Path, move: Move, old: Structure) -> Path | None:
    """Return the old container whose content `prefix` gets, going by one leaf that moves into it.

    It is as far above the leaf's old place as `prefix` is above the new one. A leaf that stays
    inside the same mapping of joined names says nothing by its depth there.
    """
    source, target = move
    if source is None:
        return None
    names = _outside_names(source, old)
    if len(prefix) <= len(names) < len(source) and target[: len(names)] == names:
        return prefix
    below = len(target) - len(prefix)
    return _outside_names(source[: len(source) - below], old) if len(source) >= below else None


def _outside_names(place: Path, old: Structure) -> Path:
    """A place inside joined names is no container of its own: it belongs to the mapping of the names."""
    for end in range(len(place)):
        if any(node.sep for node in old.get(place[:end], ())):
            return place[:end]
    return place


def _with_moved_attributes(
    nodes: tuple[Node, ...], prefix: Path, origin: Path | None, moves: Sequence[Move], old: Structure
) -> tuple[Node, ...]:
    """Let what hides on a mapping (torch keeps `_metadata` there) follow the leaves in it."""
    *outer, last = nodes
    attributes = attributes_of(last.kind, last.aux)
    if not attributes or origin is None:
        return nodes
    depth = len(origin)
    inside = [
        (source[depth:], target[len(prefix) :])
        for source, target in moves
        if source is not None and source[:depth] == origin and target[: len(prefix)] == prefix
    ]
    known = old[origin][-1] if origin in old else last
    names = [split_name(str(key), known.sep) if known.sep else (key,) for key in known.keys]
    moved = move_attributes(attributes, inside, names)
    return (*outer, last._replace(aux=cast(Attributed, last.kind).with_attributes(last.aux, moved)))


def _fits(node: Node, keys: tuple[Key, ...]) -> bool:
    family = node.kind.family
    if family == "sequence":
        return set(keys) == set(range(len(keys))) and all(type(key) is int for key in keys)
    if family == "fields":
        return set(keys) == set(node.keys)
    return family == "mapping"


def _in_place(node: Node, keys: tuple[Key, ...]) -> tuple[Key, ...]:
    """Return the keys in the order in which this kind is built: of the leaves only in a mapping."""
    if node.kind.family == "sequence":
        return tuple(range(len(keys)))
    return node.keys if node.kind.family == "fields" else keys


def _remember_order(new: Structure, children: Mapping[Path, Mapping[Key, None]], joined: set[Path]) -> None:
    """Record the dicts around childless nodes: their order does not follow from the leaves."""
    for path in new.childless():
        if any(path[:end] in joined for end in range(len(path))):
            continue
        for end in range(len(path)):
            parent = path[:end]
            if parent not in new:
                new[parent] = (Node(DICT, None, tuple(children[parent])),)


def _name_joined(new: Structure, joined: set[Path], moves: Sequence[Move]) -> None:
    """Give each joined node its names, in the new order."""
    for prefix in joined:
        *outer, last = new[prefix]
        depth = len(prefix)
        sep = last.sep or "."
        names = tuple(
            sep.join(str(key) for key in target[depth:])
            for _, target in moves
            if target[:depth] == prefix and len(target) > depth
        )
        new[prefix] = (*outer, last._replace(keys=names))
