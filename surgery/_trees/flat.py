"""A tree laid flat: path -> leaf, with the containers remembered."""

from __future__ import annotations

from typing import Any

from surgery._trees.structure import Structure


class Flat(dict[Any, Any]):
    """An ordered mapping path -> leaf that remembers the containers it came from.

    Made by `flatten`. It is a dict: edit it, iterate it, compare it. `unflatten`
    gives the tree back in its own containers.

    Attributes:
        structure: the containers, as `surgery.extend.Structure`.
        sep: the separator of text paths, or None when keys are path tuples.
    """

    __slots__ = ("sep", "structure")

    structure: Structure
    sep: str | None

    def __init__(
        self, items: Any = (), *, structure: Structure | None = None, sep: str | None = None
    ) -> None:
        super().__init__(items)
        self.structure = Structure() if structure is None else structure
        self.sep = sep

    def copy(self) -> Flat:
        """Return a shallow copy with the same structure."""
        return Flat(self, structure=self.structure, sep=self.sep)

    __copy__ = copy

    def __reduce__(self) -> Any:
        return (_flat, (dict(self), self.structure, self.sep))


def _flat(items: dict[Any, Any], structure: Structure, sep: str | None) -> Flat:
    return Flat(items, structure=structure, sep=sep)


Flat.__module__ = "surgery"
