"""The command as a reader sees it: what it converted, what it gave back, what it compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import surgery as sg

NAMES = {"embeddings.position_ids": (1, 4), "pooler.dense.weight": (2, 3), "pooler.dense.bias": (2,)}


def surgery(*args: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "surgery", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT in a file, and converted."""
    random = np.random.default_rng(0)
    tree = {name: random.normal(size=shape).astype(np.float32) for name, shape in NAMES.items()}
    shapes = {f"embeddings.{name}_embeddings.weight": (4, 2) for name in ("word", "position", "token_type")}
    tree |= {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    tree |= {f"embeddings.LayerNorm.{name}": np.ones(2, np.float32) for name in ("weight", "bias")}
    sg.save(tree, tmp_path / "bert.safetensors")
    done = surgery("convert", tmp_path / "bert.safetensors", tmp_path / "bert.msgpack", "--recipe", "hf/bert")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("convert: ") and "1 dropped" in done.stdout.splitlines()[0]
    return tmp_path


def test_convert_names_what_it_gives_back_from_the_remainder(folder: Path) -> None:
    back = [
        "convert",
        folder / "bert.msgpack",
        folder / "back.safetensors",
        "--recipe",
        "hf/bert",
        "--reverse",
    ]
    done = surgery(*back)
    assert done.returncode == 0
    assert "restored  embeddings.position_ids" in done.stdout
    assert "from the remainder" in done.stdout
    rows = json.loads(surgery(*back, "--force", "--json").stdout)["rows"]
    assert {row["path"] for row in rows} == set(sg.load(folder / "back.safetensors"))


def test_a_dry_run_plans_and_does_not_say_that_it_converted(folder: Path) -> None:
    done = surgery(
        "convert", folder / "bert.safetensors", folder / "x.msgpack", "--recipe", "hf/bert", "--dry-run"
    )
    assert done.stdout.startswith("plan: ") and not (folder / "x.msgpack").exists()


def test_the_way_back_without_the_remainder_names_what_it_may_lack(folder: Path) -> None:
    (folder / "bert.msgpack.remainder.safetensors").unlink()
    back = folder / "back.safetensors"
    done = surgery("convert", folder / "bert.msgpack", back, "--recipe", "hf/bert", "--reverse")
    assert done.returncode == 4 and not back.exists()
    assert "error: apply: what matches '{p:**}.position_ids' was dropped on the way here" in done.stderr


def test_diff_says_how_much_it_compared_where_nothing_differs(folder: Path) -> None:
    file = folder / "bert.safetensors"
    assert (
        surgery("diff", file, file, "--exact").stdout
        == "diff: nothing differs in 8 leaves, compared bit for bit\n"
    )
    text = "diff: nothing differs in 8 leaves; only names, shapes and dtypes were compared\n"
    assert surgery("diff", file, file).stdout == text


def test_diff_in_python_counts_containers_too() -> None:
    assert "1 container" in str(sg.diff([1.0], (1.0,)))
    assert str(sg.diff([1.0], [1.0], values=True)) == "diff: nothing differs in 1 leaf, compared bit for bit"
