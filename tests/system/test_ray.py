"""Ray does what one process does: the same data set, lists and answers. It listens to this machine alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from served_runs import small_run

from corral.cli.main import main
from corral.cli.run import open_recommender
from corral.cli.run_files import BUNDLE
from corral.data.dataset import Dataset
from corral.data.dataset_prepare import prepare_dataset
from corral.data.parquet_interactions import ParquetInteractions, parquet_files
from corral.data.synthetic import markov_world
from corral.scale.local_ray import local_ray
from corral.scale.ray_each import ray_each
from corral.serving.bundle import save_bundle
from corral.serving.manifest import read_manifest

# Found, not imported: it is to be told first where it may listen.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'corral[scale]' (650 MB)"),
]


@pytest.fixture(scope="module")
def cpus() -> Iterator[int]:
    """One Ray for all tests of this file: it takes its time to start."""
    with local_ray(2) as cpus:
        yield cpus


def test_it_listens_on_the_loopback_address_alone(cpus: int) -> None:
    import ray

    assert cpus == 2
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


def write_files(folder: Path, files: int) -> None:
    random = np.random.default_rng(0)
    folder.mkdir()
    for place in range(files):
        columns = {name: random.integers(0, 50, 200) for name in ("user_id", "item_id", "timestamp")}
        pl.DataFrame(columns).write_parquet(folder / f"{place}.parquet")


def test_the_same_data_set(cpus: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, filters included, by the function and by the command."""
    write_files(tmp_path / "events", 3)
    files = parquet_files(tmp_path / "events")
    assert files is not None
    source = ParquetInteractions.open(files, source="events")
    few = {"min_user_events": 12, "iterate": True, "name": "d"}
    wanted = prepare_dataset(tmp_path / "one", source, **few)
    found = prepare_dataset(tmp_path / "ray", source, events_in_memory=300, writers=3, each=ray_each, **few)
    assert found.header == wanted.header
    found.verify()
    words = ["--from", str(tmp_path / "events"), "--format", "table", "--out", str(tmp_path / "cli"), "--json"]
    with pytest.raises(SystemExit):
        main(["data", "add", "d", *words, "--engine", "ray"])
    plain = prepare_dataset(tmp_path / "plain", source)
    assert json.loads(capsys.readouterr().out)["hash"] == plain.hash == Dataset.open(tmp_path / "cli").hash


def test_an_error_of_a_task_is_the_users(cpus: int, tmp_path: Path) -> None:
    write_files(tmp_path / "events", 2)
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [-5]}).write_parquet(tmp_path / "events" / "1.parquet")
    files = parquet_files(tmp_path / "events")
    assert files is not None
    source = ParquetInteractions.open(files, source="events")
    with pytest.raises(ValueError, match=r"1\.parquet, row 0 \(from 0\), column 'timestamp': -5"):
        prepare_dataset(tmp_path / "d", source, writers=2, each=ray_each)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events"]


def test_the_same_lists(cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order, in one file."""
    monkeypatch.setattr("corral.cli.write_lists.BATCH", 25)
    run = small_run(tmp_path)
    for engine in ("local", "ray"):
        words = ["--users", "all", "--out", str(tmp_path / f"{engine}.parquet"), "-k", "4", "--engine", engine]
        with pytest.raises(SystemExit) as end:
            main(["recommend", str(run), *words, "--explain", "--quiet"])
        assert not end.value.code
    one, other = (pl.read_parquet(tmp_path / f"{engine}.parquet") for engine in ("local", "ray"))
    assert one.height == 240
    assert one.equals(other)


TRAINED = """
seed: 3
threads: 1
data: {path: DATA}
split: {rule: time-cut, valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 8}
retriever_training: {loss: sampled-softmax, epochs: 3, batch_size: 16}
evaluation: {num_candidates: 10}
"""


def train(folder: Path, run: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "corral", "train", str(folder / "small.yaml"), "scale.workers=2", *words]
    return subprocess.Popen(
        [*command, "--run", str(folder / run), "--quiet", "--json"], stdout=subprocess.PIPE, text=True
    )


def metrics(training: subprocess.Popen[str]) -> dict[str, float]:
    said, _ = training.communicate(timeout=400)
    assert training.returncode == 0
    found: dict[str, float] = json.loads(said)["metrics"]
    return found


def test_it_trains_as_torchs_launcher_does_and_goes_on_when_a_worker_dies(tmp_path: Path) -> None:
    Dataset.write(tmp_path / "data", markov_world(61, 16, length=14).interactions)
    (tmp_path / "small.yaml").write_text(TRAINED.replace("DATA", str(tmp_path / "data")))
    wanted = metrics(train(tmp_path, "torch"))
    training = train(tmp_path, "ray", "scale.engine=ray")
    log = tmp_path / "ray" / "retriever" / "log.jsonl"
    while training.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    workers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_worker(pid, training.pid)]
    os.kill(workers[-1], signal.SIGKILL)
    assert metrics(training) == wanted
    assert not (tmp_path / "ray" / "ray").exists()


def is_worker(pid: int, ancestor: int) -> bool:
    """Whether a process is one of the workers that Ray started for ``ancestor``."""
    try:
        if b"RayTrainWorker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        while pid not in (0, ancestor):
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return pid == ancestor


def _replace(run: Path) -> str:
    """Another bundle in the place of a run's: the same with fewer candidates. Its version."""
    recommender = open_recommender(run)
    recommender.num_candidates -= 1
    save_bundle(run / BUNDLE, recommender, data_name="small", data_hash="another")
    return read_manifest(run / BUNDLE).version


def test_replicas_answer_as_one(tmp_path: Path) -> None:
    """Behind Ray Serve, from the command line; live events are shared, and it ends when told to."""
    run = small_run(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "corral.cli.main", "serve", str(run), "--replicas", "2", "--port", str(port)]
    server = subprocess.Popen([*words, "--timeout", "60"], stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert server.stderr is not None

    def ask(path: str, body: object) -> dict:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    try:
        said = next(line for line in server.stderr if "replicas answer at" in line)
        assert f"2 replicas answer at http://127.0.0.1:{port}" in said
        wanted = open_recommender(run).recommend(list(range(12)), 5).item_ids
        recommend = partial(ask, "/v1/recommend")
        for _ in range(6):
            lists = recommend({"users": [{"user_id": user} for user in range(12)], "k": 5})["lists"]
            assert [[item["item_id"] for item in one["items"]] for one in lists] == wanted
        stranger = {"users": [{"user_id": 10**6}], "k": 5}
        assert recommend(stranger)["lists"][0]["fallback"]
        event = {"user_id": 10**6, "item_id": wanted[0][0], "time": 10**9}
        assert ask("/v1/events", {"events": [event]})["stored"] == 1
        assert not any(recommend(stranger)["lists"][0]["fallback"] for _ in range(6))
        # A bundle put in the place of the served one reaches every replica, whichever was told.
        before, after = read_manifest(run / BUNDLE).version, _replace(run)
        assert before != after
        ask("/v1/reload", {})
        ends = time.monotonic() + 60
        while {recommend(stranger)["bundle"] for _ in range(12)} != {after}:
            assert time.monotonic() < ends
            time.sleep(0.5)
    finally:
        server.send_signal(signal.SIGTERM)
        began = time.monotonic()
        server.communicate(timeout=120)
    assert server.returncode == 0
    assert time.monotonic() - began < 120
