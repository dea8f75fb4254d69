"""Fixtures of runs that learn from clicks; their helpers stand beside the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from click_runs import data, train

__all__ = ["data", "train"]
