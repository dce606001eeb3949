"""The command looking and planning: what it prints where, and the code with which it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import surgery as sg
from surgery.cli import surgery
from tests.core.commands import SPECS, Run, changed, rows

# ls and show.


def test_ls_lists_every_tensor(run: Run, file: Path) -> None:
    done = run("ls", file)
    assert done == (
        0,
        "summarize: 3 leaves, 15 parameters, 60 B\n"
        "  leaf  enc.{0..1}.w  f32[2,3]  6 parameters, 24 B\n"
        "  leaf  head.w        f32[3]    3 parameters, 12 B\n",
        "",
    )
    assert rows(run("ls", file, "--json")) == [
        ("leaf", "enc.0.w", "f32[2,3]"),
        ("leaf", "enc.1.w", "f32[2,3]"),
        ("leaf", "head.w", "f32[3]"),
    ]


def test_ls_sums_up_below_a_depth_and_takes_a_subtree(run: Run, file: Path) -> None:
    assert rows(run("ls", file, "--depth", 1, "--json")) == [
        ("node", "enc", "f32 x 2"),
        ("node", "head", "f32 x 1"),
    ]
    assert [path for _, path, _ in rows(run("ls", f"{file}:enc", "--json"))] == ["0.w", "1.w"]
    assert run("ls", file, "--depth", 0).code == 2


def test_show_says_what_a_file_is(run: Run, file: Path) -> None:
    done = run("show", file)
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(
        f"{file}: safetensors\nmetadata:\n  format: pt\n  step: 100\nsummarize: 3 leaves"
    )
    data = run("show", file, "--json").data
    assert (data["file"], data["format"], data["config"]) == (str(file), "safetensors", None)
    assert data["metadata"] == {"format": "pt", "step": "100"} and data["summary"]["counts"] == {"node": 2}


def test_a_folder_of_hugging_face_is_a_source(run: Run, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    file.rename(folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 3}')
    assert len(run("ls", folder, "--json").data["rows"]) == 3
    assert run("show", f"{folder}/", "--json").data["config"] == {"model_type": "bert", "hidden_size": 3}
    assert "config:\n  model_type: bert\n" in run("show", folder).out
    assert run("convert", folder, f"{tmp_path}/copy/").code == 0
    assert run("diff", folder, tmp_path / "copy", "--exact").code == 0
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["model_type"] == "bert"


# diff: code 1 is a difference.


def test_diff_leaves_with_0_where_nothing_differs_and_with_1_where_something_does(
    run: Run, file: Path
) -> None:
    other = changed(file, "b.safetensors", **{"head.w": np.zeros(3, np.float32)})
    assert run("diff", file, file, "--exact").code == 0
    assert run("diff", file, other).code == 0  # only the numbers differ
    done = run("diff", file, other, "--exact")
    assert done.code == 1 and "value" in done.out and "head.w" in done.out and done.err == ""
    assert [row["path"] for row in run("diff", file, other, "--exact", "--json").data["rows"]] == ["head.w"]


def test_diff_names_shapes_dtypes_and_what_only_one_side_has(run: Run, file: Path) -> None:
    other = file.with_name("b.safetensors")
    sg.save({"enc.0.w": np.ones((3, 2), np.float32), "enc.1.w": np.ones((2, 3)), "more.w": np.ones(1)}, other)
    done = run("diff", file, other, "--json")
    assert done.code == 1
    found = {(row["status"], row["path"]) for row in done.data["rows"]}
    assert found == {("shape", "enc.0.w"), ("dtype", "enc.1.w"), ("removed", "head.w"), ("added", "more.w")}


def test_diff_of_one_bit_is_a_difference(run: Run, file: Path) -> None:
    head = np.array([0.0, 1.0, np.nextafter(np.float32(2), np.float32(3))], np.float32)
    assert run("diff", file, changed(file, "b.safetensors", **{"head.w": head}), "--exact").code == 1


# plan and explain.


def test_plan_says_what_would_be_done_and_writes_nothing(run: Run, file: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'version = 1\nrules = [{ from = "enc.{i}.w", to = "blocks.{i}.kernel", ops = ["transpose"] },'
        ' { from = "head.w", to = [] }]\n'
    )
    before = sorted(tmp_path.iterdir())
    done = run("plan", file, "--recipe", tmp_path / "r.toml", "--json")
    assert done.code == 0 and done.err == ""
    assert {row["path"] for row in done.data["rows"]} == {"blocks.0.kernel", "blocks.1.kernel", "head.w"}
    assert sorted(tmp_path.iterdir()) == before
    text = run("explain", file, "enc.0.w", "--recipe", tmp_path / "r.toml").out
    assert "rule 1" in text and "blocks.0.kernel" in text
    back = run("explain", file, "blocks.1.kernel", "--recipe", tmp_path / "r.toml", "--json").data
    assert "enc.1.w" in json.dumps(back)


def test_explain_of_a_leaf_that_is_not_there_leaves_with_4(run: Run, file: Path) -> None:
    done = run("explain", file, "nope")
    assert (done.code, done.out) == (4, "") and "no leaf at 'nope'" in done.err


# --like.


def test_like_accepts_a_file_of_the_same_names_shapes_and_dtypes(
    run: Run, file: Path, tmp_path: Path
) -> None:
    like = tmp_path / "like.safetensors"
    sg.save({name: np.zeros(shape, np.float32) for name, shape in SPECS.items()}, like)
    assert run("plan", file, "--like", like).code == 0
    assert run("convert", file, tmp_path / "out.safetensors", "--like", like).code == 0
    assert run("diff", file, tmp_path / "out.safetensors", "--exact").code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"head.w": np.zeros(4, np.float32)}), "the shape differs at 'head.w'"),
        (lambda t: t.update({"head.w": np.zeros(3, np.float16)}), "the dtype narrows at 'head.w'"),
        (lambda t: t.update({"more.w": np.zeros(3)}), "no rule makes a leaf at 'more.w'"),
        (lambda t: t.pop("head.w"), "'head.w' (rule 1) has no place in the target at 'head.w'"),
        (lambda t: t.update({"heads.w": t.pop("head.w")}), "hint: nearest: 'heads.w'"),
    ],
    ids=["shape", "dtype", "missing", "unexpected", "renamed"],
)
@pytest.mark.parametrize("command", ["plan", "convert"])
def test_like_refuses_what_differs_with_code_4(
    command: str, change: Any, message: str, run: Run, file: Path, tmp_path: Path
) -> None:
    tree = {name: np.zeros(shape, np.float32) for name, shape in SPECS.items()}
    change(tree)
    sg.save(tree, tmp_path / "like.safetensors")
    dst = [tmp_path / "out.safetensors"] if command == "convert" else []
    done = run(command, file, *dst, "--like", tmp_path / "like.safetensors")
    assert (done.code, done.out) == (4, "") and message in done.err
    assert not (tmp_path / "out.safetensors").exists()


def test_like_widens_and_says_so(run: Run, file: Path, tmp_path: Path) -> None:
    sg.save({name: np.zeros(shape) for name, shape in SPECS.items()}, tmp_path / "like.safetensors")
    done = run("convert", file, tmp_path / "out.safetensors", "--like", tmp_path / "like.safetensors")
    assert done.code == 0 and "cast" in done.out
    assert sg.load(tmp_path / "out.safetensors")["head.w"].dtype == np.float64


# --at and --unwrap.


def wrapped(tmp_path: Path) -> Path:
    sg.save(
        {"module.enc.w": np.ones(2), "module.head.w": np.ones(3)}, tmp_path / "w.safetensors", overwrite=True
    )
    return tmp_path / "w.safetensors"


def test_unwrap_takes_wrapper_keys_away_and_says_so_on_stderr(run: Run, tmp_path: Path) -> None:
    done = run("convert", wrapped(tmp_path), tmp_path / "out.safetensors", "--unwrap", "--json")
    assert done.code == 0 and done.data["verb"] == "convert"
    assert done.err == "unwrap: stripped 'module' from 2 leaves\n"
    assert set(sg.load(tmp_path / "out.safetensors")) == {"enc.w", "head.w"}
    assert run("convert", wrapped(tmp_path), tmp_path / "kept.safetensors").code == 0
    assert set(sg.load(tmp_path / "kept.safetensors")) == {"module.enc.w", "module.head.w"}


def test_at_takes_a_subtree(run: Run, file: Path, tmp_path: Path) -> None:
    assert run("convert", file, tmp_path / "out.safetensors", "--at", "enc").code == 0
    assert set(sg.load(tmp_path / "out.safetensors")) == {"0.w", "1.w"}
    done = run("convert", file, tmp_path / "no.safetensors", "--at", "encoder")
    assert done.code == 4 and "nothing lies at 'encoder'" in done.err


def test_at_auto_takes_a_model_as_it_is_and_says_so(run: Run, file: Path, tmp_path: Path) -> None:
    done = run("convert", file, tmp_path / "same.safetensors", "--at", "auto")
    assert (done.code, done.err) == (0, "unwrap: nothing to take off\n")
    assert set(sg.load(tmp_path / "same.safetensors")) == set(SPECS)


# Codes, and where things go.


@pytest.mark.parametrize(
    "args",
    [
        ["bogus"],
        ["ls"],
        ["convert", "{file}"],
        ["ls", "{file}", "--bogus"],
        ["convert", "{file}", "x.safetensors", "--reverse"],
        ["convert", "{file}", "x.safetensors", "--to", "linen"],
        ["convert", "{file}", "x.safetensors", "--recipe", "hf/bert", "--to", "torch"],
        ["convert", "{file}", "x.safetensors", "--remainder", "{file}", "--no-remainder"],
    ],
    ids=" ".join,
)
def test_wrong_usage_leaves_with_2(args: list[str], run: Run, file: Path) -> None:
    done = run(*(arg.format(file=file) for arg in args))
    assert (
        (done.code, done.out) == (2, "") and done.err.startswith("Usage: surgery") and "Error: " in done.err
    )


UNREADABLE = [
    ["ls"],
    ["show"],
    ["diff", "{file}"],
    ["plan"],
    ["explain", "-", "x"],
    ["convert", "-", "o.safetensors"],
]


@pytest.mark.parametrize("command", UNREADABLE, ids=lambda command: command[0])
@pytest.mark.parametrize("content", [None, b"", b"hello", b"\xff\xff\xff\xff\xff\xff\xff\x00{"])
def test_what_cannot_be_read_leaves_with_3(
    command: list[str], content: bytes | None, run: Run, file: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    if content is not None:
        bad.write_bytes(content)
    args = [str(bad) if arg == "-" else arg.format(file=file) for arg in command]
    if str(bad) not in args:
        args.insert(1 if len(args) == 1 else 2, str(bad))
    for extra in ([], ["--json"]):
        done = run(*args, *extra)
        assert (done.code, done.out) == (3, "") and done.err.startswith("error: ") and str(bad) in done.err
        assert "Traceback" not in done.err


def test_a_truncated_source_leaves_with_3_and_no_result(run: Run, file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    done = run("convert", file, tmp_path / "out.safetensors")
    assert done.code == 3 and "truncated" in done.err and not (tmp_path / "out.safetensors").exists()


def test_a_recipe_that_does_not_fit_leaves_with_4(run: Run, file: Path, tmp_path: Path) -> None:
    done = run("convert", file, tmp_path / "out.safetensors", "--recipe", "hf/bert")
    assert (done.code, done.out) == (4, "") and "hf/bert, rule" in done.err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_recipe_that_is_not_there_or_damaged_leaves_with_3(run: Run, file: Path, tmp_path: Path) -> None:
    done = run("plan", file, "--recipe", "hf/bret")
    assert done.code == 3 and "no recipe is called 'hf/bret'" in done.err and "hf/bert" in done.err
    (tmp_path / "bad.toml").write_text("version = 1\nrules = [{ form = 'a' }]\n")
    done = run("plan", file, "--recipe", tmp_path / "bad.toml")
    assert done.code == 3 and "bad.toml" in done.err and "form" in done.err


@pytest.mark.parametrize("dst", ["x.npz", "x", "missing/../a.safetensors/x.safetensors"])
def test_what_cannot_be_written_leaves_with_5(dst: str, run: Run, file: Path, tmp_path: Path) -> None:
    done = run("convert", file, tmp_path / dst)
    assert (done.code, done.out) == (5, "") and done.err.startswith("error: save: ")


def test_an_interruption_leaves_with_130_and_no_result(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    done = run("convert", file, tmp_path / "out.safetensors")
    assert (done.code, done.out) == (130, "") and done.err.endswith("interrupted\n")
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_error_of_our_own_is_not_taken_for_the_users(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sg, "summarize", lambda *args, **options: 1 / 0)
    done = run("ls", file)
    assert done.code == 70 and "ZeroDivisionError" in done.err and "please report it" in done.err


# Recipes.


def test_recipes_are_listed_shown_and_copied(run: Run, tmp_path: Path) -> None:
    assert run("recipe", "ls").out.startswith("hf/bert  BERT")
    listed = run("recipe", "ls", "--json").data
    assert listed[0] == {"name": "hf/bert", "title": listed[0]["title"], "from": "torch", "to": "linen"}
    shown = run("recipe", "show", "hf/bert")
    assert run("recipe", "show", "hf/bert", "--json").data["text"] == shown.out
    copy = tmp_path / "mine.toml"
    assert run("recipe", "cp", "hf/bert", copy) == (0, "", "")
    assert copy.read_text("utf-8") == shown.out
    assert run("recipe", "show", copy).out == shown.out
    copy.write_text("mine")
    assert run("recipe", "cp", "hf/bert", copy).code == 5 and copy.read_text() == "mine"
    told = run("recipe", "cp", "hf/bert", copy, "--force", "--json")
    assert told.code == 0 and json.loads(told.out) == {"name": "hf/bert", "file": str(copy)}
    assert copy.read_text() == shown.out
    for words in (["show", "none"], ["cp", "none", tmp_path / "x.toml"]):
        assert run("recipe", *words).code == 3
    assert not (tmp_path / "x.toml").exists()


# Help, and terminals.


COMMANDS = [[], ["ls"], ["show"], ["diff"], ["plan"], ["explain"], ["convert"], ["recipe"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "surgery")
def test_help_has_examples(command: list[str]) -> None:
    done = CliRunner().invoke(surgery, [*command, "--help"])
    assert done.exit_code == 0 and "Examples:\n  surgery " in done.output.replace("    surgery", "  surgery")


@pytest.mark.parametrize("command", ["ls", "show", "diff", "plan", "explain", "convert"])
def test_every_command_speaks_json(command: str) -> None:
    assert "--json" in CliRunner().invoke(surgery, [command, "--help"]).output


def in_a_terminal(args: list[str], **variables: str) -> tuple[int, str, str]:
    """Run the command with a terminal for its stderr; return its code, stdout, and what the terminal got."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    env |= {"TERM": "xterm-256color", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "surgery", *args], stdout=subprocess.PIPE, stderr=slave, env=env
    )
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 4096):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    process.stdout.close()
    return process.wait(), out, seen.decode()


def test_progress_is_drawn_on_a_terminal_without_colour_where_that_is_asked_for(
    file: Path, tmp_path: Path
) -> None:
    code, out, drawn = in_a_terminal(["convert", str(file), str(tmp_path / "x.safetensors"), "--json"])
    assert code == 0 and json.loads(out)["verb"] == "convert"
    assert "60/60 bytes" in drawn and "\x1b[38;" in drawn
    code, out, plain = in_a_terminal(
        ["convert", str(file), str(tmp_path / "y.safetensors"), "--json"], NO_COLOR="1"
    )
    assert code == 0 and "60/60 bytes" in plain and "\x1b[38;" not in plain and "\x1b[3" not in plain


def test_in_a_pipe_there_is_no_progress_and_a_closed_pipe_is_no_error(file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "surgery"]
    done = subprocess.run(
        [*command, "convert", file, tmp_path / "x.safetensors"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    many = {f"layers.{n}.w{n}": np.zeros(n % 7 + 1, np.float32) for n in range(4000)}
    sg.save(many, tmp_path / "many.safetensors")
    with subprocess.Popen(
        [*command, "ls", tmp_path / "many.safetensors", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0
