"""How the property tests run (the same examples every time, many more when asked for), and shared fixtures.

pytest tests/core --hypothesis-profile=explore    # many, each failure as it was found
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

import surgery as sg
from tests.core.commands import SPECS, Done, Run

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=SLOW)
settings.register_profile(
    "explore",
    deadline=None,
    max_examples=1_000,
    suppress_health_check=SLOW,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("steady")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command in this process, as `main` does."""
    from surgery.cli import main

    def call(*args: Any) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        shown = capsys.readouterr()
        return Done(int(stop.value.code or 0), shown.out, shown.err)

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three tensors."""
    tree = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in SPECS.items()}
    sg.save(tree, tmp_path / "a.safetensors", metadata={"step": "100"})
    return tmp_path / "a.safetensors"
