"""Files of torch: zip and legacy, sharded, refused where they would run code."""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgery as sg
from tests.torch.nets import Extra, TiedNet, same_tensors

EITHER = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def write(tree: Any, file: Path, zipped: bool = True) -> Path:
    """Write a file as torch does, now or as it did before 1.6."""
    torch.save(tree, file, _use_new_zipfile_serialization=zipped)
    return file


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


# What a file holds.


@EITHER
def test_a_state_dict_is_read_with_its_order_its_metadata_and_its_ties(zipped: bool, tmp_path: Path) -> None:
    state = TiedNet().state_dict()
    tree = sg.load(write(state, tmp_path / "x.pt", zipped))
    assert isinstance(tree, OrderedDict) and tree._metadata == state._metadata
    assert same_tensors(tree, state) and tree.format == "torch" and tree.file == str(tmp_path / "x.pt")
    assert {n for n, s in sg.spec(tree).items() if s.alias} == {"embed.weight", "head.weight"}
    TiedNet().load_state_dict(tree, strict=True)


@EITHER
def test_a_file_is_written_and_read_back_as_it_was(zipped: bool, tmp_path: Path) -> None:
    net = nn.Sequential(Extra({"scale": torch.ones(2)}), nn.Linear(2, 2))
    opt = torch.optim.Adam(net.parameters())
    net[1](torch.ones(1, 2)).sum().backward()
    opt.step()
    run = {"model": net.state_dict(), "optimizer": opt.state_dict(), "epoch": 3, "note": "a", "best": None}
    first = sg.load(write(run, tmp_path / "a.pt", zipped))
    sg.save(first, tmp_path / "b.pt")
    second = sg.load(tmp_path / "b.pt")
    assert sg.equal(second, run) and sg.equal(first, run)
    assert second["model"]._metadata == net.state_dict()._metadata and second["best"] is None
    opt.load_state_dict(second["optimizer"])


keys = st.one_of(st.text(max_size=5), st.integers(0, 12))
leaves = st.one_of(
    st.builds(
        lambda shape, dtype: torch.arange(int(np.prod(shape))).reshape(shape).to(dtype),
        st.sampled_from([(), (0,), (3,), (2, 3)]),
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]),
    ),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.booleans(),
    st.none(),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4).map(OrderedDict),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


@given(tree=trees)
def test_what_is_saved_is_loaded_in_the_same_containers(tree: Any, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.mktemp("files") / "x.pt"
    sg.save(tree, file)
    loaded = sg.load(file)
    assert sg.equal(loaded, tree)
    again = torch.load(file, weights_only=True)
    flat, other = sg.flatten(tree), sg.flatten(again)
    assert list(flat) == list(other)
    assert [type(x) for x in flat.values()] == [type(x) for x in other.values()]


def test_a_zip_is_mapped_and_not_read(tmp_path: Path) -> None:
    """80 MB, of which no more may be read than a header and what the reader looks at."""
    file = write({"w": torch.zeros(20_000_000), "b": torch.ones(3)}, tmp_path / "x.pt")
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("this system does not count the bytes that a process reads")
    sg.load(file)
    start = int(counter.read_text().split()[1])
    tree = sg.load(file)
    assert str(sg.spec(tree)["w"]) == "f32[20000000]"
    assert int(counter.read_text().split()[1]) - start < 10_000_000
    assert tree["b"].tolist() == [1, 1, 1]


def test_jax_and_numpy_leaves_are_written_as_tensors(tmp_path: Path) -> None:
    import ml_dtypes

    tree = {"w": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3).T, "n": np.ones(2)[::-1]}
    sg.save(tree, tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded["w"].dtype is torch.bfloat16 and loaded["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert sg.equal(sg.load(tmp_path / "x.pt"), sg.realize(tree, "torch"))


def test_a_lazy_tree_of_safetensors_becomes_a_torch_file_with_its_ties(tmp_path: Path) -> None:
    state = TiedNet().state_dict()
    sg.save(state, tmp_path / "x.safetensors")
    sg.save(sg.load(tmp_path / "x.safetensors"), tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert same_tensors({n: loaded[n] for n in state}, state)
    assert loaded["head.weight"].data_ptr() == loaded["embed.weight"].data_ptr()


def test_a_part_of_a_checkpoint_is_named_after_a_colon(tmp_path: Path) -> None:
    net = TiedNet()
    file = write({"epoch": 1, "model": net.state_dict()}, tmp_path / "run.pt")
    assert same_tensors(sg.load(f"{file}:model"), net.state_dict())
    assert list(sg.load(f"{file}:model.bn")) == list(net.bn.state_dict())
    assert sg.load(f"{file}:epoch") == 1
    assert sg.load(f"{file}:model").file == str(file)
    with pytest.raises(sg.PathError, match="nothing lies at 'modl'"):
        sg.load(f"{file}:modl")


# By content.


@EITHER
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.msgpack", "x", "x.pth.tar"])
def test_2c_42_a_torch_file_is_known_by_its_content(name: str, zipped: bool, tmp_path: Path) -> None:
    state = nn.Linear(2, 3).state_dict()
    tree = sg.load(write(state, tmp_path / name, zipped))
    assert tree.format == "torch" and same_tensors(tree, state)


def test_2c_42_other_files_in_a_zip_or_a_pickle_are_not_taken_for_ours(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", w=np.ones(2))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": 1}))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("data.txt", "hello")
    for name in ("x.npz", "x.pkl", "x.zip"):
        with pytest.raises(sg.FileError, match="is in no format that is known here"):
            sg.load(tmp_path / name)


def test_2c_42_torchscript_is_refused_and_says_how_to_go_on(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(sg.FileError, match="is TorchScript: a program, not a tree of tensors") as caught:
        sg.load(tmp_path / "x.pt")
    assert "torch.jit.load(file).state_dict()" in str(caught.value)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_2c_42_a_distributed_checkpoint_is_refused_with_the_command_that_makes_one_file(
    tmp_path: Path,
) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp.save({"w": torch.ones(2)}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    with pytest.raises(sg.FileError, match="is a distributed checkpoint, which is not read yet") as caught:
        sg.load(tmp_path / "dcp")
    assert f"format_utils dcp_to_torch {tmp_path / 'dcp'} model.pt" in str(caught.value)
    dcp_to_torch_save(tmp_path / "dcp", tmp_path / "model.pt")
    assert sg.load(tmp_path / "model.pt")["w"].tolist() == [1, 1]


@EITHER
def test_2c_42_a_file_that_is_cut_off_is_called_damaged(zipped: bool, tmp_path: Path) -> None:
    file = write({"w": torch.ones(1000)}, tmp_path / "x.pt", zipped)
    whole = file.read_bytes()
    for size in (len(whole) // 2, len(whole) - 10, 200):
        file.write_bytes(whole[:size])
        with pytest.raises(sg.FileError, match=r"x\.pt' is damaged: "):
            sg.realize(sg.load(file))


# What would run code.


@EITHER
def test_2c_41_what_would_run_code_is_refused_and_named_and_not_run(zipped: bool, tmp_path: Path) -> None:
    file = write({"w": torch.ones(1), "x": Evil(tmp_path / "mark")}, tmp_path / "x.pt", zipped)
    with pytest.raises(sg.FileError) as caught:
        sg.load(file)
    assert str(caught.value) == (
        f"load: '{file}' would run code of {os.system.__module__}.system when it is read\n"
        "  hint: save only tensors, numbers and text: torch.save(model.state_dict(), file)"
    )
    assert not (tmp_path / "mark").exists()


@EITHER
def test_2c_41_a_whole_module_is_refused_by_the_name_of_its_class(zipped: bool, tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match=r"would run code of .*torch\.nn\.modules\.linear\.Linear"):
        sg.load(write(nn.Linear(2, 2), tmp_path / "x.pt", zipped))


@EITHER
def test_2c_41_only_what_offends_is_named(zipped: bool, tmp_path: Path) -> None:
    tree = {
        "lr": np.float64(0.1),
        "args": argparse.Namespace(a=1),
        "c": collections.ChainMap(),
        "w": torch.ones(1),
    }
    with pytest.raises(sg.FileError) as caught:
        sg.load(write(tree, tmp_path / "x.pt", zipped))
    assert "would run code of collections.ChainMap when" in str(caught.value)


@EITHER
def test_2c_41_what_training_loops_save_beside_tensors_is_read(zipped: bool, tmp_path: Path) -> None:
    """Numbers and arrays of numpy, and options of a command: data, and refused by torch's own reader."""
    run = {
        "model": nn.Linear(2, 2).state_dict(),
        "best": np.float64(0.25),
        "count": np.int64(7),
        "curve": np.arange(3.0),
        "names": np.array(["a", "bc"]),
        "mask": np.array([True, False]),
        "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "shape": torch.Size([2, 3]),
        "seen": {1, 2},
    }
    file = write(run, tmp_path / "x.pt", zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    tree = sg.load(file)
    assert tree["args"] == run["args"] and tree["seen"] == {1, 2}
    for name in ("best", "count", "curve", "names", "mask"):
        assert type(tree[name]) is type(run[name]) and np.array_equal(tree[name], run[name])
    model, report = sg.unwrap(tree)
    assert same_tensors(model, run["model"]) and "took 'model'" in str(report)


@EITHER
def test_2c_41_an_array_of_objects_cannot_hide_code(zipped: bool, tmp_path: Path) -> None:
    hidden = np.empty(1, object)
    hidden[0] = Evil(tmp_path / "mark")
    with pytest.raises(sg.FileError, match=r"would run code of .*system"):
        sg.load(write({"x": hidden}, tmp_path / "x.pt", zipped))
    assert not (tmp_path / "mark").exists()


def test_2c_41_a_pickle_inside_the_bytes_of_a_numpy_scalar_is_not_unpickled(tmp_path: Path) -> None:
    """The scalar() of numpy takes a dtype and bytes; of an object dtype it must not take them for a pickle."""

    class Scalar:
        def __reduce__(self) -> Any:
            from numpy._core.multiarray import scalar

            return scalar, (np.dtype(object), pickle.dumps(Evil(tmp_path / "mark")))

    file = write({"x": Scalar()}, tmp_path / "x.pt")
    try:
        sg.load(file)
    except sg.FileError:
        pass
    assert not (tmp_path / "mark").exists()


# What cannot be written.


def test_a_container_that_would_need_its_code_is_refused(tmp_path: Path) -> None:
    Pair = collections.namedtuple("Pair", "left right")
    with pytest.raises(sg.FileError, match="cannot be read back without running its code at 'x'") as caught:
        sg.save({"x": Pair(torch.ones(1), torch.ones(1))}, tmp_path / "x.pt")
    assert "save its parts" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "leaf", [object(), torch.ones(2, device="meta"), sg.TensorSpec((2,), "float32"), lambda: None]
)
def test_a_leaf_that_cannot_be_read_back_is_refused(leaf: Any, tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match="the file cannot hold this leaf at 'x'"):
        sg.save({"x": leaf, "w": torch.ones(1)}, tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    sg.save({"w": torch.ones(1)}, file)
    before = file.read_bytes()
    with pytest.raises(sg.FileError, match=r"x\.pt' exists already"):
        sg.save({"w": torch.zeros(1)}, file)

    def interrupted(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sg.save({"w": torch.zeros(1)}, file, overwrite=True, progress=interrupted)
    with pytest.raises(KeyboardInterrupt):
        sg.save({"w": torch.zeros(1)}, tmp_path / "y.pt", progress=interrupted)
    assert file.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["x.pt"]


# Shards.


def shards(folder: Path, zipped: bool = True) -> dict[str, torch.Tensor]:
    """Write a folder as Hugging Face's libraries did: shards, an index, a config."""
    tree = {f"h.{n}.w": torch.full((2, n + 1), float(n)) for n in range(4)}
    folder.mkdir()
    weight_map = {}
    for n in (0, 1):
        file = f"pytorch_model-{n + 1:05d}-of-00002.bin"
        part = {name: x for name, x in tree.items() if int(name[2]) // 2 == n}
        write(part, folder / file, zipped)
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 80}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "x"}')
    return tree


@EITHER
def test_a_folder_of_shards_is_read_by_its_index(zipped: bool, tmp_path: Path) -> None:
    tree = shards(tmp_path / "x", zipped)
    loaded = sg.load(tmp_path / "x")
    assert same_tensors(loaded, tree) and loaded.config == {"model_type": "x"} and loaded.format == "torch"
    assert same_tensors(sg.load(tmp_path / "x" / "pytorch_model.bin.index.json"), tree)
    sg.save(loaded, f"{tmp_path}/y/", shard_limit=30)
    again = sg.load(tmp_path / "y")
    assert again.format == "safetensors" and again.config == loaded.config
    assert same_tensors(sg.realize(sg.select(again, "**"), "torch"), tree)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(more="pytorch_model-00001-of-00002.bin"), "its shard lacks at 'more'"),
        (lambda m: m.pop("h.0.w"), "the index does not send there at 'h.0.w'"),
        (lambda m: m.update(more="gone.bin"), "the shard 'gone.bin' is missing"),
        (lambda m: m.update(more="../x.bin"), "names a file outside its folder: '../x.bin'"),
    ],
)
def test_2c_45_an_index_that_disagrees_with_its_bin_shards_is_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    shards(tmp_path / "x")
    file = tmp_path / "x" / "pytorch_model.bin.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))
    with pytest.raises(sg.FileError) as caught:
        sg.load(tmp_path / "x")
    assert message in str(caught.value)


def test_safetensors_are_taken_before_pickles_where_a_folder_has_both(tmp_path: Path) -> None:
    write({"w": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    sg.save({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    assert sg.load(tmp_path).format == "safetensors"


def test_a_shard_that_would_run_code_is_refused(tmp_path: Path) -> None:
    shards(tmp_path / "x")
    write({"h.0.w": Evil(tmp_path / "mark")}, tmp_path / "x" / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(sg.FileError, match="would run code of"):
        sg.load(tmp_path / "x")
    assert not (tmp_path / "mark").exists()


def test_a_file_can_be_read_while_torch_reads_from_memory_elsewhere(tmp_path: Path) -> None:
    """Our list of what is data is ours alone: torch's own reader is as strict afterwards as before."""
    file = write({"x": np.float64(1)}, tmp_path / "x.pt")
    assert sg.load(file)["x"] == 1.0
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(file.read_bytes()), weights_only=True)


def test_a_numpy_float_that_python_takes_for_its_own_is_read_back_without_running_code(
    tmp_path: Path,
) -> None:
    file = tmp_path / "x.pt"
    sg.save({"loss": np.float64(0.5), "lr": 0.1}, file)
    loaded = torch.load(file, weights_only=True)
    assert loaded["loss"].dtype == torch.float64 and loaded["loss"].item() == 0.5 and loaded["lr"] == 0.1
