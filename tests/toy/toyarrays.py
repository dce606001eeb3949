"""A small array library of its own: immutable arrays that lie on shelves, and crates to keep them in.

It stands for any library that the package has never heard of. Only
`toyarrays_surgery`, beside it, knows both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


class Brick:
    """Elements in C order, as bytes, on a shelf. No subclass of anything, and no friend of numpy's."""

    __slots__ = ("data", "dtype", "shape", "shelf")

    def __init__(self, data: bytes, shape: tuple[int, ...], dtype: str, shelf: str = "lower") -> None:
        self.data = data
        self.shape = shape
        self.dtype = dtype
        self.shelf = shelf

    def __repr__(self) -> str:
        return f"Brick({self.dtype}{list(self.shape)} on the {self.shelf} shelf)"


class Drawing:
    """The shape and dtype of a brick that has not been made."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = dtype


class Crate:
    """A container with a label: two lists, so that nothing takes it for a mapping."""

    def __init__(self, label: str, names: list[str], things: list[Any]) -> None:
        self.label = label
        self.names = names
        self.things = things

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)


def brick(array: np.ndarray[Any, Any], shelf: str = "lower") -> Brick:
    """Make a brick of an array."""
    return Brick(array.tobytes(), array.shape, array.dtype.name, shelf)
