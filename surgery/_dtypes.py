"""Names of dtypes: one canonical spelling, and what each name is worth.

The core speaks of dtypes by name, so that a file header can be listed and a
plan made without importing numpy. Names are those of numpy and ml_dtypes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from surgery._errors import SpecError

if TYPE_CHECKING:
    import numpy as np

DType: TypeAlias = str


@dataclass(frozen=True, slots=True)
class _Float:
    """The range of a binary float, enough to decide whether one type holds another.

    Attributes:
        precision: significant bits, the hidden one included.
        top: exponent of the largest finite value.
        bottom: exponent of the smallest positive value.
        special: which of zero `0`, negative numbers `-`, infinity `i` and NaN `n` it has
            (a negative zero comes with the negative numbers unless `z` takes it away).
    """

    precision: int
    top: int
    bottom: int
    special: str = "0-in"


@dataclass(frozen=True, slots=True)
class _Info:
    """Storage and range of one dtype: `kind` is `b`ool, `u`nsigned, `i`nteger, `f`loat or `c`omplex."""

    bits: int
    short: str
    kind: str
    float: _Float | None = None


_F32, _F64 = _Float(24, 127, -149), _Float(53, 1023, -1074)

_INFO: dict[DType, _Info] = {
    "bool": _Info(8, "bool", "b"),
    **{f"uint{n}": _Info(n, f"u{n}", "u") for n in (2, 4, 8, 16, 32, 64)},
    **{f"int{n}": _Info(n, f"i{n}", "i") for n in (2, 4, 8, 16, 32, 64)},
    "float4_e2m1fn": _Info(4, "f4e2m1fn", "f", _Float(2, 2, -1, "0-")),
    "float6_e2m3fn": _Info(6, "f6e2m3fn", "f", _Float(4, 2, -3, "0-")),
    "float6_e3m2fn": _Info(6, "f6e3m2fn", "f", _Float(3, 4, -4, "0-")),
    "float8_e3m4": _Info(8, "f8e3m4", "f", _Float(5, 3, -6)),
    "float8_e4m3": _Info(8, "f8e4m3", "f", _Float(4, 7, -9)),
    "float8_e4m3b11fnuz": _Info(8, "f8e4m3b11fnuz", "f", _Float(4, 4, -13, "0-nz")),
    "float8_e4m3fn": _Info(8, "f8e4m3fn", "f", _Float(4, 8, -9, "0-n")),
    "float8_e4m3fnuz": _Info(8, "f8e4m3fnuz", "f", _Float(4, 7, -10, "0-nz")),
    "float8_e5m2": _Info(8, "f8e5m2", "f", _Float(3, 15, -16)),
    "float8_e5m2fnuz": _Info(8, "f8e5m2fnuz", "f", _Float(3, 15, -17, "0-nz")),
    "float8_e8m0fnu": _Info(8, "f8e8m0fnu", "f", _Float(1, 127, -127, "n")),
    "float16": _Info(16, "f16", "f", _Float(11, 15, -24)),
    "bfloat16": _Info(16, "bf16", "f", _Float(8, 127, -133)),
    "float32": _Info(32, "f32", "f", _F32),
    "float64": _Info(64, "f64", "f", _F64),
    "complex64": _Info(64, "c64", "c", _F32),
    "complex128": _Info(128, "c128", "c", _F64),
}

# ml_dtypes stores these one element to a byte, whatever their width in files.
_BYTE_WIDE_IN_MEMORY = {name for name, info in _INFO.items() if info.bits < 8}


def is_known(dtype: DType) -> bool:
    """Whether `dtype` names a number type that can be stored and computed with."""
    return dtype in _INFO


def is_floating(dtype: DType) -> bool:
    """Whether `dtype` is a real floating type, the narrow ones of ml_dtypes included."""
    info = _INFO.get(dtype)
    return info is not None and info.kind == "f"


def bits_of(dtype: DType) -> int:
    """Bits per element as files store it; 0 for what is no number type."""
    info = _INFO.get(dtype)
    return info.bits if info else 0


def nbytes_of(dtype: DType, size: int) -> int:
    """Bytes of `size` elements as files store them (sub-byte types are packed)."""
    return (bits_of(dtype) * size + 7) // 8


def short_name(dtype: DType) -> str:
    """Return the short form used in specs: `f32`, `bf16`; unknown names stay as they are."""
    info = _INFO.get(dtype)
    return info.short if info else dtype


def is_integer(dtype: DType) -> bool:
    """Whether it holds whole numbers or truth values.

    >>> is_integer("int64"), is_integer("bool"), is_integer("float16"), is_integer("key<fry>")
    (True, True, False, False)
    """
    return dtype in _INFO and _INFO[dtype].kind in "iub"


def is_lossless(source: DType, target: DType) -> bool:
    """Whether every value of `source` has an exact image in `target`.

    >>> is_lossless("bfloat16", "float32"), is_lossless("float32", "bfloat16")
    (True, False)
    >>> is_lossless("int32", "float32"), is_lossless("int32", "float64")
    (False, True)
    """
    if source == target:
        return True
    a, b = _INFO.get(source), _INFO.get(target)
    if a is None or b is None or b.kind == "b":
        return False
    if a.float is not None:
        return b.float is not None and not (a.kind == "c" and b.kind != "c") and _fits(a.float, b.float)
    if b.float is not None:
        return _holds_integers(a, b.float)
    if a.kind in "ub":
        return b.bits >= a.bits if b.kind == "u" else b.bits > (1 if a.kind == "b" else a.bits)
    return b.kind == "i" and b.bits >= a.bits


def _fits(a: _Float, b: _Float) -> bool:
    has = all(one in b.special for one in a.special if one != "z")
    keeps_negative_zero = "z" not in b.special or "z" in a.special or "-" not in a.special
    in_range = a.precision <= b.precision and a.top <= b.top and a.bottom >= b.bottom
    return has and keeps_negative_zero and in_range


def _holds_integers(a: _Info, b: _Float) -> bool:
    if "0" not in b.special:
        return False
    digits = 1 if a.kind == "b" else a.bits - (a.kind == "i")
    return digits <= b.precision and b.bottom <= 0 and b.top >= (digits if a.kind == "i" else digits - 1)


def can_hold(dtype: DType, number: float) -> bool:
    """Whether a number can be kept in this dtype: exactly in integers, perhaps rounded in floats.

    >>> can_hold("int8", 127), can_hold("int8", 128), can_hold("int8", 0.5), can_hold("bfloat16", 0.1)
    (True, False, False, True)
    """
    info = _INFO[dtype]
    if info.float is None:
        low = -(2 ** (info.bits - 1)) if info.kind == "i" else 0
        high = 1 if info.kind == "b" else 2 ** (info.bits - (info.kind == "i")) - 1
        return math.isfinite(number) and number == int(number) and low <= number <= high
    if number == 0 or not math.isfinite(number):
        return ("0" if number == 0 else "n" if math.isnan(number) else "i") in info.float.special
    return (number > 0 or "-" in info.float.special) and math.frexp(number)[1] <= info.float.top + 1


def name_of(dtype: np.dtype[Any]) -> DType:
    """Return the canonical name of a numpy or ml_dtypes dtype."""
    return dtype.name if dtype.kind != "V" or dtype.name in _INFO else f"void{dtype.itemsize * 8}"


def numpy_dtype(name: DType) -> np.dtype[Any]:
    """Return the numpy dtype of a canonical name; ml_dtypes brings the narrow ones.

    Raises:
        SpecError: numpy and ml_dtypes have no such type.
    """
    import numpy as np

    if name not in _INFO:
        raise SpecError(f"no dtype is called '{name}'", hint=f"known: {', '.join(_INFO)}")
    try:
        known: np.dtype[Any] = np.dtype(name)
        return known
    except TypeError:
        pass
    import ml_dtypes

    scalar = getattr(ml_dtypes, name, None)
    if scalar is None:
        raise SpecError(f"the installed ml_dtypes has no '{name}'", hint="pip install -U ml_dtypes")
    narrow: np.dtype[Any] = np.dtype(scalar)
    return narrow


def itemsize_in_memory(name: DType) -> int:
    """Bytes of one element in a numpy array (sub-byte types take one each)."""
    return 1 if name in _BYTE_WIDE_IN_MEMORY else bits_of(name) // 8
