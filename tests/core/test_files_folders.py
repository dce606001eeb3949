"""Sharded folders, places inside files, and writing: complete, or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import surgery as sg
from tests.core.files import any_bits, header_of, same

# Shards.


def sharded(folder: Path, limit: int = 40) -> dict[str, Any]:
    """Write a tree into a folder in several shards, with a tie, and return it."""
    tree = {f"h.{n}.w": any_bits("F32", (n + 1, 2), n) for n in range(5)}
    tree["tied.w"] = tree["h.1.w"]
    sg.save(tree, f"{folder}/", shard_limit=limit)
    return tree


def test_a_sharded_folder_is_written_with_its_index_and_read_back(tmp_path: Path) -> None:
    tree = sharded(tmp_path / "out")
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == [
        *(f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)),
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "out" / files[-1]).read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for n, x in tree.items() if n != "tied.w")
    for name, file in index["weight_map"].items():
        assert name in header_of(tmp_path / "out" / file)
    for place in (tmp_path / "out", tmp_path / "out" / files[-1]):
        loaded = sg.load(place)
        assert same(loaded, tree)
        assert {n for n, s in sg.spec(loaded).items() if s.alias} == {"h.1.w", "tied.w"}


def test_a_folder_under_the_limit_is_one_file(tmp_path: Path) -> None:
    tree = sharded(tmp_path / "out", 10_000)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert same(sg.load(tmp_path / "out"), tree)


def test_a_sharded_folder_becomes_one_file_and_back(tmp_path: Path) -> None:
    tree = sharded(tmp_path / "out")
    sg.save(sg.load(tmp_path / "out"), tmp_path / "one.safetensors")
    sg.save(sg.load(tmp_path / "one.safetensors"), f"{tmp_path}/again/", shard_limit=40)
    assert same(sg.load(tmp_path / "one.safetensors"), tree)
    for file in (tmp_path / "out").iterdir():
        assert header_of_any(tmp_path / "again" / file.name) == header_of_any(file)


def header_of_any(file: Path) -> Any:
    return json.loads(file.read_text()) if file.suffix == ".json" else header_of(file)


def spoil_index(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


DISAGREEMENTS: dict[str, tuple[Any, str]] = {
    "key without tensor": (
        lambda m: m.update(more=m["h.0.w"]),
        "the index names a tensor that its shard lacks at 'more'",
    ),
    "tensor without key": (
        lambda m: m.pop("h.0.w"),
        "a shard holds a tensor that the index does not send there at 'h.0.w'",
    ),
    "another shard": (
        lambda m: m.update({"h.0.w": m["h.4.w"]}),
        "the index names a tensor that its shard lacks at 'h.0.w'",
    ),
    "missing shard": (
        lambda m: m.update(more="model-9.safetensors"),
        "the shard 'model-9.safetensors' is missing",
    ),
    "outside": (lambda m: m.update(more="../x.safetensors"), "it names a file outside its folder"),
    "absolute": (lambda m: m.update(more="/etc/passwd"), "it names a file outside its folder"),
    "here": (lambda m: m.update(more="."), "it names a file outside its folder"),
    "no text": (lambda m: m.update(more=3), "its weight_map is not text to text"),
}


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_2c_45_an_index_that_disagrees_with_its_shards_is_refused(name: str, tmp_path: Path) -> None:
    change, message = DISAGREEMENTS[name]
    sharded(tmp_path / "out")
    spoil_index(tmp_path / "out", change)
    with pytest.raises(sg.FileError) as caught:
        sg.load(tmp_path / "out")
    assert message in str(caught.value)


def test_2c_45_one_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    sharded(folder)
    first = sorted(folder.glob("*.safetensors"))[0]
    name = next(n for n in header_of(first) if n != "__metadata__")
    other = sorted(folder.glob("*.safetensors"))[1]
    more = sg.realize(sg.load(other)) | {name: np.ones(2, np.float32)}
    sg.save(more, other, overwrite=True)
    with pytest.raises(sg.FileError, match="a shard holds a tensor that the index does not send there"):
        sg.load(folder)


def test_2c_45_stale_shards_in_the_folder_are_not_read(tmp_path: Path) -> None:
    tree = sharded(tmp_path / "out")
    sg.save({"h.0.w": np.zeros(9)}, tmp_path / "out" / "model-00001-of-00009.safetensors")
    assert same(sg.load(tmp_path / "out"), tree)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "b", "a": "c"}}']
)
def test_2c_45_an_index_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(sg.FileError, match="it is no index of shards"):
        sg.load(tmp_path)


# Places.


def test_a_path_may_name_a_subtree(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sg.save({"enc.0.w": np.ones(2), "enc.1.w": np.ones(3), "head.w": np.ones(4)}, file)
    for tree in (sg.load(f"{file}:enc"), sg.load(file, at="enc"), sg.load(file, at=("enc",))):
        assert list(tree) == ["0.w", "1.w"] and tree.file == str(file)
    assert sg.load(f"{file}:enc.1.w").shape == (3,)
    with pytest.raises(sg.PathError, match="nothing lies at 'encoder'") as caught:
        sg.load(f"{file}:encoder")
    assert str(caught.value) == "load: nothing lies at 'encoder'\n  hint: nearest: 'enc'"


def test_a_colon_in_the_name_of_a_file_stays_there(tmp_path: Path) -> None:
    sg.save({"w": np.ones(2)}, tmp_path / "a:b.safetensors")
    assert list(sg.load(tmp_path / "a:b.safetensors")) == ["w"]
    assert sg.load(f"{tmp_path / 'a:b.safetensors'}:w").shape == (2,)


def test_2c_42_a_file_is_recognised_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    sg.save({"w": np.ones(2)}, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.bin", "x", "x.msgpack"):
        (tmp_path / name).write_bytes((tmp_path / "x.safetensors").read_bytes())
        assert sg.load(tmp_path / name).format == "safetensors"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\x93NUMPY\x01\x00", b"\xff" * 5000])
def test_2c_42_what_is_no_known_file_is_refused_under_any_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(sg.FileError, match="is in no format that is known here") as caught:
        sg.load(tmp_path / "x.safetensors")
    assert "hint: known: safetensors" in str(caught.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match=r"no\.safetensors' does not exist"):
        sg.load(tmp_path / "no.safetensors")
    with pytest.raises(sg.FileError, match="asks for no known format"):
        sg.save({"w": np.ones(2)}, tmp_path / "x.npz")


def test_a_folder_of_weights_knows_its_config_and_keeps_it(tmp_path: Path) -> None:
    sg.save({"w": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "n": 3}')
    tree = sg.load(tmp_path)
    assert tree.config == {"model_type": "bert", "n": 3} and list(tree) == ["w"]
    sg.save(tree, f"{tmp_path}/copy/")
    assert sg.load(tmp_path / "copy").config == tree.config
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(sg.FileError, match=r"config\.json' is no JSON"):
        sg.load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(sg.FileError, match="is in no format that is known here"):
        sg.load(tmp_path)


# Writing: complete, or not there.


def test_nothing_is_overwritten_unless_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sg.save({"w": np.ones(2)}, file)
    before = file.read_bytes()
    with pytest.raises(sg.FileError) as caught:
        sg.save({"w": np.zeros(2)}, file)
    assert f"save: '{file}' exists already" in str(caught.value) and "--force" in str(caught.value)
    assert file.read_bytes() == before
    sg.save({"w": np.zeros(2)}, file, overwrite=True)
    assert np.asarray(sg.load(file)["w"]).tolist() == [0, 0]


def fail_with(error: BaseException, after: int) -> Any:
    left = [after]

    def progress(count: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return progress


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ValueError("x")]
)
@pytest.mark.parametrize("place", ["x.safetensors", "folder/"])
def test_a_failure_in_the_middle_leaves_nothing(error: BaseException, place: str, tmp_path: Path) -> None:
    tree = {f"h.{n}.w": np.ones(4, np.float32) for n in range(4)}
    expected = sg.FileError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        sg.save(tree, f"{tmp_path}/{place}", shard_limit=16, progress=fail_with(error, 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["x.safetensors", "folder/"])
def test_a_failure_in_the_middle_leaves_what_was_there(place: str, tmp_path: Path) -> None:
    tree = {f"h.{n}.w": np.full(4, n, np.float32) for n in range(4)}
    sg.save(tree, f"{tmp_path}/{place}", shard_limit=16)
    before = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(KeyboardInterrupt):
        progress = fail_with(KeyboardInterrupt(), 2)
        sg.save(tree, f"{tmp_path}/{place}", overwrite=True, shard_limit=32, progress=progress)
    assert {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_source_that_vanishes_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sg.save({"a.w": np.ones(4), "b.w": np.ones(4)}, tmp_path / "in" / "x.safetensors")
    tree = sg.load(tmp_path / "in" / "x.safetensors")
    (tmp_path / "in" / "x.safetensors").unlink()
    with pytest.raises(sg.FileError, match=r"in/x\.safetensors' can no longer be read: No such file"):
        sg.save(tree, tmp_path / "out" / "y.safetensors")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_can_be_written_over_the_one_that_it_is_read_from(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sg.save({"a.w": np.ones(4), "b.w": np.zeros(4)}, file)
    sg.save(sg.rename(sg.load(file), [("a.w", "c.w")]), file, overwrite=True)
    assert same(sg.load(file), {"c.w": np.ones(4), "b.w": np.zeros(4)})


def test_saving_pulls_one_leaf_at_a_time(tmp_path: Path) -> None:
    """Never two leaves alive: the next is read when the one before is written and gone."""
    import tracemalloc

    sg.save({f"h.{n}.w": np.ones(250_000, np.float32) for n in range(8)}, tmp_path / "x.safetensors")
    tree = sg.load(tmp_path / "x.safetensors")
    tracemalloc.start()
    try:
        sg.save(tree, tmp_path / "y.safetensors")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_500_000  # of 8 MB in all, 1 MB each


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    counts: list[int] = []
    table = np.ones(4, np.float32)
    sg.save({"a": table, "b": table, "c": np.ones(2)}, tmp_path / "x.safetensors", progress=counts.append)
    assert sorted(counts) == [16, 16]
