"""Ties: one tensor under several names.

A tie group has one label, one slot entry, one plan row. Which leaves are one
tensor is the backend's to say: the same object, or the same view of the same
storage.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from surgery._errors import Problem, RuleError
from surgery._paths.path import text_of
from surgery._trees.registry import find_backend
from surgery._types import Leaf, Path


def tie_groups(leaves: Mapping[Path, Leaf]) -> list[list[Path]]:
    """Return the groups of two or more paths that hold one tensor, each in tree order."""
    seen: dict[Hashable, list[Path]] = {}
    for path, leaf in leaves.items():
        backend = find_backend(leaf)
        name = backend.identity(leaf) if backend is not None else None
        if name is not None:
            seen.setdefault(name, []).append(path)
    return [paths for paths in seen.values() if len(paths) > 1]


def treated_differently(group: list[Path], how: Mapping[Path, str], sep: str) -> Problem | None:
    """Return the problem if the names of one tensor are to be treated differently, else None."""
    first = group[0]
    for other in group[1:]:
        if how[other] != how[first]:
            return Problem(
                "one tensor under two names is treated in two ways",
                text_of(other, sep),
                expected=f"{how[first]}, as '{text_of(first, sep)}'",
                found=how[other],
                hint=(
                    f"treat both alike, or separate them first: "
                    f"transform(tree, [('{text_of(other, sep)}', '{text_of(other, sep)}', ops.untie())])"
                ),
                error=RuleError,
            )
    return None
