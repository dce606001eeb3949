"""Modules at the door: reading verbs take one as it is, editing verbs name the tree to edit."""

from __future__ import annotations

from surgery._errors import StructureError
from surgery._trees.registry import adapters_in_use, find_backend, kind_of
from surgery._types import Tree


def as_tree(tree: Tree) -> Tree:
    """Return a module's parameters and buffers as a tree; any other tree as it is."""
    if type(tree) is dict or kind_of(tree) is not None or find_backend(tree) is not None:
        return tree
    for adapter in adapters_in_use():
        found = adapter.read(tree)
        if found is not None:
            return found
    return tree


def editable(tree: Tree, verb: str) -> Tree:
    """Return `tree`, or raise if it is a module: an edit would have no tree to return.

    Raises:
        StructureError: names the expression that gives the module's tree.
    """
    if type(tree) is dict or kind_of(tree) is not None or find_backend(tree) is not None:
        return tree
    for adapter in adapters_in_use():
        instead = adapter.editable(tree)
        if instead is not None:
            raise StructureError(
                f"a {type(tree).__name__} is a module, not a tree",
                verb=verb,
                hint=f"edit its tree instead: {verb}({instead}, ...)",
            )
    return tree
