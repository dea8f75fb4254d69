"""Training on two hosts goes on where a worker dies, or a host is lost, for good or for a while, or the cable is cut.

The hosts are network namespaces of this machine; where they may not be made, ``test_scale_kill.py`` does the same with
processes of one host.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from two_hosts import ADDRESSES, TwoHosts

from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world

RECIPE = """
description: CoRR on a small world, a checkpoint after nearly every step
seed: 3
threads: 1
data: {path: DATA}
split: {rule: time-cut, valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 8}
ranker: {kind: din, field_size: 4, history_length: 6, hidden: [6], dropout: 0.1}
together: {kind: corr, num_codewords: 3, epochs: 12, batch_size: 16, patience: 0, checkpoint_seconds: 0.02}
evaluation: {num_candidates: 10}
scale: {timeout_seconds: 10}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    try:
        made = TwoHosts()
    except PermissionError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    Dataset.write(folder / "data", markov_world(61, 16, length=14).interactions)
    path = folder / "small.yaml"
    path.write_text(RECIPE.replace("DATA", str(folder / "data")))
    return path


def start(hosts: TwoHosts, host: int, recipe: Path, run: Path, first: int = 0) -> Popen[bytes]:
    """torchrun on a host: one worker, and the others as they come and go; all meet at the first."""
    elastic = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", ADDRESSES[host]]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[first]}:29400", "--rdzv-id", run.name]
    waiting = ["--rdzv-conf", f"is_host={int(host == first)},last_call_timeout=5"]
    corral = ["-m", "corral", "--", "train", str(recipe), "--run", str(run), "--quiet"]
    words = [sys.executable, "-m", "torch.distributed.run", *elastic, *meeting, *waiting, *corral]
    return hosts.start(host, words, run.with_name(f"{run.name}-{host}"))


def until_checkpoints(run: Path, first: Popen[bytes]) -> None:
    while len(list((run / "together").glob("checkpoint-*"))) < 2:
        assert first.poll() is None, "it ended before its second checkpoint"
        time.sleep(0.05)


def read(run: Path) -> tuple[list[Any], dict[str, float], list[str]]:
    """Log, metrics, and the names of what is there."""
    log = [json.loads(line) for line in (run / "together" / "log.jsonl").read_text().splitlines()]
    (evaluation,) = (run / "evaluation").rglob("*.json")
    names = sorted(path.name.split("-")[0] for path in (run / "together").iterdir())
    return [{**record, "seconds": 0} for record in log], json.loads(evaluation.read_text())["metrics"], names


@pytest.fixture(scope="module")
def whole(hosts: TwoHosts, recipe: Path) -> Path:
    """A run on both, that nothing happened to."""
    run = recipe.parent / "whole"
    assert [process.wait(timeout=300) for process in [start(hosts, host, recipe, run) for host in (0, 1)]] == [0, 0]
    return run


def assert_alike(whole: Path, run: Path) -> None:
    """To rounding, and nothing is left behind."""
    (log, metrics, names), (other_log, other_metrics, other_names) = read(whole), read(run)
    assert len(log) == 12
    for one, other in zip(log, other_log, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert other_metrics == pytest.approx(metrics, rel=1e-4)
    assert other_names == names


def test_without_the_first_host_the_same_command_goes_on(hosts: TwoHosts, recipe: Path, whole: Path) -> None:
    run = recipe.parent / "first"
    started = [start(hosts, host, recipe, run) for host in (0, 1)]
    until_checkpoints(run, started[0])
    hosts.kill(0)
    assert started[1].wait(timeout=300) != 0
    again = start(hosts, 1, recipe, run, first=1)
    assert again.wait(timeout=300) == 0, run.with_name(f"{run.name}-1").read_text()
    assert_alike(whole, run)


# The last of all, and the cable its last: it stays cut.
@pytest.mark.parametrize(("fault", "workers"), [("worker", 2), ("power", 1), ("power-for-a-while", 2), ("cable", 1)])
def test_it_changes_nothing(fault: str, workers: int, hosts: TwoHosts, recipe: Path, whole: Path) -> None:
    run = recipe.parent / fault
    started = [start(hosts, host, recipe, run) for host in (0, 1)]
    until_checkpoints(run, started[0])
    if fault == "cable":
        hosts.cut()
    elif fault == "worker":
        hosts.kill(1, spared=started[1].pid)
    else:
        hosts.kill(1)
        started[1].wait()
    if fault == "power-for-a-while":
        time.sleep(18)  # torch's meeting forgets the dead after 15 seconds
        started[1] = start(hosts, 1, recipe, run)
    assert started[0].wait(timeout=300) == 0, run.with_name(f"{run.name}-0").read_text()
    if workers == 2:
        assert started[1].wait(timeout=100) == 0
    assert json.loads((run / "manifest.json").read_text())["workers"] == workers
    assert_alike(whole, run)
