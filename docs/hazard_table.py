"""The table of hazards: each with the tests that are named after it."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path

_TEST = re.compile(r"^\s*def (test_([A-D]\d+|2[abc]_\d+)_\w+)", re.MULTILINE)


def hazards(root: Path) -> list[dict[str, str]]:
    """Return every hazard: its id, its section, what goes wrong."""
    found: list[dict[str, str]] = tomllib.loads((root / "docs" / "hazards.toml").read_text("utf-8"))["hazard"]
    return found


def tests_by_hazard(root: Path) -> dict[str, list[str]]:
    """Return the tests of each hazard, found by their names."""
    out: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted((root / "tests").rglob("test_*.py")):
        for name, hazard in _TEST.findall(file.read_text("utf-8")):
            out[hazard].append(f"{file.relative_to(root)}::{name}")
    return out


def write_table(root: Path, page: Path) -> None:
    """Write the page that lists every hazard with its tests."""
    tests = tests_by_hazard(root)
    lines = ["# Hazards, and the tests that hold them off", ""]
    section = ""
    for hazard in hazards(root):
        if hazard["section"] != section:
            section = hazard["section"]
            lines += ["", f"## {section}", "", "| | hazard | tests |", "|---|---|---|"]
        names = "<br>".join(f"`{name}`" for name in tests.get(hazard["id"], [])) or "none yet"
        lines.append(f"| {hazard['id']} | {hazard['what']} | {names} |")
    page.write_text("\n".join([*lines, ""]), "utf-8")
