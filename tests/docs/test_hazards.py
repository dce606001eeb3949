"""Every hazard that the docs list has a test that is named after it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_hazard_has_a_test_of_its_name() -> None:
    spec = importlib.util.spec_from_file_location("hazard_table", ROOT / "docs" / "hazard_table.py")
    assert spec is not None and spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    tests = table.tests_by_hazard(ROOT)
    known = [hazard["id"] for hazard in table.hazards(ROOT)]
    assert [hazard for hazard in known if hazard not in tests] == []
    assert [hazard for hazard in tests if hazard not in known] == []
