"""The core's own arrays and files pass the suites that third parties must pass."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import surgery as sg
from surgery.testing import AdapterSuite, FormatSuite
from tests.core.strategies import Frozen, Pair, Plain, ReadOnly


class TestNumpy(AdapterSuite):
    target = "numpy"
    dtypes: ClassVar[tuple[str, ...]] = (
        *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("bool", "uint8", "int8", "int64", "uint64", "complex64"),
    )

    def make(self, array: np.ndarray[Any, Any]) -> Any:
        return array.copy()

    def trees(self) -> Mapping[str, Any]:
        w, b = self.leaf(2, 3), self.leaf(3)
        return {
            "plain": self.plain_tree(),
            "ordered": OrderedDict(z=w, a=OrderedDict(b=b)),
            "default": defaultdict(list, {"x": [w, b]}),
            "records": {"pair": Pair(w, Plain(b, None)), "frozen": Frozen((w, b))},
            "joined": {"enc.0.weight": w, "enc.0.bias": b},
            "odd keys": {"": {0: w, "0": b}, "a": {"/": self.leaf(1), "\\": self.leaf(2)}},
            "read only": {"mapping": ReadOnly({"w": w})},
        }


def test_ties_in_several_shards_all_come_back(tmp_path: Path) -> None:
    """A metadata key of the last shard once took the place of those before it, and names were gone."""
    a, b, c = (np.arange(100.0) + n for n in range(3))
    folder = tmp_path / "model"
    sg.save({"a": a, "a2": a, "b": b, "b2": b, "c": c}, f"{folder}/", shard_limit=800)
    assert len(list(folder.glob("*.safetensors"))) == 3
    found = sg.load(folder)
    assert {name: spec.alias for name, spec in sg.flatten(sg.spec(found), sep="/").items()} == {
        **{"a": "a", "a2": "a", "b": "b", "b2": "b", "c": None}
    }
    assert sg.realize(found)["a2"].tolist() == a.tolist()


class TestSafetensors(FormatSuite):
    name, suffix = "safetensors", ".safetensors"
    dtypes: ClassVar[tuple[str, ...]] = (
        *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
        *("bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "complex64"),
    )
