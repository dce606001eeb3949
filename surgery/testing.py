"""The conformance suites that adapters and file formats are held to, for pytest.

Subclass a suite in a test module, say how leaves are made, and every promise that
the core relies on is checked:

    from surgery.testing import AdapterSuite

    class TestMyArrays(AdapterSuite):
        target = "mine"

        def make(self, array):
            return mylib.array(array)
"""

from __future__ import annotations

from surgery._testing.adapter import AdapterSuite
from surgery._testing.common import is_same_tree, raises, same_bits
from surgery._testing.format import FormatSuite

__all__ = ["AdapterSuite", "FormatSuite", "is_same_tree", "raises", "same_bits"]
