"""What both suites need: arrays that show mistakes, and what "the same" means, without pytest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from surgery._dtypes import DType, name_of, numpy_dtype
from surgery._errors import SurgeryError
from surgery._trees.structure import same_aux
from surgery._types import Tree
from surgery._verbs.tree import walk

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (3,), (0,), (2, 3), (4, 1, 2), (2, 0, 3))


def sample(shape: Sequence[int], dtype: DType, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return an array without two equal neighbours along any axis, as far as the dtype allows.

    Floats include -0.0, infinity and NaN where the array is large enough to spare them.

    >>> sample((2, 2), "int32").tolist()
    [[1, 2], [3, 4]]
    """
    size = prod(shape)
    numbers = np.arange(1 + seed, 1 + seed + size)
    kind = numpy_dtype(dtype)
    if dtype == "bool":
        flat = (numbers * 7 // 3 % 2).astype(kind)
    else:
        flat = (numbers % 120).astype(kind)
    if dtype.startswith(("float", "bfloat")) and size > 4:
        with np.errstate(invalid="ignore", over="ignore"):
            flat[1] = -flat[1] * 0
            flat[3] = np.float32("nan")
            flat[4] = np.float32("inf")
    return flat.reshape(tuple(shape))


def layouts(array: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return equal arrays that lie differently in memory: what writers and copies get wrong."""
    out = {"C": np.ascontiguousarray(array).reshape(array.shape), "Fortran": np.asfortranarray(array)}
    if array.ndim:
        wide = np.repeat(array, 2, axis=-1)
        out["strided"] = wide[..., ::2]
        out["reversed"] = np.ascontiguousarray(array[::-1])[::-1]
        offset = np.concatenate([array[:1], array], axis=0)
        out["slice"] = offset[1:] if array.shape[0] else array
    still = array.copy()
    still.flags.writeable = False
    return {**out, "read-only": still}


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays have one shape, one dtype, and the same bytes: NaN is itself, -0.0 is not 0.0.

    >>> same_bits(np.float32([0.0, np.nan]), np.float32([0.0, np.nan]))
    True
    >>> same_bits(np.float32([0.0]), np.float32([-0.0]))
    False
    """
    x, y = np.asarray(a), np.asarray(b)
    return x.shape == y.shape and name_of(x.dtype) == name_of(y.dtype) and x.tobytes() == y.tobytes()


def is_same_tree(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same containers in the same order, and the very same leaf objects.

    >>> leaf = np.ones(2)
    >>> is_same_tree({"a": [leaf]}, {"a": [leaf]}), is_same_tree({"a": [leaf]}, {"a": (leaf,)})
    (True, False)
    """
    first, second = walk(a), walk(b)
    if type(a) is not type(b) or list(first) != list(second):
        return False
    if any(leaf is not second[path] for path, leaf in first.items()):
        return False
    if list(first.structure) != list(second.structure):
        return False
    pairs = zip(first.structure.values(), second.structure.values(), strict=True)
    return all(
        len(one) == len(two)
        and all(
            x.kind.name == y.kind.name and x.keys == y.keys and x.sep == y.sep and _same_aux(x.aux, y.aux)
            for x, y in zip(one, two, strict=True)
        )
        for one, two in pairs
    )


def _same_aux(a: Any, b: Any) -> bool:
    return same_aux(a, b) or (
        type(a) is type(b) and same_aux(vars(a), vars(b)) if hasattr(a, "__dict__") else False
    )


@contextmanager
def raises(error: type[SurgeryError], *texts: str) -> Iterator[list[SurgeryError]]:
    """Check that the block raises this error, and that its message holds all of these texts.

    >>> with raises(SurgeryError, "wrong at 'a'") as caught:
    ...     raise SurgeryError("wrong", path="a")
    >>> caught[0].path
    'a'
    """
    caught: list[SurgeryError] = []
    try:
        yield caught
    except error as found:
        missing = [text for text in texts if text not in str(found)]
        assert not missing, f"the message lacks {missing}: {found}"
        caught.append(found)
        return
    raise AssertionError(f"no {error.__name__} was raised")
