"""The arrows of the house: what may import what, and what importing may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The rooms of the core, in the order of its arrows: each imports only from those before it.
ROOMS = (
    *("_errors", "_dtypes", "_types", "_arrays", "_paths", "_report", "_ops", "_trees", "_verbs", "_rules"),
    *("_training", "_plans", "_files", "_testing"),
)
FRAMEWORKS = {"torch", "jax", "jaxlib", "flax", "optax", "orbax", "tensorstore", "transformers"}


def imported_roots(file: Path) -> set[str]:
    """Return the root modules that a file imports anywhere in it."""
    roots: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


def test_the_core_imports_no_framework_and_no_adapter() -> None:
    banned = FRAMEWORKS | {"surgery_flax", "surgery_torch"}
    found = {file.name: imported_roots(file) & banned for file in (ROOT / "surgery").rglob("*.py")}
    assert found and not {name: roots for name, roots in found.items() if roots}


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms of the core that a file imports from when it is loaded."""
    return {
        node.module.split(".")[1]
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("surgery._")
    }


def test_arrows_between_the_rooms_of_the_core_point_one_way() -> None:
    core = ROOT / "surgery"
    rooms = {entry.stem: entry for entry in core.glob("_*") if not entry.stem.startswith("__")}
    assert set(ROOMS) == set(rooms)
    for n, room in enumerate(ROOMS):
        files = rooms[room].rglob("*.py") if rooms[room].is_dir() else [rooms[room]]
        for file in files:
            assert imported_rooms(file) <= set(ROOMS[: n + 1]), file


SOURCES = sorted([*(ROOT / "surgery").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")])


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting_and_a_function_without_scrolling(file: Path) -> None:
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert not [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60]


def test_the_command_uses_only_what_everybody_can_import() -> None:
    for file in (ROOT / "surgery" / "cli").glob("*.py"):
        assert not imported_rooms(file), file


@pytest.mark.parametrize(
    ("mine", "other"), [("surgery_flax", "surgery_torch"), ("surgery_torch", "surgery_flax")]
)
def test_adapters_never_import_each_other(mine: str, other: str) -> None:
    libraries = {"surgery_flax": {"torch"}, "surgery_torch": {"jax", "flax", "optax"}}[mine]
    files = list((ROOT / "adapters" / mine).glob("*.py"))
    assert files and not any(imported_roots(file) & {other, *libraries} for file in files)


@pytest.mark.parametrize(
    "args", [["--help"], ["ls", "{file}"], ["plan", "{file}", "--recipe", "hf/bert"], ["show", "{file}"]]
)
def test_the_command_loads_no_framework_for_safetensors(args: list[str], tmp_path: Path) -> None:
    import numpy as np

    import surgery as sg

    file = tmp_path / "m.safetensors"
    sg.save(
        {
            f"{name}_embeddings.weight": np.ones((2, 2), np.float32)
            for name in ("word", "position", "token_type")
        }
        | {
            "LayerNorm.weight": np.ones(2, np.float32),
            "LayerNorm.bias": np.ones(2, np.float32),
            "dense.weight": np.ones((2, 2), np.float32),
            "dense.bias": np.ones(2, np.float32),
        },
        file,
    )
    code = (
        "import sys\nfrom surgery.cli import main\n"
        f"try:\n    main({[arg.format(file=file) for arg in args]!r})\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        f"loaded = {FRAMEWORKS!r} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_the_package_loads_neither_a_framework_nor_numpy() -> None:
    code = f"import surgery, sys; assert not ({FRAMEWORKS!r} | {{'numpy', 'click', 'msgspec'}}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
