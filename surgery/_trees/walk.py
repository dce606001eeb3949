"""The walk over a tree: leaves with their paths, and the containers that dicts do not imply.

Exact dicts are walked by the shortest loop that is correct; every other
container goes the general way. A branch deeper than `DEEP` is walked with a
stack of its own, so that the depth of a tree is bounded by memory alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgery._errors import StructureError
from surgery._paths.path import PLAIN, all_plain, text_of
from surgery._trees.flat import Flat
from surgery._trees.joined import is_opaque, separator, split_name
from surgery._trees.nodes import DICT
from surgery._trees.registry import LEAF_TYPES, kind_of
from surgery._trees.structure import BOX, Node, NodeKind, Structure, attributes_of
from surgery._types import Key, Leaf, Path, Tree

DEEP = 200  # levels that are walked by recursion


class Irregular(Exception):
    """Something that a short way leaves to the general one, which also explains errors."""


class Walk:
    """One walk: fills `leaves` and `structure`."""

    __slots__ = ("joined", "leaves", "structure")

    def __init__(self, joined: bool) -> None:
        self.structure = Structure()
        self.leaves = Flat(structure=self.structure)
        self.joined = joined

    def tree(self, node: Tree, path: Path = ()) -> bool:
        """Walk one node. Return whether a leaf stands in it: without one, no path tells of it."""
        if type(node) is dict:
            return self._dict(node, path)
        kind = kind_of(node)
        if kind is None:
            self.leaves[path] = as_leaf(node, path)
            return True
        if len(path) > DEEP:
            return self._deep(node, path)
        aux, children = kind.open(node)
        return self._children(kind, aux, children, path)

    def _dict(self, node: dict[Key, Tree], path: Path) -> bool:
        """Walk an exact dict. Any call per node or per leaf is felt here: hence the loop with nothing in it."""
        if len(path) > DEEP:
            return self._deep(node, path)
        if not node:
            return self._children(DICT, None, node, path)
        leaves = self.leaves
        barren = 0
        single = False  # whether the names are known to be no joined ones
        for key, child in node.items():
            if key not in PLAIN and not single and not all_plain((key,)):
                if self._separator(DICT, None, node) is not None:
                    self._undo(path)
                    return self._children(DICT, None, node, path)
                single = True
            if type(child) is dict:
                if not self._dict(child, path + (key,)):  # noqa: RUF005 (twice as fast as unpacking)
                    barren += 1
            elif type(child) in LEAF_TYPES:
                leaves[path + (key,)] = child  # noqa: RUF005
            elif not self.tree(child, path + (key,)):  # noqa: RUF005
                barren += 1
        if barren:  # a child that no leaf stands for: the order of all of them must be remembered
            self.structure.add(path, Node(DICT, None, tuple(node)))
        return barren < len(node)

    def _undo(self, path: Path) -> None:
        """Forget what was recorded below `path`: a later key shows that the names there are joined.

        Joined names have no containers below them that hold anything, so little is walked twice.
        """
        depth = len(path)
        for record in (self.leaves, self.structure):
            while record:
                last = next(reversed(record))
                if len(last) <= depth or last[:depth] != path:
                    break
                del record[last]

    def _children(self, kind: NodeKind, aux: Any, children: dict[Key, Tree], path: Path) -> bool:
        """Walk the children of any container, and record it where paths alone do not imply it."""
        if kind.family == "box":
            self.structure.add(path, Node(kind, aux, (BOX,)))
            return self.tree(children[BOX], path)
        sep = self._separator(kind, aux, children)
        barren = 0
        for below, child, opaque in _below(path, children, sep):
            if opaque:
                self.leaves[below] = child
            elif not self.tree(child, below):
                barren += 1
        if kind is not DICT or sep is not None or barren or not children:
            self.structure.add(path, Node(kind, aux, tuple(children), sep))
        return barren < len(children)

    def _deep(self, node: Tree, path: Path) -> bool:
        """Walk a deep branch without recursion, in the same order."""
        dicts: list[Path] = []
        fertile: set[Path] = set()
        stack: list[tuple[Path, Tree, bool]] = [(path, node, False)]
        while stack:
            at, current, opaque = stack.pop()
            kind = None if opaque else kind_of(current)
            if kind is None:
                self.leaves[at] = as_leaf(current, at)
                while len(at) >= len(path) and at not in fertile:
                    fertile.add(at)
                    at = at[:-1]
                continue
            aux, children = kind.open(current)
            if kind.family == "box":
                self.structure.add(at, Node(kind, aux, (BOX,)))
                stack.append((at, children[BOX], False))
                continue
            sep = self._separator(kind, aux, children)
            self.structure.add(at, Node(kind, aux, tuple(children), sep))
            stack.extend(reversed([*_below(at, children, sep)]))
            if kind is DICT and children and sep is None:
                dicts.append(at)
        for at in dicts:  # as above: a dict is remembered only for the order of its barren children
            *outer, own = self.structure[at]
            if all((*at, key) in fertile for key in own.keys):
                if outer:
                    self.structure[at] = tuple(outer)
                else:
                    del self.structure[at]
        return path in fertile

    def _separator(self, kind: NodeKind, aux: Any, children: dict[Key, Tree]) -> str | None:
        return separator_of(kind, aux, children) if self.joined else None


def separator_of(kind: NodeKind, aux: Any, children: Mapping[Key, Tree]) -> str | None:
    """Return what joins the names of a container's children, or None if they are single keys."""
    if not children or kind.family != "mapping":
        return None
    return separator(children, attributes_of(kind, aux))


def _below(path: Path, children: dict[Key, Tree], sep: str | None) -> Iterator[tuple[Path, Tree, bool]]:
    """The paths of the children, with the child and whether it is a leaf whatever it is."""
    if sep is None:
        for key, child in children.items():
            yield (*path, key), child, False
    else:
        for key, child in children.items():
            yield path + split_name(str(key), sep), child, is_opaque(str(key))


def as_leaf(node: Any, path: Path) -> Leaf:
    """Return what stands at `path` if it may be a leaf.

    Raises:
        StructureError: it is a report, so somebody forgot that a verb returns a pair.
    """
    if getattr(type(node), "__surgery_report__", False):
        raise StructureError(
            "a report stands where a leaf is expected",
            path=text_of(path),
            hint="graft and relabel return a pair: `tree, report = graft(...)`",
        )
    return node
