"""Counter-based random numbers: element `i` of a tensor depends on (seed, path, i) alone.

So the same numbers come out in every framework, for any slice, in any order.
The generator is SplitMix64 (Steele, Lea and Flood, 2014) run as a counter.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _bits(seed: int, path: str, stream: int, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    digest = hashlib.sha256(f"{seed}\0{stream}\0{path}".encode()).digest()
    key = np.uint64(int.from_bytes(digest[:8], "little"))
    with np.errstate(over="ignore"):
        z = key + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, path: str, index: np.ndarray[Any, Any], stream: int = 0) -> np.ndarray[Any, Any]:
    """Return f64 numbers in (0, 1), one per element index."""
    return ((_bits(seed, path, stream, index) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: int, path: str, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return f64 standard normal numbers, one per element index (Box and Muller, 1958)."""
    radius = np.sqrt(-2.0 * np.log(uniform(seed, path, index, 0)))
    angle = 2.0 * np.pi * uniform(seed, path, index, 1)
    return np.asarray(radius * np.cos(angle))
