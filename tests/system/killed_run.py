"""``corral train`` in children of this process, killed at random moments; run by test_kill_train.py.

``python killed_run.py RECIPE FOLDER SEED`` writes the runs FOLDER/whole (never killed) and FOLDER/killed. A child is
a fork, and nothing runs before it: threads do not survive a fork, and importing torch again would take longest.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo

import corral.cli.run
from corral.cli.main import main as corral

KILLS = 3


def start(recipe: str, run: Path) -> int:
    """``corral train`` in a child; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        corral(["train", recipe, "--run", str(run), "--quiet", "--json"])
    except SystemExit as leaving:
        os._exit(int(leaving.code or 0))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def finish(child: int) -> None:
    status = os.waitpid(child, 0)[1]
    if status:
        raise SystemExit(f"a run ended with status {status}")


def main() -> None:
    recipe, folder, chance = sys.argv[1], Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    began = time.perf_counter()
    finish(start(recipe, folder / "whole"))
    duration = time.perf_counter() - began
    kills = 0
    while kills < KILLS:
        child = start(recipe, folder / "killed")
        time.sleep(duration * chance.uniform(0.1, 0.6))
        done, status = os.waitpid(child, os.WNOHANG)
        if done:  # got through before the blow
            if status:
                raise SystemExit(f"a run ended with status {status}")
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    finish(start(recipe, folder / "killed"))
    print("killed", kills, file=sys.stderr)


if __name__ == "__main__":
    assert corral.__module__ == "corral.cli.main"
    main()
