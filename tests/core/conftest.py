"""How the property tests run: the same examples every time, and many more when asked for.

pytest tests/core --hypothesis-profile=explore    # many, each failure as it was found
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

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
