"""safetensors files: what is written is what is read, of every dtype, and headers alone are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from tests.core.files import DTYPES, SHAPES, THEIRS, any_bits, entry, header_of, same, written

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
