"""Nested plain dicts to text keys and back, the quick way.

Whatever is not plain (escapes, other containers, digits, conflicts) is left to
the general way of `surgery._verbs.tree`, which parses it or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from surgery._paths.path import PLAIN, all_plain
from surgery._trees.flat import Flat
from surgery._trees.gc import without_gc
from surgery._trees.registry import LEAF_TYPES, kind_of
from surgery._trees.walk import DEEP
from surgery._types import Leaf, Tree


class NotPlain(Exception):
    """Text that the quick way leaves to the general one, which parses it or names what is wrong."""


@without_gc
def flatten_text(tree: dict[Any, Tree], sep: str) -> Flat | None:
    """Flatten nested exact dicts with plain keys straight to text; None where the tree is anything else."""
    texts = Flat(sep=sep)
    return texts if _walk_text(tree, "", sep, texts, 0) else None


def _walk_text(node: dict[Any, Tree], prefix: str, sep: str, out: dict[Any, Leaf], depth: int) -> bool:
    if not node or depth > DEEP:
        return False
    for key, child in node.items():
        if type(key) is not str or (key not in PLAIN and not all_plain((key,))):  # an enum is not its text
            return False
        if type(child) is dict:
            if not _walk_text(child, prefix + key + sep, sep, out, depth + 1):
                return False
        elif type(child) in LEAF_TYPES or (kind_of(child) is None and type(child) in LEAF_TYPES):
            out[prefix + key] = child
        else:
            return False
    return True


@without_gc
def nest_text(flat: Mapping[str, Leaf], sep: str) -> Tree:
    """Nest text keys without escapes.

    Neighbours share their parent, and often its parent too (`above`), so both are looked up
    only when they change, and the one step between them is written out: with that, 1.5
    times as fast as a descent per leaf.
    """
    if set(map(type, flat)) - {str} or dict in set(map(type, flat.values())):
        raise NotPlain
    root: dict[Any, Tree] = {}
    node, above = root, root
    last = last_above = None
    for text, leaf in flat.items():
        parent, cut, key = text.rpartition(sep)
        if not parent:
            if cut:
                raise NotPlain  # "/a": its first key is empty
            node, last = root, None
        elif parent != last:
            up, cut, name = parent.rpartition(sep)
            if up != last_above:
                above = _enter(root, up.split(sep)) if up or cut else root
                last_above = up if up else None
            if name in above:
                node = above[name]
                if type(node) is not dict:
                    raise NotPlain
            elif name in PLAIN or all_plain((name,)):
                node = above[name] = {}
            else:
                raise NotPlain
            last = parent
        if key in node or (key not in PLAIN and not all_plain((key,))):
            raise NotPlain
        node[key] = leaf
    return root


def _enter(node: dict[Any, Tree], keys: Iterable[str]) -> dict[Any, Tree]:
    """Return the dict at `keys`, made where there is none."""
    for key in keys:
        if key in node:
            node = node[key]
            if type(node) is not dict:
                raise NotPlain
        elif key in PLAIN or all_plain((key,)):
            child: dict[Any, Tree] = {}
            node[key] = node = child
        else:
            raise NotPlain
    return node
