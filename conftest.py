"""Names that doctests may use without importing them."""

from __future__ import annotations

from typing import Any

import pytest

import surgery


@pytest.fixture(autouse=True)
def _names_for_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["sg"] = surgery
    doctest_namespace.update({name: getattr(surgery, name) for name in surgery.__all__ if name != "testing"})
