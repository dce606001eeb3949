"""The benchmarks run, in small: what they print is measured elsewhere, never asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *args: str) -> str:
    """Run a benchmark as a user would, and return what it prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=500).stdout


def test_the_device_benchmark_checks_and_measures_both_libraries(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    printed = run("device.py", "--device", "cpu", "--gb", "0.001", "--rounds", "1", "--json", str(file))
    assert "say nothing about an accelerator" in printed
    figures = json.loads(file.read_text("utf-8"))["figures"]
    ways = {(one["library"], one["case"], one["way"]) for one in figures}
    assert ("jax", "stack", "surgery, one jitted, donated program") in ways
    for library in ("torch", "jax"):
        assert {case for name, case, _ in ways if name == library} >= {"copy", "transpose", "split", "stack"}
    assert all(one["ms"] > 0 for one in figures)


def test_the_device_benchmark_says_where_there_is_no_accelerator() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    printed = run("device.py", "--device", "cuda", "--libraries", "torch", "--gb", "0.001", "--rounds", "1")
    assert "torch sees no accelerator: nothing was measured" in printed


def test_the_startup_benchmark_measures_every_command(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run("startup.py", "--rounds", "1", "--json", str(file))
    names = {one["name"] for one in json.loads(file.read_text("utf-8"))["starts"]}
    assert names >= {"python -c pass", "surgery --help", "surgery ls FILE", "surgery plan FILE"}


@pytest.mark.slow
def test_the_tree_benchmark_compares_with_every_peer(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run("tree_ops.py", "--sizes", "1k", "--rounds", "1", "--json", str(file))
    figures = json.loads(file.read_text("utf-8"))["figures"]
    peers = " ".join(one["peer"] for one in figures)
    assert all(name in peers for name in ("flax", "jax", "optree", "equinox"))
    assert {one["size"] for one in figures} == {"1k", "Adam state, 1k"}
