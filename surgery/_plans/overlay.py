"""Copy-on-write: a few leaves of a tree replaced, and only the containers on the way to them copied.

The cost is that of what is put in, not that of the tree. This is the short way
of `graft`: whatever needs a policy or a closer look raises `Irregular`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from surgery._paths.path import PLAIN, all_plain
from surgery._trees.registry import OBJECT_LEAVES, backend_of, kind_of
from surgery._trees.structure import attributes_of
from surgery._trees.walk import DEEP, Irregular
from surgery._types import Key, Leaf, Path, Tree


class Overlay:
    """One graft of a donor onto a target.

    Attributes:
        tree: the target with the donor's leaves in it.
        taken: those leaves, by place.
    """

    def __init__(self, target: Tree, donor: Tree) -> None:
        self.taken: dict[Path, Leaf] = {}
        self._replaced: list[Leaf] = []
        self.tree = self._over(target, donor, ())
        if not _is_sole_name(self._replaced) and _has_other_names(target, self._replaced):
            raise Irregular

    def _over(self, mine: Tree, other: Tree, path: Path) -> Tree:
        """Return `mine` with the leaves of `other` in it; `mine` itself where there are none."""
        if type(other) is dict and type(mine) is dict:
            return self._over_dict(mine, other, path)
        if type(other) in OBJECT_LEAVES:
            return self._over_leaf(mine, other, path)
        kind, own = kind_of(other), kind_of(mine)
        if kind is None or kind.family == "box":
            raise Irregular
        donor_aux, donated = kind.open(other)
        if attributes_of(kind, donor_aux):
            raise Irregular  # a state_dict: its names are joined
        if not donated:
            return mine  # None, a hole, an empty container: nothing to take
        if own is None or own.family == "box" or type(other) not in (dict, type(mine)):
            raise Irregular
        aux, children = own.open(mine)
        if attributes_of(own, aux):
            raise Irregular
        return own.close(aux, self._over_dict(children, donated, path))

    def _over_dict(self, mine: dict[Key, Tree], other: dict[Key, Tree], path: Path) -> dict[Key, Tree]:
        if len(path) > DEEP:
            raise Irregular
        out = mine.copy()
        for key, child in other.items():
            if key not in mine or not (key in PLAIN or type(key) is int or all_plain((key,))):
                raise Irregular
            out[key] = self._over(mine[key], child, (*path, key))
        return out

    def _over_leaf(self, mine: Tree, leaf: Leaf, path: Path) -> Leaf:
        if type(leaf) is not type(mine) or not hasattr(leaf, "dtype"):
            raise Irregular
        if leaf.shape != mine.shape or leaf.dtype != mine.dtype:
            raise Irregular
        if not backend_of(leaf).is_placed_like(leaf, mine):
            raise Irregular
        self._replaced.append(mine)
        self.taken[path] = leaf
        return leaf


def _count(leaves: Sequence[Leaf]) -> int:
    """The largest number of references to one of these, as Python counts them when asked like this."""
    return max(map(sys.getrefcount, leaves), default=0)


_LONE = _count([object()]) if hasattr(sys, "getrefcount") else -1  # of what only the list refers to


def _is_sole_name(leaves: Sequence[Leaf]) -> bool:
    """Whether nothing but one container, and this list, refers to each of these.

    A second name in the tree is a reference more, which the count cannot miss; what
    else may hold a leaf (another tree, a variable) only makes the answer a "perhaps not".
    """
    return _count(leaves) <= _LONE + 1 if _LONE > 0 else not leaves


def _has_other_names(tree: Tree, replaced: Sequence[Leaf]) -> bool:
    """Whether a replaced leaf also stands in the tree under another name, replaced or kept."""
    wanted = set(map(id, replaced))
    found = 0
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        for child in node.values() if type(node) is dict else _children(node):
            if type(child) in OBJECT_LEAVES:
                found += id(child) in wanted
            else:
                stack.append(child)
    return found != len(replaced) or len(wanted) < len(replaced)


def _children(node: Tree) -> Sequence[Tree]:
    kind = kind_of(node)
    return () if kind is None else [*kind.open(node)[1].values()]
