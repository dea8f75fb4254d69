"""What does a served answer cost: latency, requests a second and core, memory, and which stage takes the time?

`corral serve` in a process of its own on the loopback, asked at a fixed rate (a request's time runs from when it was
due, so that waiting counts), and by 1, 8 and 32 clients that wait for their answers: lists of 10 for one user, 200
candidates found by SASRec and ranked by DIN; ml-1m (exact index), and a made-up catalogue of 10^6 items (FAISS, by the
default rule). Beside it: RAR around the ranker, the same models by ONNX Runtime, retrieval alone (the same bundle
without its ranker), the bare framework (the same bodies and answers, nothing behind them), and live events, each
acknowledged when it is on the disk. The models are not trained, and RAR's neighbours are drawn by lot: what they answer
is worthless, what they cost is not. The made-up items lie around centres, as trained ones do; without any order no
index could leave items out.

    python benchmarks/bench_serving.py
    python benchmarks/bench_serving.py --folder runs/small --worlds small --requests 200 --clients 1 8    # a quick look

Prints a table and writes docs/results/serving.json and serving.md; a quick look, of another world or number of requests
than by default, into its folder.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from results import ROOT, Row, result_row, with_published, write_results

from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import new_ranker
from corral.cli.retriever_stage import new_retriever
from corral.cli.run import Models, new_recommender
from corral.cli.serve import serve
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.evaluation.result import Stage
from corral.rar.ranker import RarRanker
from corral.serving.bundle import save_bundle
from corral.serving.manifest import read_manifest
from corral.serving.module_spec import ModuleSpec
from corral.serving.onnx.export import export_onnx
from corral.serving.recommender import TwoStageRecommender
from corral.settings import load_settings

RECIPE = """
threads: 1
data: {DATA}
split: {rule: leave-last-two-out}
retriever: {kind: sasrec, size: 64, blocks: 2, max_length: 50}
ranker: {kind: din, field_size: 16, history_length: 50, hidden: [128, 64]}
evaluation: {num_candidates: 200, serve_by: ranker}
"""
K, HISTORY = 10, 50
WORLDS, REQUESTS = ("ml-1m", "million"), 400
# Connections of the fixed rate: more than can be under way.
RATE_CLIENTS = 64
# Made-up worlds by name: users, each with HISTORY events, no item twice.
MADE_UP = {"small": 400, "million": 21_000}
SYSTEMS = {
    "both": "retrieve, then rank 200 candidates",
    "rar": "the same, RAR around the ranker",
    "onnx": "as both, the models run by ONNX Runtime",
    "retrieval": "retrieve alone",
    "bare": "the framework alone: the same bodies, a fixed answer",
    "events": "one live event, synced to the disk before the answer",
}
STAGES = ("live_events", "recommend", "answer")
RAR = "ranker.rar={rule: static, keys: profile}"
# Made-up items: so many a centre, and how far they lie from it.
PER_CENTRE, SPREAD = 200, 0.5
GOAL_MS, GOAL_RATIO = 25.0, 1.3


@dataclass(frozen=True)
class World:
    """A data set and the bundles made from it, by system."""

    name: str
    data_hash: str
    items: int
    users: list[Any]
    bundles: dict[str, Path]
    onnx: Path


def make_world(name: str, folder: Path, systems: Sequence[str]) -> World:
    """Writes the bundles of a world, and the ONNX files where they are asked for."""
    data = f"name: {name}, min_item_events: 5"
    if name in MADE_UP:
        users = MADE_UP[name]
        items = np.random.default_rng(0).permutation(users * HISTORY)
        events = {"user_id": np.arange(len(items)) // HISTORY, "item_id": items, "timestamp": np.arange(len(items))}
        Dataset.write(folder / name / "data", Interactions.of(pl.DataFrame(events), source="made up"), overwrite=True)
        data = f"path: {folder / name / 'data'}"
    settings = load_settings(RECIPE.replace("DATA", data), name)
    experiment = Experiment.start(settings, folder / name / "run", quiet=True)
    retriever = new_retriever(experiment).eval()
    if name in MADE_UP:
        gather_items(retriever)
    ranker = new_ranker(experiment, retriever).eval()
    enriched = load_settings(RECIPE.replace("DATA", data), name, [RAR])
    rar_experiment = Experiment.start(enriched, folder / name / "rar-run", quiet=True)
    rar = cast(RarRanker, new_ranker(rar_experiment, retriever).eval())
    draw_neighbours(rar)
    whole = new_recommender(experiment, Models(retriever, ranker, None, Stage.RANKER))
    specs = {**whole.specs, "ranker": new_specs(rar_experiment)}
    recommenders = {
        "both": whole,
        "rar": with_ranker(whole, rar, Stage.RANKER, specs),
        "retrieval": with_ranker(whole, None, Stage.RETRIEVER, whole.specs),
    }
    bundles = {system: folder / name / system for system in recommenders}
    for system, recommender in recommenders.items():
        save_bundle(bundles[system], recommender, data_name=name, data_hash=experiment.dataset.hash)
    bundles["onnx"], onnx = bundles["both"], folder / name / "onnx-files"
    if "onnx" in systems:
        export_onnx(onnx, whole, {"version": read_manifest(bundles["both"]).version}, overwrite=True)
    ids = experiment.dataset.users.ids.to_pylist()
    return World(name, experiment.dataset.hash, len(experiment.catalogue), ids, bundles, onnx)


@torch.no_grad()
def gather_items(retriever: Any) -> None:
    """Item vectors around centres."""
    weight, generator = retriever.item_embedding.weight, torch.Generator().manual_seed(0)
    centres = torch.randn(max(len(weight) // PER_CENTRE, 2), weight.shape[1], generator=generator)
    of_item = torch.randint(len(centres), (len(weight),), generator=generator)
    vectors = centres[of_item] + SPREAD * torch.randn(weight.shape, generator=generator)
    weight[2:] = vectors[2:] * weight.shape[1] ** -0.5


def draw_neighbours(ranker: RarRanker) -> None:
    """Anybody and anything: to look them up costs the same."""
    generator = torch.Generator().manual_seed(0)
    for table in (ranker.neighbours.u2u, ranker.neighbours.i2i):
        table.random_(2, table.shape[1], generator=generator)


def new_specs(experiment: Experiment) -> ModuleSpec:
    """How the ranker of an experiment is built again."""
    spec = experiment.specs["ranker"]
    return ModuleSpec(spec["kind"], {key: value for key, value in spec.items() if key != "kind"})


def with_ranker(
    whole: TwoStageRecommender, ranker: Any, served: Stage, specs: Mapping[str, ModuleSpec]
) -> TwoStageRecommender:
    """The same stage 1, its index built once, and another stage 2."""
    return TwoStageRecommender(
        whole.tables,
        whole.retriever,
        whole.index,
        whole.popularity,
        ranker=ranker,
        num_candidates=whole.num_candidates,
        serve_by=served,
        history_length=whole.history_length,
        index_rule=whole.index_rule,
        specs=specs,
    )


def serve_bundle(bundle: Path, events: Path, port: int, onnx: Path | None) -> None:
    """`corral serve`, without its log."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    serve(bundle, port=port, events=str(events), timeout=60.0, max_waiting=100_000, onnx=onnx)


def serve_bare(port: int) -> None:
    """The framework with the same bodies and answers, and nothing behind them."""
    import uvicorn
    from fastapi import FastAPI

    from corral.serving.http.answers import RecommendAnswer, RecommendedItem, RecommendedList
    from corral.serving.http.bodies import RecommendBody

    app = FastAPI()

    # FastAPI looks a handler's annotations up in the module, where these are not.
    async def recommend(body):  # type: ignore[no-untyped-def]
        items = [RecommendedItem(item_id=place, score=1.0 / (1 + place)) for place in range(body.k)]
        lists = [
            RecommendedList(user_id=user.user_id, items=items, fallback=False, ignored_history=0) for user in body.users
        ]
        return RecommendAnswer(lists=lists, served_by="ranker", bundle="none")

    async def health() -> dict[str, str]:
        return {"state": "ok"}

    recommend.__annotations__ = {"body": RecommendBody, "return": RecommendAnswer}
    app.post("/v1/recommend")(recommend)
    app.get("/ready")(health)
    uvicorn.run(app, port=port, log_level="error", access_log=False)


@contextmanager
def server(world: World, system: str, folder: Path) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and its process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    events = folder / world.name / f"{system}.sqlite"
    events.unlink(missing_ok=True)
    spawn = multiprocessing.get_context("spawn")
    bundle = world.bundles.get(system, world.bundles["retrieval"])
    onnx = world.onnx if system == "onnx" else None
    target, words = (serve_bare, (port,)) if system == "bare" else (serve_bundle, (bundle, events, port, onnx))
    process = spawn.Process(target=target, args=words)
    process.start()
    try:
        while True:
            try:
                ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), "GET", "/ready")
                break
            except ConnectionError:
                assert process.is_alive(), f"the server of {system} ended"
                time.sleep(0.1)
        assert process.pid is not None
        yield port, process.pid
    finally:
        process.terminate()
        process.join()


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> str:
    """The text of a good answer."""
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200, (path, answer.status, text)
    return text


def load(port: int, bodies: Sequence[tuple[str, str]], clients: int, rate: float = 0.0) -> tuple[list[float], float]:
    """Asks (path, body) after (path, body): the seconds of each, and of all.

    ``rate``: so many a second are due, whatever becomes of those before; 0 = whenever a client is free.
    """
    numbers, latencies = count(), []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        # next() of a count is atomic: the clients share the requests
        while (number := next(numbers)) < len(bodies):
            due = time.perf_counter()
            if rate:
                due = began + number / rate
                time.sleep(max(due - time.perf_counter(), 0.0))
            ask(connection, "POST", *bodies[number])
            latencies.append(time.perf_counter() - due)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, time.perf_counter() - began


def cpu_seconds(process: int) -> float:
    """CPU time of all threads of a process so far (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes(process: int) -> float:
    """The largest resident memory of a process so far (Linux)."""
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(match[1]) * 1024 / 1e6 if match else float("nan")


def stage_seconds(port: int) -> dict[str, float]:
    """Seconds that a service spent in each stage so far."""
    text = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), "GET", "/metrics")
    found = re.findall(r'corral_stage_seconds_sum\{stage="(\w+)"\} ([\d.e+-]+)', text)
    return {name: float(seconds) for name, seconds in found}


def index_of(port: int) -> str:
    """How a service searches its catalogue, in words."""
    text = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), "GET", "/v1/bundle")
    index = json.loads(text)["index"]
    return str(index["kind"]) + (f", recall {index['recall']}" if "recall" in index else "")


def requests(world: World, system: str, number: int, seed: int) -> list[tuple[str, str]]:
    """Paths and bodies: each of a user of the world, drawn at random."""
    drawn = np.random.default_rng(seed).integers(len(world.users), size=number)
    users = [world.users[place] for place in drawn]
    if system == "events":
        events = ({"user_id": user, "item_id": user, "time": 2**40 + place} for place, user in enumerate(users))
        return [("/v1/events", json.dumps({"events": [event]})) for event in events]
    return [("/v1/recommend", json.dumps({"users": [{"user_id": user}], "k": K})) for user in users]


def measure(
    world: World, system: str, folder: Path, clients: Sequence[int], rate: float, number: int, seed: int
) -> Iterator[Row]:
    """One row for the rate and one for each number of clients, all of one server."""
    with server(world, system, folder) as (port, process):
        load(port, requests(world, system, max(number // 10, 10), seed + 1), 4)
        for many, due in [(RATE_CLIENTS, rate), *((many, 0.0) for many in clients)]:
            staged = stage_seconds(port) if system in world.bundles else {}
            before, bodies = cpu_seconds(process), requests(world, system, number, seed)
            latencies, seconds = load(port, bodies, many, due)
            metrics = {
                "p50_ms": 1000 * float(np.quantile(latencies, 0.5)),
                "p99_ms": 1000 * float(np.quantile(latencies, 0.99)),
                "requests_per_second": number / seconds,
                "requests_per_cpu_second": number / (cpu_seconds(process) - before),
                "megabytes": megabytes(process),
            }
            if staged:
                after = stage_seconds(port)
                metrics |= {f"{name}_ms": 1000 * (after[name] - staged[name]) / number for name in STAGES}
            protocol = {"load": f"{due:g} a second" if due else f"{many} clients", "items": world.items}
            if staged:
                protocol["index"] = index_of(port)
            yield result_row(world.name, system, seed, metrics, data_hash=world.data_hash, protocol=protocol)


def page(rows: Sequence[Row]) -> list[str]:
    """The tables of serving.md: means over seeds."""
    groups: dict[tuple[str, str, str], list[dict[str, float]]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["system"], row["protocol"]["load"]].append(row["metrics"])
    means = {
        key: {name: float(np.mean([one[name] for one in members])) for name in members[0]}
        for key, members in groups.items()
    }
    lines = [
        "| data set | system | load | p50 ms | p99 ms | requests/s | requests/s of one core | memory MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (dataset, system, load), mean in means.items():
        lines.append(
            f"| {dataset} | {system} | {load} | {mean['p50_ms']:.1f} | {mean['p99_ms']:.1f} "
            f"| {mean['requests_per_second']:.0f} | {mean['requests_per_cpu_second']:.0f} | {mean['megabytes']:.0f} |"
        )
    lines += ["", "; ".join(f"**{system}**: {what}" for system, what in SYSTEMS.items()) + "."]
    lines += [
        "",
        "Milliseconds of the computing thread a list, by stage (ranking: both stages less retrieval alone):",
        "",
    ]
    lines += [
        "| data set | system | load | live events | retrieve | rank | make the answer |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dataset, system, load), mean in means.items():
        alone = means.get((dataset, "retrieval", load))
        if system in ("both", "rar", "onnx") and alone is not None:
            parts = [mean["live_events_ms"], alone["recommend_ms"], mean["recommend_ms"] - alone["recommend_ms"]]
            figures = " | ".join(f"{one:.2f}" for one in [*parts, mean["answer_ms"]])
            lines.append(f"| {dataset} | {system} | {load} | {figures} |")
    return [*lines, "", *goals(means)]


def goals(means: Mapping[tuple[str, str, str], Mapping[str, float]]) -> list[str]:
    """What was aimed at, and what came out at the fixed rate."""
    goal = f"p99 below {GOAL_MS:g} ms; RAR's p50 at most {GOAL_RATIO:g} times the bare one's"
    lines = [f"Goals at the fixed rate: {goal}.", ""]
    for (dataset, system, load), mean in means.items():
        bare = means.get((dataset, "both", load))
        if bare is None or not load.endswith("second"):
            continue
        ratio = mean["p50_ms"] / bare["p50_ms"]
        # What else runs on the machine changes it less.
        of_core = (
            f"{bare['requests_per_cpu_second'] / mean['requests_per_cpu_second']:.2f} times its CPU time a request"
        )
        if system in ("both", "rar"):
            missed = "" if mean["p99_ms"] < GOAL_MS else ": missed"
            lines.append(f"- {dataset}, {system}: p99 {mean['p99_ms']:.1f} ms{missed}")
        if system == "rar":
            missed = "" if ratio <= GOAL_RATIO else ": missed"
            lines.append(f"- {dataset}, rar: p50 {ratio:.2f} times the bare one's, {of_core}{missed}")
        if system == "onnx":
            lines.append(f"- {dataset}, ONNX Runtime: p50 {ratio:.2f} times torch's, {of_core}")
    return lines


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "serving", help="where data and bundles go")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second of the fixed load")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    began = os.getloadavg()[0]
    for name in arguments.worlds:
        world = make_world(name, folder, arguments.systems)
        for seed in arguments.seeds:
            for system in arguments.systems:
                for row in measure(world, system, folder, arguments.clients, arguments.rate, arguments.requests, seed):
                    rows.append(row)
                    figures = "  ".join(f"{key} {value:.2f}" for key, value in row["metrics"].items())
                    print(f"{name} seed {seed} {system} {row['protocol']['load']}: {figures}", flush=True)
    quick = not set(arguments.worlds) <= set(WORLDS) or arguments.requests != REQUESTS
    target = folder if quick else None
    rows = with_published("serving", rows, target, within="load")
    searched = [row for row in rows if "index" in row["protocol"]]
    indexes = dict.fromkeys(f"{row['dataset']} {row['protocol']['index']}" for row in searched)
    protocol = {
        "requests": f"{arguments.requests} a line, one user each, k = {K}, after a tenth of them to warm up",
        "load": "on the loopback, threads of one process beside the server's; so many a second: a request's time runs "
        "from when it was due; clients: each waits for its answer",
        "models": "SASRec (64, 2 blocks, 50 events), DIN (16, 50 events); float32, not trained; RAR with 10 "
        "look-alikes and 10 recall items, drawn by lot",
        "index": "; ".join(indexes),
        "machine": f"{os.cpu_count()} cores; load average when the run began {began:.1f}, niceness {os.nice(0)}: "
        "what else ran took its share",
        "candidates": 200,
        "one core": "requests by the CPU seconds of the server's process",
    }
    lines = ["; ".join(f"{key}: {value}" for key, value in protocol.items()) + ".", "", *page(rows)]
    write_results("serving", rows, protocol, lines, target)
    print("\n".join(page(rows)))


if __name__ == "__main__":
    main()
