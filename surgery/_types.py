"""The words that every other room uses: keys, paths, holes, specs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from surgery._dtypes import DType, nbytes_of, short_name

Key: TypeAlias = Hashable  # str or int; other hashables are carried, but have no readable text
Path: TypeAlias = tuple[Key, ...]
Leaf: TypeAlias = Any
Move: TypeAlias = "tuple[Path | None, Path]"  # (old place, or None for what is new; new place)
Tree: TypeAlias = Any


class Missing(NamedTuple):
    """A visible hole that `partition` and `drop` leave behind.

    A tuple class without fields is a node without children to jax, optree and
    torch alike, with no registration: `jit`, `grad` and optimizers pass over it.
    Plain tuples compare by content, and all empty ones are equal, so this one
    compares by type.

    >>> Missing() == Missing(), Missing() == ()
    (True, False)
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Missing)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, Missing)

    def __hash__(self) -> int:
        return hash(Missing)

    def __repr__(self) -> str:
        return "Missing()"


Missing.__module__ = "surgery"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is known of a leaf without reading it: shape and dtype.

    Attributes:
        shape: the sizes of the axes; `()` for a scalar.
        dtype: the canonical name, such as `"float32"` or `"bfloat16"`; for a leaf
            that is no array, the name of its Python type.
        alias: a label shared by all names of one tied tensor, else None. Not
            part of equality: a tied tensor has the spec of an untied one.

    >>> spec = TensorSpec((32000, 512), "bfloat16")
    >>> str(spec), spec.size, spec.nbytes
    ('bf16[32000,512]', 16384000, 32768000)
    """

    shape: tuple[int, ...]
    dtype: DType
    alias: str | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the elements, without any header; 0 where the dtype is no array type."""
        return nbytes_of(self.dtype, self.size)

    def __str__(self) -> str:
        return f"{short_name(self.dtype)}[{','.join(map(str, self.shape))}]"


TensorSpec.__module__ = "surgery"
