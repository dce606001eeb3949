"""Ties: one tensor under several names.

A tie group has one label, one slot entry, one plan row. Which leaves are one
tensor is the backend's to say: the same object, or the same view of the same
storage.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from surgery._arrays.backend import must_be_readable
from surgery._errors import Problem, RuleError
from surgery._paths.path import text_of
from surgery._trees.registry import backend_of, find_backend
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


def is_one_tensor(a: Leaf, b: Leaf) -> bool:
    """Whether two leaves can stand under the names of one tensor: they are one, or hold the same bits.

    Of leaves without data only the specs can be compared.

    Raises:
        SpecError: one has data that cannot be read: it is traced, or deleted.
    """
    first, second = backend_of(a), backend_of(b)
    name = first.identity(a)
    if a is b or (name is not None and name == second.identity(b)):
        return True
    must_be_readable(first, a)
    must_be_readable(second, b)
    if first.spec(a) != second.spec(b):
        return False
    if not (first.holds_data(a) and second.holds_data(b)):
        return True
    from surgery._arrays.numpy import same_bits

    return same_bits(first.to_numpy(a), second.to_numpy(b))
