"""How the property tests run: the same examples every time, and many more when asked for.

pytest tests/core --hypothesis-profile=explore
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=SLOW)
settings.register_profile("explore", deadline=None, max_examples=5_000, suppress_health_check=SLOW)
settings.load_profile("steady")
