"""Damaged files, and leaves that a file cannot hold, are named before anything is believed or written."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import surgery as sg
from tests.core.files import entry, written


def test_2c_43_a_truncated_file_is_known_by_its_header(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sg.save({"w": np.zeros(100, np.float32)}, file)
    whole = file.read_bytes()
    for cut in (1, 100, 399, 400, 405):
        file.write_bytes(whole[:-cut])
        with pytest.raises(sg.FileError, match="truncated"):
            sg.load(file)


BROKEN: dict[str, tuple[dict[str, Any] | str, bytes, str]] = {
    "overlap": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12), "'b' overlaps the one before it"),
    "hole": ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12), "'b' leaves a hole before it"),
    "too much": ({"a": entry([1], 0, 4)}, bytes(9), "it should have"),
    "too little": ({"a": entry([4], 0, 16)}, bytes(9), "it is truncated: copy it again"),
    "size": ({"a": entry([3], 0, 8)}, bytes(8), "the size is wrong at 'a'"),
    "dtype": ({"a": entry([1], 0, 4, "F33")}, bytes(4), "the dtype is unknown at 'a'"),
    "negative": ({"a": entry([-1], 0, 4)}, bytes(4), "shape or offsets are no numbers at 'a'"),
    "backwards": ({"a": entry([0], 4, 0)}, bytes(4), "the size is wrong at 'a'"),
    "huge": ({"a": entry([1 << 40, 1 << 40], 0, 4)}, bytes(4), "the size is wrong at 'a'"),
    "beyond": ({"a": entry([1 << 70], 0, 4)}, bytes(4), "shape or offsets are no numbers"),
    "truth": ({"a": entry([True], 0, 4)}, bytes(4), "shape or offsets are no numbers"),
    "nothing": ({"a": {}}, b"", "says nothing of dtype, shape or data_offsets at 'a'"),
    "list": ("[]", b"", "no format"),
    "no JSON": ('{"a": ', b"", "its header is no JSON"),
    "twice": ('{"a": 1, "a": 2}', b"", "the key 'a' stands twice"),
    "deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, b"", "its header is no JSON"),
    "numbers": ({"__metadata__": {"step": 3}}, b"", "its __metadata__ is not text to text"),
    "a tensor": ({"__metadata__": entry([1], 0, 4)}, bytes(4), "its __metadata__ is not text to text"),
    "ties": ({"__metadata__": {"surgery.ties": "[1"}}, b"", "its surgery.ties is no JSON object"),
    "a tie to nothing": ({"__metadata__": {"surgery.ties": '{"a": "b"}'}}, b"", "ties 'a' to 'b'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_2c_43_a_damaged_header_is_named_and_nothing_is_believed(name: str, tmp_path: Path) -> None:
    header, data, message = BROKEN[name]
    with pytest.raises(sg.FileError) as caught:
        sg.load(written(tmp_path / "x.safetensors", header, data))
    assert message in str(caught.value)


def test_2c_43_a_header_longer_than_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", 100_000_001) + b"{" + bytes(100))
    with pytest.raises(sg.FileError, match=r"x\.safetensors"):
        sg.load(file)


def test_2c_43_every_damaged_tensor_is_named_at_once(tmp_path: Path) -> None:
    header = {"a": entry([3], 0, 8), "b": entry([1], 8, 12, "F33"), "c": entry([1], 12, 16)}
    with pytest.raises(sg.FileError) as caught:
        sg.load(written(tmp_path / "x.safetensors", header, bytes(16)))
    assert [problem.path for problem in caught.value.problems] == ["a", "b"]


def test_2c_43_tensors_may_lie_in_any_order(tmp_path: Path) -> None:
    """The writer of the reference library orders them; files of older ones are as they are."""
    data = np.arange(4, dtype=np.float32).tobytes()
    file = written(tmp_path / "x.safetensors", {"z": entry([1], 12, 16), "a": entry([3], 0, 12)}, data)
    assert {n: np.asarray(x).tolist() for n, x in sg.load(file).items()} == {"z": [3.0], "a": [0.0, 1.0, 2.0]}
    assert list(sg.load(file)) == ["z", "a"]


def test_2c_43_a_tensor_called_metadata_is_not_written(tmp_path: Path) -> None:
    """The reference library writes a file that nothing can read."""
    with pytest.raises(sg.FileError) as caught:
        sg.save({"__metadata__": np.ones(2), "w": np.ones(2)}, tmp_path / "x.safetensors")
    assert str(caught.value) == (
        "save: safetensors keeps this name for itself: no reader would take the file at '__metadata__'\n"
        "  hint: rename the leaf"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (np.ones(2, np.complex128), "safetensors cannot hold this dtype at 'x'"),
        (np.array(["a"]), "safetensors cannot hold this dtype at 'x'"),
        (np.array([None]), "safetensors cannot hold this dtype at 'x'"),
        (np.ones(2, ml_dtypes.int4), "safetensors cannot hold this dtype at 'x'"),
        ("text", "safetensors holds tensors only at 'x'"),
        (3.0, "safetensors holds tensors only at 'x'"),
        (sg.TensorSpec((2,), "float32"), "a leaf has no data at 'x'"),
    ],
    ids=["complex128", "strings", "objects", "int4", "text", "number", "spec"],
)
def test_a_leaf_that_the_format_cannot_hold_is_named(leaf: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(sg.FileError) as caught:
        sg.save({"x": leaf, "w": np.ones(2)}, tmp_path / "x.safetensors")
    assert message in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["F4", "F6_E2M3"])
def test_packed_elements_are_listed_and_not_read_wrongly(name: str, tmp_path: Path) -> None:
    file = written(
        tmp_path / "x.safetensors",
        {"x": entry([8], 0, 4 if name == "F4" else 6, name)},
        bytes(6)[: 4 if name == "F4" else 6],
    )
    tree = sg.load(file)
    assert sg.spec(tree)["x"].shape == (8,)
    with pytest.raises(sg.FileError, match="packed elements of less than a byte can be listed, not read yet"):
        np.asarray(tree["x"])


def test_a_file_that_appears_while_another_is_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    sync = os.fsync

    def other_is_faster(handle: int) -> None:
        file.write_bytes(b"of another process")
        sync(handle)

    monkeypatch.setattr(os, "fsync", other_is_faster)
    with pytest.raises(sg.FileError, match="exists already"):
        sg.save({"w": np.ones(3)}, file)
    assert file.read_bytes() == b"of another process" and [*tmp_path.iterdir()] == [file]
