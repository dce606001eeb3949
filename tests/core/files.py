"""What the tests of safetensors files share: arrays of any bits, and files made by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
THEIRS = ["BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64"]
SHAPES = [(), (0,), (1,), (3, 0, 2), (2, 3), (2, 3, 4)]


def any_bits(code: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """Return an array with every kind of bits in it: NaN payloads, infinities, minus zero."""
    dtype = np.dtype(DTYPES[code])
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 256 if code != "BOOL" else 2, count, np.uint8)
    return raw.view(dtype).reshape(shape)


def header_of(file: Path) -> dict[str, Any]:
    """Return the header as any reader of the format sees it."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, Any] = json.loads(data[8 : 8 + length])
    return found


def written(file: Path, header: dict[str, Any] | str, data: bytes = b"") -> Path:
    """Write a file from a header and data of any kind."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def entry(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def same(a: Any, b: Any) -> bool:
    """Whether two mappings hold the same names, dtypes, shapes and bytes."""
    x, y = {n: np.asarray(v) for n, v in a.items()}, {n: np.asarray(v) for n, v in b.items()}
    return x.keys() == y.keys() and all(
        (x[n].dtype, x[n].shape, x[n].tobytes()) == (y[n].dtype, y[n].shape, y[n].tobytes()) for n in x
    )
