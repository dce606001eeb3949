"""safetensors files: what is written is what is read, headers alone are read, and damage is named."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg

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


# Inverse pairs.

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda n: n != "__metadata__")
arrays = st.builds(any_bits, st.sampled_from(sorted(DTYPES)), st.sampled_from(SHAPES), st.integers(0, 5))


@given(tree=st.dictionaries(names, arrays, min_size=1, max_size=6))
def test_what_is_saved_under_any_names_is_loaded_bit_for_bit(
    tree: dict[str, Any], tmp_path_factory: Any
) -> None:
    file = tmp_path_factory.mktemp("files") / "x.safetensors"
    sg.save(tree, file)
    loaded = sg.load(file)
    assert same(loaded, tree)
    assert {n: str(s) for n, s in sg.spec(loaded).items()} == {n: str(s) for n, s in sg.spec(tree).items()}
    sg.save(loaded, file.with_name("again.safetensors"))
    assert file.read_bytes() == file.with_name("again.safetensors").read_bytes()


plain_keys = st.text("abc_0123", min_size=1, max_size=4)


@given(
    tree=st.dictionaries(
        plain_keys,
        st.recursive(
            arrays, lambda inner: st.dictionaries(plain_keys, inner, min_size=1, max_size=3), max_leaves=8
        ),
        min_size=1,
        max_size=4,
    )
)
def test_nested_mappings_are_saved_under_joined_names_and_flatten_to_the_same(
    tree: dict[str, Any], tmp_path_factory: Any
) -> None:
    file = tmp_path_factory.mktemp("files") / "x.safetensors"
    sg.save(tree, file)
    assert set(sg.load(file)) == set(sg.flatten(tree, sep="/"))
    assert same(sg.flatten(sg.load(file)), sg.flatten(tree))


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_2c_46_every_dtype_is_written_and_read_through_numpy_bit_for_bit(
    code: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = any_bits(code, shape)
    sg.save({"x": array}, tmp_path / "x.safetensors")
    assert header_of(tmp_path / "x.safetensors")["x"] == entry([*shape], 0, array.nbytes, code)
    leaf = sg.load(tmp_path / "x.safetensors")["x"]
    assert leaf.dtype == array.dtype and leaf.shape == shape and leaf.nbytes == array.nbytes
    again = np.asarray(leaf)
    assert again.dtype == array.dtype and again.tobytes() == array.tobytes()


@pytest.mark.parametrize("code", THEIRS)
def test_the_bytes_are_those_of_the_reference_implementation(code: str, tmp_path: Path) -> None:
    """Tensors by dtype, then name; the header padded to eight bytes."""
    tree = {"b.w": any_bits(code, (2, 3)), "a.w": any_bits("F32", (3,)), "a.n": any_bits("I64", ())}
    tree |= {"z.wide": any_bits("F64", (1,)), "é.q": any_bits("U8", (5,)), "empty.x": any_bits(code, (0, 2))}
    sg.save(tree, tmp_path / "x.safetensors")
    theirs = safetensors.numpy.save(tree, {"format": "pt"})
    assert (tmp_path / "x.safetensors").read_bytes() == theirs


def test_the_reference_implementation_reads_what_is_written(tmp_path: Path) -> None:
    tree = {"enc": {"w": any_bits("F32", (2, 3)), "n": any_bits("I64", (4,))}, "b": any_bits("F64", (2,))}
    sg.save(tree, tmp_path / "x.safetensors", metadata={"step": "3"})
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"format": "flax", "step": "3"}
        assert same({n: file.get_tensor(n) for n in file.keys()}, sg.flatten(tree, sep="/"))


@pytest.mark.parametrize("code", ["I64", "U64", "F64"])
def test_2c_46_numbers_of_64_bits_stay_so(code: str, tmp_path: Path) -> None:
    """The flax reader of the reference library would give 32 of them."""
    array = any_bits(code, (7,))
    sg.save({"x": array}, tmp_path / "x.safetensors")
    assert sg.realize(sg.load(tmp_path / "x.safetensors"))["x"].dtype == array.dtype
    assert same(sg.load(tmp_path / "x.safetensors"), {"x": array})


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::-1],
        lambda x: x[:, ::2],
        lambda x: np.asfortranarray(x),
        lambda x: x.swapaxes(0, 2),
        lambda x: np.broadcast_to(x[0, 0], (3, 4)),
        lambda x: x.astype(">f4"),
    ],
    ids=["turned", "backwards", "strided", "fortran", "swapped", "broadcast", "big endian"],
)
def test_2c_43_arrays_that_are_not_in_c_order_are_not_scrambled(view: Any, tmp_path: Path) -> None:
    """The numpy writer of the reference library writes their memory as it lies."""
    array = view(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    sg.save({"x": array}, tmp_path / "x.safetensors")
    again = np.asarray(sg.load(tmp_path / "x.safetensors")["x"])
    assert np.array_equal(again, array) and again.dtype == np.float32 and again.shape == array.shape


# Headers only.


@contextmanager
def bytes_read(limit: int) -> Iterator[None]:
    """Fail if the process reads more than `limit` bytes meanwhile."""
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("this system does not count the bytes that a process reads")

    def now() -> int:
        return int(counter.read_text().split()[1])

    now()
    start = now()
    counting = now() - start  # what it costs to ask
    start = now()
    yield
    assert now() - start - counting <= limit


def look(file: Path) -> None:
    """Do all that needs no number of a file."""
    tree = sg.load(file)
    sg.spec(tree), sg.summarize(tree), sg.flatten(tree), repr(tree)
    out = sg.transform(tree, [("h.{i:int}.w", "h.w", sg.ops.stack(axis=0), sg.ops.permute_axes([0, 2, 1]))])
    assert out["h.w"].shape == (4, 256, 256)
    sg.partition(tree, [("h.0.**", 0), ("**", 1)])
    assert not sg.diff(tree, sg.load(file))


def test_loading_planning_and_listing_read_the_header_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sg.save({f"h.{n}.w": any_bits("F32", (256, 256)) for n in range(4)}, file)
    look(file)  # modules are loaded when they are first used
    with bytes_read(20_000):
        look(file)


def test_a_leaf_is_read_when_it_is_used_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    tree = {f"h.{n}.w": any_bits("F32", (256, 256), n) for n in range(4)}
    sg.save(tree, file)
    loaded = sg.load(file)
    np.asarray(loaded["h.0.w"])
    with bytes_read(256 * 1024 + 20_000):
        assert np.asarray(loaded["h.2.w"]).tobytes() == tree["h.2.w"].tobytes()


def test_a_part_of_a_leaf_is_read_without_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    array = any_bits("F32", (1024, 256))
    sg.save({"x": array}, file)
    leaf = sg.load(file)["x"]
    leaf.read(((0, 1), (0, 1)))
    with bytes_read(10 * 1024 + 20_000):
        assert leaf.read(((500, 510), (3, 9))).tobytes() == array[500:510, 3:9].tobytes()


def test_a_file_far_larger_than_memory_is_loaded_and_planned(tmp_path: Path) -> None:
    """A sparse file: 64 GB of holes, which no reading of it all would survive."""
    rows, width = 1 << 22, 1 << 12
    size = rows * width * 4
    file = written(tmp_path / "x.safetensors", {"w": entry([rows, width], 0, size)})
    os.truncate(file, file.stat().st_size + size)
    tree = sg.load(file)
    plan = sg.plan([("w", "{a|b}_kernel", sg.ops.transpose(), sg.ops.split(axis=0))], tree)
    part = plan.apply(tree)["b_kernel"]
    assert part.shape == (width // 2, rows)
    assert part.read(((7, 9), (rows - 3, rows))).tolist() == [[0.0] * 3] * 2


def test_a_file_that_changed_since_it_was_loaded_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sg.save({"w": np.zeros(4, np.float32)}, file)
    tree = sg.load(file)
    sg.save({"w": np.ones(4, np.float32)}, file, overwrite=True)
    with pytest.raises(sg.FileError, match=r"x\.safetensors' changed since its header was read") as caught:
        np.asarray(tree["w"])
    assert "load it again" in str(caught.value)


# Damage is found when the header is read.


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


# Metadata and ties.


def test_2c_44_the_format_in_the_metadata_says_how_names_are_joined(tmp_path: Path) -> None:
    sg.save({"enc.w": np.ones(2)}, tmp_path / "a.safetensors")
    sg.save({"enc": {"w": np.ones(2)}}, tmp_path / "b.safetensors")
    assert header_of(tmp_path / "a.safetensors")["__metadata__"] == {"format": "pt"}
    assert header_of(tmp_path / "b.safetensors")["__metadata__"] == {"format": "flax"}


def test_2c_44_metadata_is_kept_from_file_to_file_and_what_is_given_goes_before(tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    sg.save({"enc.w": np.ones(2)}, a, metadata={"step": "3", "enc.w": "a name of a tensor", "format": "mine"})
    tree = sg.load(a)
    assert tree.metadata == {"step": "3", "enc.w": "a name of a tensor", "format": "mine"}
    sg.save(tree, b, metadata={"step": "4"})
    assert sg.load(b).metadata == {"step": "4", "enc.w": "a name of a tensor", "format": "mine"}


def test_ties_are_written_once_recorded_and_restored(tmp_path: Path) -> None:
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree = {"embed.w": table, "head.w": table, "other.w": table.copy()}
    file = tmp_path / "x.safetensors"
    sg.save(tree, file)
    assert set(header_of(file)) == {"__metadata__", "embed.w", "other.w"}
    loaded = sg.load(file)
    assert {n for n, s in sg.spec(loaded).items() if s.alias} == {"embed.w", "head.w"} and same(loaded, tree)
    real = sg.realize(loaded)
    assert real["embed.w"] is real["head.w"] and real["other.w"] is not real["head.w"]


def test_a_tie_that_was_untied_is_not_recorded_again(tmp_path: Path) -> None:
    table = np.ones(3, np.float32)
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    sg.save({"embed.w": table, "head.w": table}, a)
    sg.save(sg.transform(sg.load(a), [("head.w", "head.w", sg.ops.untie())]), b)
    assert set(header_of(b)) == {"__metadata__", "embed.w", "head.w"}
    sg.save(sg.drop(sg.load(a), "embed.w"), b, overwrite=True)
    assert same(sg.load(b), {"head.w": table})


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
    assert "nearest: 'enc'" in str(caught.value) or "head" in str(caught.value)


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
