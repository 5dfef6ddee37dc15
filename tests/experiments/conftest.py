"""The small cohort and recipes of the demo's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

from demo.conftest import cohort, scans, small_demo  # noqa: F401
