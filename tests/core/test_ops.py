"""Every op: its shapes, its way back, its boxes, its cotangent map, and what it refuses."""

from __future__ import annotations

import numpy as np

import surgery as sg
from surgery import ops


def test_a_cast_to_complex_says_that_its_way_back_would_drop_something() -> None:
    plan = sg.plan([("w", "w", ops.cast("complex64"))], {"w": np.ones(2, np.float32)})
    assert plan.lost == {("w",): "c64 would have to drop its imaginary part to be f32 again"}
    kept = plan.remainder({"w": np.ones(2, np.float32)})
    back = plan.inverse().apply(plan.apply({"w": np.ones(2, np.float32)}), remainder=kept)
    assert back["w"].dtype == np.float32
