"""Lets the tests here import what reads and runs documents."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
