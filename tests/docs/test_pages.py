"""Every cell of the docs runs, and those marked as errors fail with an error of ours."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import surgery as sg

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "{code-cell}" in page.read_text("utf-8"))
_CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?P<options>(?::[^\n]*\n)*)(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


def test_there_are_pages() -> None:
    assert len(PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_cells_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.getcwd())  # a page may change it
    names: dict[str, object] = {"__name__": "__page__"}
    cells = list(_CELL.finditer(page.read_text("utf-8")))
    assert cells
    for cell in cells:
        code = compile(cell["code"], str(page), "exec")
        if "raises-exception" in cell["options"]:
            with pytest.raises(sg.SurgeryError):
                exec(code, names)
        else:
            exec(code, names)
