"""Sharded arrays keep their sharding (hazard D5). A process has four CPU devices only if it starts so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flax.four_devices import CHECKS, DEVICES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def failed() -> dict[str, str]:
    """What failed in the other process, by the name of the check."""
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.flax.four_devices"],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_D5_on_four_devices(check: str, failed: dict[str, str]) -> None:
    assert check not in failed, failed[check]
