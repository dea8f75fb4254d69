"""Lets the tests of the studio import what stands beside them, and the small service."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "serving", HERE.parent / "serving" / "http"):
    sys.path.insert(0, str(folder))
