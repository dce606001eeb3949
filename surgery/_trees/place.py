"""Putting a leaf where another lives: its library, its device, its sharding."""

from __future__ import annotations

from surgery._arrays.backend import is_there
from surgery._dtypes import DType, is_lossless
from surgery._errors import SpecError
from surgery._trees.registry import backend_of, find_backend, spec_of
from surgery._types import Leaf

PYTHON_NUMBERS = (bool, int, float, complex)


def place_like(leaf: Leaf, like: Leaf) -> Leaf:
    """Return `leaf` as an array of the library and in the place of `like`.

    The very same object where it is there already, where either is only a shape, and
    where it is traced.
    """
    theirs, ours = find_backend(like), find_backend(leaf)
    if theirs is None or ours is None or not is_there(theirs, like) or not is_there(ours, leaf):
        return leaf
    if ours is theirs:
        if ours.is_placed_like(leaf, like):
            return leaf
        move = getattr(ours, "move", None)
        if move is not None:
            moved: Leaf = move(leaf, like=like)
            return moved
    elif not ours.holds_data(leaf):
        return leaf
    array = ours.to_numpy(leaf)
    return array.item() if type(like) in PYTHON_NUMBERS else theirs.from_numpy(array, like=like)


def fits_without_loss(leaf: Leaf, dtype: DType) -> bool:
    """Whether a leaf can be cast to a dtype and no value is lost.

    A dtype must hold all values of another; but a Python number has none of its own, so
    its value is what counts: a step that was saved as 7 goes into an int32.
    """
    if type(leaf) not in (int, float):
        return is_lossless(spec_of(leaf).dtype, dtype)
    if dtype == "bool":
        return False
    from surgery._arrays.numpy import NUMPY

    try:
        cast = NUMPY.cast(leaf, dtype).item()
    except (OverflowError, SpecError, TypeError, ValueError):
        return False
    same_kind = isinstance(cast, (type(leaf), float, complex))
    return same_kind and bool(cast == leaf or (cast != cast and leaf != leaf))


def cast_for(leaf: Leaf, dtype: DType, like: Leaf) -> Leaf:
    """Return a leaf in another dtype, that of `like`; in numpy where its own library might not have it.

    In the place of a Python number it becomes one.
    """
    ours = backend_of(leaf)
    if type(like) in PYTHON_NUMBERS:
        return type(like)(ours.to_numpy(leaf).item()) if ours.holds_data(leaf) else leaf
    if ours is backend_of(like) or not ours.holds_data(leaf) or hasattr(ours, "defer"):
        return ours.cast(leaf, dtype)
    from surgery._arrays.numpy import NUMPY

    return NUMPY.cast(ours.to_numpy(leaf), dtype)
