"""The ops, by the names that the field knows them under.

An op is a value: it can be printed, compared, written to a recipe and undone.
Rules carry them: `("**/q/weight", "**/q/kernel", ops.transpose())`.
"""

from __future__ import annotations

from surgery._ops.axes import concat, split, stack, take, unstack
from surgery._ops.base import Op
from surgery._ops.relayout import permute_axes, rearrange, reshape, transpose
from surgery._ops.structure import drop, new, tie, untie
from surgery._ops.values import cast

__all__ = [
    "Op",
    "cast",
    "concat",
    "drop",
    "new",
    "permute_axes",
    "rearrange",
    "reshape",
    "split",
    "stack",
    "take",
    "tie",
    "transpose",
    "unstack",
    "untie",
]
