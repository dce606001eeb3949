"""Every cell of the docs runs, and those marked as errors fail with an error of ours."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

import surgery as sg

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "{code-cell}" in page.read_text("utf-8"))
_CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?P<options>(?::[^\n]*\n)*)(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


_TOML = re.compile(r"^```toml\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_the_toml_of_a_page_is_valid_and_a_recipe_in_it_has_its_rules(page: Path, tmp_path: Path) -> None:
    for block in _TOML.finditer(page.read_text("utf-8")):
        written = tomllib.loads(block["text"])
        if "version" in written:
            file = tmp_path / "page.toml"
            file.write_text(block["text"], "utf-8")
            assert sg.recipe(file).rules_for({"num_attention_heads": 4})


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
