"""continued_settings: the settings of a run that continues another one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from corral.cli.run_files import SETTINGS_FILE, read_settings
from corral.settings import Settings, dump_settings, load_settings, watchable


def continued_settings(earlier: Path, epochs: int, overrides: Sequence[str]) -> Settings:
    """The earlier run's settings, with other epochs and what the call changes.

    Args:
        earlier: a run.
        epochs: of every training.
        overrides: ``a.b=value`` each.

    Raises:
        ValueError: no run, a bad override, or a split that would stand still.
    """
    then = read_settings(earlier)
    fewer = [f"{stage}.epochs={epochs}" for stage in watchable(then)]
    source = str(earlier / SETTINGS_FILE)
    now = load_settings(dump_settings(then), source, (*fewer, f"continues={json.dumps(str(earlier))}", *overrides))
    for name in ("valid_from", "test_from"):
        fixed = getattr(now.split, name)
        if fixed is not None and fixed == getattr(then.split, name):
            raise ValueError(
                f"split.{name}={fixed} stands still, and nothing new would be trained on: give a later one, "
                f"split.{name}=TIME, or split.{name}=null for the fractions"
            )
    return now
