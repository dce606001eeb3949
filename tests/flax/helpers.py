"""What the tests of the Flax adapter share: what "the same tree" means, and every way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import surgery as sg

structure_of = jax.tree_util.tree_structure
leaves_of = jax.tree_util.tree_leaves


def same_objects(a: Any, b: Any) -> bool:
    """Whether jax sees one structure in both trees, and the very same objects for leaves."""
    if structure_of(a) != structure_of(b):
        return False
    return all(x is y for x, y in zip(leaves_of(a), leaves_of(b), strict=True))


def same_bytes(a: Any, b: Any) -> bool:
    """Whether jax sees one structure in both trees, and leaves of one dtype, shape and content."""
    if structure_of(a) != structure_of(b):
        return False
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(leaves_of(a), leaves_of(b), strict=True)]
    return all((x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()) for x, y in pairs)


def apart(a: Any, b: Any) -> float:
    """Return the largest difference between two trees of one structure."""
    assert structure_of(a) == structure_of(b)
    pairs = zip(leaves_of(a), leaves_of(b), strict=True)
    return max((float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs), default=0.0)


def halves(tree: Any) -> dict[Any, Any]:
    """Partition a tree into its even and its odd leaves, all names of one array into the same part."""
    number: dict[int, int] = {}
    for leaf in sg.flatten(tree).values():
        number.setdefault(id(leaf), len(number))
    rules = [(lambda path, leaf: number[id(leaf)] % 2 == 0, "even")]
    return sg.partition(tree, rules if number else [], default="odd")


def there_and_back(tree: Any) -> Any:
    """Move everything elsewhere by a plan, and back by its inverse."""
    plan = sg.plan([("{all:**}?", "moved/{all}")], tree)
    return plan.inverse().apply(plan.apply(tree))


# Every way round must give the tree back: its node types, its order, its very leaves.
ROUND_TRIPS: dict[str, Callable[[Any], Any]] = {
    "flatten": lambda tree: sg.unflatten(sg.flatten(tree)),
    "flatten_to_text": lambda tree: sg.unflatten(sg.flatten(tree, sep="/")),
    "unflatten_like": lambda tree: sg.unflatten(dict(sg.flatten(tree)), like=tree),
    "map_with_path": lambda tree: sg.map_with_path(lambda path, leaf: leaf, tree),
    "partition_and_merge": lambda tree: sg.merge(*halves(tree).values()),
    "rename_to_itself": lambda tree: sg.rename(tree, [("**?", "**")]),
    "plan_and_inverse": lambda tree: there_and_back(tree),
    "select_all": lambda tree: sg.select(tree, "**?"),
    "graft_onto_itself": lambda tree: sg.graft(tree, tree)[0],
}
