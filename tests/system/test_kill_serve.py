"""A server that is killed at random moments loses no acknowledged event, and its successor serves them all."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from served_runs import small_run

SCRIPT = Path(__file__).with_name("killed_server.py")


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_no_acknowledged_event_is_lost(tmp_path: Path, kills: int) -> None:
    run, events = small_run(tmp_path), tmp_path / "events.sqlite"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(run), str(events), str(kills), "1"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["kills"] == kills
    assert said["acknowledged"] >= 3 * kills
    assert said["lost"] == []
    with sqlite3.connect(events) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] >= said["acknowledged"]
