"""flax's msgpack files: the bytes that flax writes, what they read back as, and what is no such file."""

from __future__ import annotations

import random
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from flax.serialization import from_bytes, msgpack_restore, msgpack_serialize, to_bytes
from flax.training.train_state import TrainState

import surgery as sg
import surgery_flax.format
from tests.flax.helpers import same_bytes, structure_of

W = jnp.arange(6.0).reshape(2, 3)
Pair = namedtuple("Pair", "a b")

TREES: dict[str, Any] = {
    "dict_in_its_own_order": {"b": W, "a": {"c": np.ones(3)}},
    "frozen": freeze({"params": {"w": W}}),
    "list_and_tuple": {"l": [W, (W, W + 1)], "eleven": [np.float32(n) for n in range(11)]},
    "list_as_the_tree": [W, {"x": W}],
    "array_as_the_tree": np.arange(3.0),
    "int_keys": {0: W, 1: {10: W}},
    "namedtuple": Pair(W, None),
    "box": {"w": nn.Partitioned(W, names=("a", "b"))},
    "adamw": optax.adamw(1e-3).init({"w": W}),
    "masked": optax.masked(optax.adam(1e-3), {"w": True, "v": False}).init({"w": W, "v": W}),
    "train_state": TrainState.create(apply_fn=None, params={"w": W}, tx=optax.adam(1e-3)),
    "python_values": {"i": 1, "big": 2**63, "low": -(2**63), "f": 0.5, "b": True, "n": None, "s": "ü", "c": 1 + 2j},
    "bytes": {"x": b"ab"},
    "numpy_scalars": {"a": np.float32(3), "b": np.int64(3), "c": np.bool_(True), "d": np.float64(1), "e": 1j},
    "zero_d": {"a": jnp.array(1), "b": np.array(2.5)},
    "narrow": {name: W.astype(name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "bool")},
    "wide": {"a": np.arange(3), "b": np.ones(3), "c": np.ones(2, np.complex128), "d": np.arange(3, dtype=np.uint64)},
    "empty": {"a": {}, "b": [], "c": (), "d": optax.EmptyState(), "e": np.zeros((0, 3)), "f": optax.MaskedNode()},
    "empty_tree": {},
    "fortran_order": {"w": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "v": np.arange(12.0)[::3]},
    "long_names_and_arrays": {"x" * 300: np.ones(70_000, np.uint8), "y" * 20: {"": np.ones(300, np.uint8)}},
    "seventy_thousand_leaves": {str(n): np.uint8(n % 256) for n in range(70_000)},
    "odd_names": {"a/b": W, "a": {"b": W}, ".": W, "[0]": W, "0": W},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_the_bytes_are_those_that_flax_writes(name: str, tmp_path: Path) -> None:
    sg.save(TREES[name], tmp_path / "x.msgpack")
    assert (tmp_path / "x.msgpack").read_bytes() == to_bytes(TREES[name])


@pytest.mark.parametrize("name", TREES)
def test_what_is_loaded_is_what_flax_restores_without_a_target(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.msgpack").write_bytes(to_bytes(TREES[name]))
    ours, theirs = sg.load(tmp_path / "x.msgpack", to="numpy"), msgpack_restore(to_bytes(TREES[name]))
    if isinstance(theirs, dict):
        assert same_bytes(ours, theirs) and list(ours) == list(theirs)
        assert [type(leaf) for leaf in jax.tree.leaves(ours)] == [
            type(leaf) for leaf in jax.tree.leaves(theirs)
        ]
    else:
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in TREES if name not in ("seventy_thousand_leaves", "bytes")])
def test_a_graft_gives_the_types_back_as_from_bytes_does(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    sg.save(tree, tmp_path / "x.msgpack")
    out, _ = sg.graft(tree, sg.load(tmp_path / "x.msgpack"))
    assert structure_of(out) == structure_of(tree) and sg.equal(out, tree)
    assert sg.equal(out, from_bytes(tree, (tmp_path / "x.msgpack").read_bytes()))


def test_what_flax_refuses_to_write_is_written_as_the_mapping_that_it_is(tmp_path: Path) -> None:
    tree = {"o": OrderedDict(b=W, a=W), "s": nnx.State({"l": {0: nnx.Param(W)}})}
    sg.save(tree, tmp_path / "x.msgpack")
    untyped = {"o": {"b": W, "a": W}, "s": {"l": {"0": {"value": W}}}}
    assert (tmp_path / "x.msgpack").read_bytes() == to_bytes(untyped)


def test_a_saved_nnx_state_goes_back_into_its_variables(tmp_path: Path) -> None:
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    sg.save(state, tmp_path / "x.msgpack")
    out, _ = sg.graft(jax.tree.map(jnp.zeros_like, state), sg.load(tmp_path / "x.msgpack"))
    assert same_bytes(out, state)


def test_a_leaf_called_value_is_not_taken_for_what_is_in_a_box(tmp_path: Path) -> None:
    with pytest.raises(
        sg.StructureError, match="a leaf of the donor has no place in the target at 'w/value'"
    ):
        sg.graft({"w": W}, {"w": {"value": W}}, missing="keep-target")


def test_big_endian_numbers_keep_their_value(tmp_path: Path) -> None:
    sg.save({"w": np.arange(3, dtype=">f4")}, tmp_path / "x.msgpack")
    assert msgpack_restore((tmp_path / "x.msgpack").read_bytes())["w"].tolist() == [0.0, 1.0, 2.0]


# arrays above a gigabyte are cut into chunks


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    monkeypatch.setattr(surgery_flax.format, "CHUNK", 16)


CHUNKED = {
    "w": np.arange(24.0).reshape(2, 3, 4),
    "narrow": jnp.arange(30).reshape(5, 6).astype("bfloat16"),
    "odd": np.arange(13, dtype=np.float32),
    "just_fits": np.arange(4, dtype=np.float32),
    "scalar": np.float64(0.5),
}


@pytest.mark.usefixtures("small_chunks")
def test_large_arrays_are_cut_as_flax_cuts_them_and_read_as_one(tmp_path: Path) -> None:
    sg.save(CHUNKED, tmp_path / "x.msgpack")
    assert (tmp_path / "x.msgpack").read_bytes() == to_bytes(CHUNKED)
    tree = sg.load(tmp_path / "x.msgpack")
    assert sg.spec(tree) == sg.spec(CHUNKED) and sg.equal(sg.realize(tree), sg.realize(CHUNKED))
    assert "12 chunks" in repr(tree["w"]) and np.array_equal(
        tree["w"].read(((1, 2), (0, 3), (2, 4))), CHUNKED["w"][1:, :, 2:]
    )
    turned = sg.transform(tree, [("w", "w", sg.ops.permute_axes([2, 0, 1]))])["w"]
    assert np.array_equal(turned, np.transpose(CHUNKED["w"], [2, 0, 1]))


# reading


def test_nothing_but_headers_is_read_until_a_leaf_is_used(tmp_path: Path) -> None:
    file = tmp_path / "x.msgpack"
    file.write_bytes(to_bytes({"a": {"w": np.ones((100, 1000), np.float32)}, "b": W}))
    tree = sg.load(file)
    assert str(tree["a"]["w"]).startswith("<f32[100,1000] in x.msgpack[") and tree.format == "msgpack"
    assert sg.spec(tree)["b"] == sg.TensorSpec((2, 3), "float32")
    assert np.array_equal(tree["b"].read(((1, 2), (0, 2))), np.asarray(W)[1:2, :2])
    file.write_bytes(file.read_bytes())
    with pytest.raises(sg.FileError, match=r"'.*x.msgpack' changed since it was loaded") as caught:
        np.asarray(tree["b"])
    assert "hint: load it again" in str(caught.value)


def test_a_subtree_is_named_behind_a_colon(tmp_path: Path) -> None:
    state = TREES["train_state"]
    sg.save(state, tmp_path / "x.msgpack")
    moments = sg.load(f"{tmp_path / 'x.msgpack'}:opt_state/0/mu")
    assert list(moments) == ["w"] and sg.equal(moments, sg.load(tmp_path / "x.msgpack", at="opt_state/0/mu"))
    assert sg.load(f"{tmp_path / 'x.msgpack'}:step") == 0
    with pytest.raises(sg.PathError, match="nothing lies at 'opt_state/0/mw'") as caught:
        sg.load(f"{tmp_path / 'x.msgpack'}:opt_state/0/mw")
    assert "hint: nearest: 'opt_state/0/mu/w', 'opt_state/0/mu'" in str(caught.value)


def test_a_tree_that_is_too_deep_for_the_format_is_refused(tmp_path: Path) -> None:
    tree: Any = W
    for _ in range(3000):
        tree = {"a": tree}
    with pytest.raises(sg.FileError, match="save: the tree is nested too deeply for msgpack"):
        sg.save(tree, tmp_path / "x.msgpack")
    assert not list(tmp_path.iterdir())


def test_two_keys_that_are_one_as_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match="save: two keys are one as text at 'l'"):
        sg.save({"l": {0: W, "0": W}}, tmp_path / "x.msgpack")


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (np.array([object()]), "msgpack cannot hold this dtype at 'a'"),
        (np.str_("x"), "msgpack cannot hold this dtype at 'a'"),
        (len, "msgpack cannot hold this leaf at 'a'"),
        (2**64, "the number needs more than 64 bits at 'a'"),
        (sg.TensorSpec((2,), "float32"), "a leaf has no data at 'a'"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(
    leaf: Any, text: str, tmp_path: Path
) -> None:
    with pytest.raises(sg.FileError, match=f"save: {text}"):
        sg.save({"a": leaf, "w": W}, tmp_path / "x.msgpack")
    assert not list(tmp_path.iterdir())


# what is no such file, or no longer


FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello world",
    "list": msgpack.packb([1, 2]),
    "other_extension": msgpack.packb({"a": msgpack.ExtType(42, b"x")}),
    "timestamp": msgpack.packb({"a": msgpack.Timestamp(1, 2)}),
    "behind_the_end": to_bytes({"w": W}) + b"\xc0",
    "twice": b"\x82" + 2 * (msgpack.packb("a") + b"\xc0"),
    "nested_too_deeply": b"\x81\xa1a" * 2000 + b"\xc0",
    "length_beyond_the_end": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "array_beyond_the_end": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "unknown_dtype": to_bytes({"w": W}).replace(b"float32", b"float99"),
    "other_size": to_bytes({"w": W}).replace(b"float32", b"float64"),
    "negative_size": to_bytes({"w": W}).replace(b"\x92\x02\x03", b"\x92\xfe\xfd"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.msgpack").write_bytes(FOREIGN[name])
    with pytest.raises(sg.FileError, match=r"load: '.*x.msgpack' (is damaged|is in no format|holds)"):
        sg.load(tmp_path / "x.msgpack")


def everything(file: Path) -> None:
    for leaf in sg.flatten(sg.load(file)).values():
        np.asarray(leaf)


GOOD = {
    "a": {"w": W, "b": jnp.ones(3, jnp.bfloat16), "e": np.zeros((0, 2))},
    "s": 1,
    "t": "text",
    "n": np.float32(2),
    "c": 1j,
    "chunked": np.arange(24.0).reshape(2, 3, 4),
}


@pytest.mark.usefixtures("small_chunks")
def test_a_file_that_ends_anywhere_too_early_is_refused(tmp_path: Path) -> None:
    data, file = to_bytes(GOOD), tmp_path / "x.msgpack"
    for end in range(len(data)):
        file.write_bytes(data[:end])
        with pytest.raises(sg.FileError):
            everything(file)


@pytest.mark.usefixtures("small_chunks")
def test_damage_is_an_error_of_the_file_or_other_numbers_and_never_a_crash(tmp_path: Path) -> None:
    data, file, rng = to_bytes(GOOD), tmp_path / "x.msgpack", random.Random(0)
    refused = 0
    for _ in range(3000):
        bad = bytearray(data)
        at = rng.randrange(len(bad))
        if rng.random() < 0.5:
            for _ in range(rng.randrange(1, 4)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
        elif rng.random() < 0.5:
            del bad[at : at + rng.randrange(1, 9)]
        else:
            bad[at:at] = rng.randbytes(rng.randrange(1, 9))
        file.write_bytes(bad)
        try:
            everything(file)
        except sg.FileError:
            refused += 1
    assert refused > 1500


def test_a_file_that_shrinks_after_it_was_loaded_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.msgpack"
    file.write_bytes(msgpack_serialize({"w": np.ones(1000, np.float32)}))
    tree = sg.load(file)
    with file.open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(sg.FileError):
        np.asarray(tree["w"])
