"""The command converting: there and back, remainders, and nothing replaced unless it is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import surgery as sg
from tests.core.commands import SPECS, Run, changed

# convert.


RECIPE = """
version = 1
title = "There and back"
from = "torch"
to = "linen"
rules = [
  { from = "{p:**}.position_ids?", to = [] },
  { from = "enc.{i}.w", to = "params/enc_{i}/kernel", ops = ["transpose"] },
  { from = "head.w", to = "params/head/bias" },
]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that loses one leaf."""
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path / "r.toml"


@pytest.fixture
def lossy(file: Path) -> Path:
    """A file with a leaf that the recipe drops."""
    return changed(file, "src.safetensors", **{"enc.position_ids": np.arange(4)})


def test_convert_and_back_gives_every_bit(run: Run, lossy: Path, recipe: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    done = run("convert", lossy, there, "--recipe", recipe)
    beside = tmp_path / "there.safetensors.remainder.safetensors"
    assert done.code == 0 and f"is kept in {beside}: what the result cannot hold" in done.out
    assert set(sg.load(there)) == {"params/enc_0/kernel", "params/enc_1/kernel", "params/head/bias"}
    done = run("convert", there, back, "--recipe", recipe, "--reverse")
    assert done.code == 0 and done.err == f"using the remainder {beside}\n"
    assert run("diff", lossy, back, "--exact").code == 0
    elsewhere = beside.rename(tmp_path / "kept.safetensors")
    again = run("convert", there, back, "--recipe", recipe, "--reverse", "--force", "--remainder", elsewhere)
    assert again.code == 0 and run("diff", lossy, back, "--exact").code == 0
    assert run("convert", there, back, "--recipe", recipe, "--reverse", "--force").code == 4
    without = ["--recipe", recipe, "--reverse", "--force", "--no-remainder"]
    assert run("convert", there, back, *without).code == 0
    assert set(sg.load(back)) == set(SPECS)


def test_a_dry_run_writes_nothing_and_prints_the_plan(
    run: Run, lossy: Path, recipe: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    done = run("convert", lossy, tmp_path / "x.safetensors", "--recipe", recipe, "--dry-run")
    assert done.code == 0 and done.out.startswith("plan: ") and "would be kept in" in done.out
    assert sorted(tmp_path.iterdir()) == before
    data = run("convert", lossy, tmp_path / "x.safetensors", "--recipe", recipe, "--dry-run", "--json").data
    assert data["verb"] == "plan" and data["counts"]["dropped"] == 1


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_exists_is_replaced_by_force_only(run: Run, lossy: Path, recipe: Path, tmp_path: Path) -> None:
    dst = tmp_path / "there.safetensors"
    dst.write_bytes(b"precious")
    before = snapshot(tmp_path)
    done = run("convert", lossy, dst, "--recipe", recipe)
    assert (done.code, done.out) == (5, "") and "exists already" in done.err and "--force" in done.err
    assert snapshot(tmp_path) == before  # and no remainder beside what was there
    assert run("convert", lossy, dst, "--recipe", recipe, "--force").code == 0
    assert sg.load(dst).format == "safetensors"


def test_a_failure_while_writing_leaves_result_and_remainder_as_they_were(
    run: Run, lossy: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dst = tmp_path / "there.safetensors"
    assert run("convert", lossy, dst, "--recipe", recipe).code == 0
    other = changed(lossy, "other.safetensors", **{"enc.position_ids": np.arange(9)})
    before = snapshot(tmp_path)
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target) == dst:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    done = run("convert", other, dst, "--recipe", recipe, "--force")
    assert done.code == 5 and "No space left on device" in done.err
    assert snapshot(tmp_path) == before


def test_a_remainder_of_another_conversion_does_not_stay_beside_a_new_result(
    run: Run, file: Path, lossy: Path, recipe: Path, tmp_path: Path
) -> None:
    """It would be taken on the way back, and bring back what the source never had."""
    dst, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert run("convert", lossy, dst, "--recipe", recipe).code == 0
    dst.unlink()
    done = run("convert", file, dst, "--recipe", recipe)
    assert done.code == 5 and "it is of another conversion" in done.err and not dst.exists()
    assert run("convert", file, dst, "--recipe", recipe, "--force").code == 0
    assert not (tmp_path / "there.safetensors.remainder.safetensors").exists()
    assert run("convert", dst, back, "--recipe", recipe, "--reverse", "--no-remainder").code == 0
    assert run("diff", file, back, "--exact").code == 0


def test_ties_and_metadata_go_through_a_conversion(run: Run, tmp_path: Path) -> None:
    table = np.ones((2, 3), np.float32)
    src, dst = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    sg.save({"embed.w": table, "head.w": table}, src, metadata={"step": "3"})
    assert run("convert", src, dst).code == 0
    assert src.read_bytes() == dst.read_bytes()


def test_json_is_one_document_on_stdout_whatever_is_said_beside_it(
    run: Run, lossy: Path, recipe: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.safetensors"
    done = run("convert", lossy, there, "--recipe", recipe, "--json", "--unwrap")
    assert done.data["schema"] == 1 and done.data["verb"] == "convert" and "unwrap" in done.err
    assert {"status", "path", "before", "after", "note", "source"} == set(done.data["rows"][0])
