"""The command from format to format: torch files, msgpack, folders, checkpoints of training loops."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import pytest
import torch
from torch import nn

import surgery as sg
from surgery.cli import main

BERT = Path(__file__).parents[1] / "data" / "hf" / "bert_cls"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command in this process: its code, its data, its messages."""

    def call(*args: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        shown = capsys.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder as Hugging Face's libraries write it."""
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((BERT / "torch.safetensors").read_bytes())
    config = json.loads((BERT / "config.json").read_text())["config"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What a training loop on several devices wrote."""
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    opt = torch.optim.Adam(net.parameters())
    state = {f"module.{name}": x for name, x in net.state_dict().items()}
    torch.save({"epoch": 3, "model": state, "optimizer": opt.state_dict()}, tmp_path / "run.pt")
    return tmp_path / "run.pt"


NAMES = {
    "0.weight",
    "0.bias",
    "1.weight",
    "1.bias",
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
}


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".bin"])
def test_the_model_inside_a_checkpoint_is_taken_by_at_auto(
    ending: str, run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    dst = tmp_path / f"out{ending}"
    code, _, err = run("convert", checkpoint, dst, "--at", "auto", "--unwrap")
    assert code == 0 and "took 'model', stripped 'module' from 7 leaves" in err
    assert set(sg.load(dst)) == NAMES
    held = torch.load(checkpoint, weights_only=True)["model"]
    assert sg.equal(sg.realize(sg.load(dst), "torch"), {n: held[f"module.{n}"] for n in sg.load(dst)})


def test_at_auto_alone_leaves_the_prefixes_and_unwrap_alone_leaves_the_checkpoint(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    assert run("convert", checkpoint, tmp_path / "a.pt", "--at", "auto")[0] == 0
    assert set(sg.load(tmp_path / "a.pt")) == {f"module.{name}" for name in NAMES}
    assert run("convert", checkpoint, tmp_path / "b.pt", "--at", "model", "--unwrap")[0] == 0
    assert set(sg.load(tmp_path / "b.pt")) == NAMES


def test_a_checkpoint_that_is_no_tree_of_tensors_does_not_become_safetensors(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    code, out, err = run("convert", checkpoint, tmp_path / "x.safetensors")
    assert (code, out) == (5, "") and "safetensors holds tensors only" in err and "'epoch'" in err
    assert "of a checkpoint, unwrap(tree) takes the model (on the command line: --at auto)" in err
    assert [one.name for one in tmp_path.iterdir()] == ["run.pt"]


def test_parts_of_a_checkpoint_are_listed_and_compared(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, out, _ = run("ls", f"{checkpoint}:optimizer", "--json")
    assert code == 0 and "param_groups" in out
    assert run("convert", checkpoint, tmp_path / "m.safetensors", "--at", "model")[0] == 0
    assert run("diff", f"{checkpoint}:model", tmp_path / "m.safetensors", "--exact")[0] == 0
    code, out, _ = run("diff", f"{checkpoint}:model", f"{checkpoint}:optimizer")
    assert code == 1 and "removed" in out
    code, out, _ = run("show", checkpoint, "--json")
    assert code == 0 and json.loads(out)["format"] == "torch"


@pytest.mark.parametrize("ending", [".msgpack", ".safetensors", ".pt"])
def test_a_folder_of_hugging_face_goes_to_flax_and_back_bit_for_bit(
    ending: str, run: Run, bert: Path, tmp_path: Path
) -> None:
    there = tmp_path / f"flax{ending}"
    code, out, _ = run("convert", bert, there, "--recipe", "hf/bert", "--to", "linen")
    assert code == 0 and out.startswith("convert: ")
    assert run("diff", f"{there}:params", BERT / "flax.safetensors", "--exact")[0] == 0
    # Nothing was lost, so there is no remainder; only the user can know that there never was one.
    code, _, err = run("convert", there, f"{tmp_path}/back/", "--recipe", "hf/bert", "--reverse")
    assert code == 4 and "--no-remainder" in err and not (tmp_path / "back").exists()
    back = ["convert", there, f"{tmp_path}/back/", "--recipe", "hf/bert", "--reverse", "--no-remainder"]
    assert run(*back)[0] == 0
    assert run("diff", bert, tmp_path / "back", "--exact")[0] == 0


def test_msgpack_is_what_flax_reads(run: Run, bert: Path, tmp_path: Path) -> None:
    assert run("convert", bert, tmp_path / "bert.msgpack", "--recipe", "hf/bert")[0] == 0
    restored = flax.serialization.msgpack_restore((tmp_path / "bert.msgpack").read_bytes())
    wanted = sg.convert(sg.load(bert), "linen", recipe="hf/bert")
    assert sg.equal(sg.realize(restored, "numpy"), sg.realize(wanted, "numpy"))


def test_like_takes_a_file_of_another_framework(run: Run, bert: Path, tmp_path: Path) -> None:
    params = sg.realize(sg.load(BERT / "flax.safetensors"), "numpy")
    sg.save({f"params/{name}": x for name, x in params.items()}, tmp_path / "like.safetensors")
    given = ["--recipe", "hf/bert", "--like", tmp_path / "like.safetensors"]
    assert run("convert", bert, tmp_path / "a.msgpack", *given)[0] == 0
    sg.save(
        {f"params/{name}": x for name, x in params.items() if "classifier" not in name},
        tmp_path / "like.safetensors",
        overwrite=True,
    )
    code, _, err = run("convert", bert, tmp_path / "b.msgpack", *given)
    assert code == 4 and "has no place in the target at 'params/classifier/kernel'" in err


@pytest.mark.parametrize("command", ["ls", "show", "plan"])
def test_an_unsafe_file_leaves_with_3_and_is_not_run(command: str, run: Run, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'mark'}",)

    torch.save({"w": torch.ones(1), "x": Evil()}, tmp_path / "x.pt")
    code, out, err = run(command, tmp_path / "x.pt")
    assert (code, out) == (3, "") and f"would run code of {os.system.__module__}.system" in err
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.msgpack", "x.safetensors"])
def test_diff_does_not_mind_the_format(name: str, run: Run, tmp_path: Path) -> None:
    tree = {"enc": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2, np.float16)}
    sg.save(tree, tmp_path / "a.safetensors")
    sg.save(tree, tmp_path / f"b_{name}")
    assert run("diff", tmp_path / "a.safetensors", tmp_path / f"b_{name}", "--exact")[0] == 0
    sg.save({**tree, "b": np.zeros(2, np.float16)}, tmp_path / f"c_{name}")
    assert run("diff", tmp_path / "a.safetensors", tmp_path / f"c_{name}", "--exact")[0] == 1
