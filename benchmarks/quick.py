"""Are the published numbers still what the program computes? At least one row of every table again, in minutes.

A row that is computed again must agree with docs/results/NAME.json to 0.001 in every metric named here. Tables of
times cannot: their script is run at its smallest size. Rows whose data set is not under CORRAL_DATA are skipped.

    python benchmarks/quick.py                    # all; so does: corral bench --quick
    python benchmarks/quick.py estimator rar

Writes nothing but to a temporary folder. Leaves with 1 where a number differs or a script fails. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from results import ROOT, Row

TOLERANCE = 1e-3
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Check:
    """One published row.

    Attributes:
        dataset: as the row names it.
        system: the same.
        metrics: that must agree.
        again: computes them, from the published row and in an empty folder; seed 0.
        data: the data set's folder under CORRAL_DATA; None: it needs none.
    """

    dataset: str
    system: str
    metrics: tuple[str, ...]
    again: Callable[[Row, Path], Mapping[str, float]]
    data: str | None = None


def corr(published: Row, folder: Path) -> Mapping[str, float]:
    """Counts alone, with the decay and power that the whole benchmark chose."""
    from bench_corr import co_visitation, open_run

    chosen = published["metrics"]
    experiment = open_run(published["dataset"], published["system"], 0, folder)
    return co_visitation(experiment, (chosen["decay"],), (chosen["power"],))[0].metrics


def estimator(published: Row, folder: Path) -> Mapping[str, float]:
    """The whole estimate of a row: as many draws as published."""
    from bench_estimator import REPLICATES, SIZES, bias_rows, toy

    draws, n = REPLICATES * max(SIZES), len(SIZES)
    rows = islice(bias_rows(published["dataset"], toy(300, 0), draws, 0, None, "toy"), n)  # one proposal
    return next(row for row in rows if row["system"] == published["system"])["metrics"]


def foundation(published: Row, folder: Path) -> Mapping[str, float]:
    """A retriever that needs no training."""
    from bench_foundation import run

    return run(published["dataset"], published["system"], 0, folder, threads=1)["metrics"]


def funnel(published: Row, folder: Path) -> Mapping[str, float]:
    """A page put together from others: it must say what they say."""
    rows = json.loads((RESULTS / "corr.json").read_text(encoding="utf-8"))["rows"]
    wanted = (published["dataset"], published["system"], published["seed"])
    return next(row for row in rows if (row["dataset"], row["system"], row["seed"]) == wanted)["metrics"]


def peers(published: Row, folder: Path) -> Mapping[str, float]:
    """Our own line: it needs no other environment."""
    from bench_peers import run

    peer, system = published["system"].split("/")
    row = run(published["dataset"], peer, system, 0, folder)
    if "failed" in row:
        raise RuntimeError(row["failed"])
    return row["metrics"]


def rar(published: Row, folder: Path) -> Mapping[str, float]:
    """A whole training, as tuned."""
    from bench_rar import VARIANTS, run

    return run(published["dataset"], published["system"], 0, folder, VARIANTS[""])["metrics"]


def continued(published: Row, folder: Path) -> Mapping[str, float]:
    """The first training, of which the others go on."""
    from bench_continue import Measured, Steps

    measured = Measured(Steps.of(published["dataset"], 3, folder), 0)
    measured.run("anew", 0)
    return measured.rows[0]["metrics"]


def rar_world(published: Row, folder: Path) -> Mapping[str, float]:
    """A whole training."""
    from bench_rar_world import run

    return run(published["system"], 0)


def selection(published: Row, folder: Path) -> Mapping[str, float]:
    """Factors and codes made anew."""
    from bench_selection import cell, learned_part

    def key(row: Row) -> str:
        return cell(row["dataset"], row["system"], row["seed"])

    others = {key(row) for row in json.loads((RESULTS / "selection.json").read_text(encoding="utf-8"))["rows"]}
    options = argparse.Namespace(datasets=["amazon-beauty"], seeds=[0])
    return next(learned_part(options, others - {key(published)}))["metrics"]


LISTS = ("ndcg@10", "recall@10")
CHECKS = {
    "continue": Check("online-retail", "anew", LISTS, continued),
    "corr": Check("amazon-beauty-7core", "co-visitation", LISTS, corr, "amazon-beauty"),
    "estimator": Check("toy, M = 300", "uniform, N=100", ("kl", "estimate", "without_log_q"), estimator),
    "foundation": Check("amazon-beauty", "popularity", LISTS, foundation, "amazon-beauty"),
    "funnel": Check("amazon-beauty-7core", "retriever-full-softmax", LISTS, funnel),
    "peers": Check("ml-100k-clicks", "corral/dcnv2", ("auc", "gauc"), peers, "ml-100k"),
    "rar": Check("ml-100k", "fm", ("auc", "gauc"), rar, "ml-100k"),
    "rar_world": Check("taste-world", "bare", ("auc", "logloss"), rar_world),
    "selection": Check("amazon-beauty items", "cosine, 128 bits, centred", ("recall@10",), selection, "amazon-beauty"),
}
# Tables of times: arguments of their scripts at the smallest size; the last one is followed by the folder.
TIMED = {
    "cooperation": ("--parts", "steps", "--steps", "1", "--shapes", "MF", "--folder"),
    "data": ("--events", "20000", "--datasets", "dense", "--systems", "corral", "--results"),
    "evaluation": ("--seeds", "0", "--threads", "1", "--repeats", "1", "--folder"),
    "ranking": ("--seeds", "0", "--steps", "1", "--systems", "lr", "--folder"),
    "rar_cost": (
        "--parts",
        "rar",
        "--systems",
        "dcnv2, D = 16, (128",
        "--seeds",
        "0",
        "--steps",
        "3",
        "--no-memory",
        "--folder",
    ),
    "scale": ("--sections", "stream", "--events", "20000", "--steps", "2", "--folder"),
    "scale_training": ("--quick", "--folder"),
    "serving": (
        *("--worlds", "small", "--systems", "both", "bare", "--requests", "40", "--clients", "2", "--seeds", "0"),
        "--folder",
    ),
    "training": ("--datasets", "tables", "--sizes", "10000", "--steps", "1", "--folder"),
}


def recompute(name: str, check: Check, results: Path) -> bool | None:
    """Whether a row agrees with what is published; None where its data are not there."""
    data = os.environ.get("CORRAL_DATA")
    if check.data and not (data and (Path(data) / check.data).is_dir()):
        print(f"{name}: skipped, {check.data} is not under CORRAL_DATA", flush=True)
        return None
    rows = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    key = (check.dataset, check.system, 0)
    published = next((row for row in rows if (row["dataset"], row["system"], row["seed"]) == key), None)
    if published is None:
        raise ValueError(f"{name}.json has no row {key}")
    with tempfile.TemporaryDirectory() as folder:
        found = check.again(published, Path(folder))
    agree = True
    for metric in check.metrics:
        old, new = published["metrics"][metric], found[metric]
        same = abs(new - old) <= TOLERANCE
        agree &= same
        verdict = "agrees" if same else f"DIFFERS by {new - old:+.4f}"
        print(
            f"{name}: {check.dataset}, {check.system}, {metric}: published {old:.4f}, now {new:.4f}: {verdict}",
            flush=True,
        )
    return agree


def passes(name: str, results: Path) -> bool:
    """Whether a table's check is not against it; one that cannot be made says why, and the others go on."""
    try:
        if name in TIMED:
            return run_smallest(name, TIMED[name])
        return recompute(name, CHECKS[name], results) is not False
    except Exception as error:
        print(f"{name}: FAILS, {type(error).__name__}: {error}", flush=True)
        traceback.print_exc()
        return False


def run_smallest(name: str, arguments: Sequence[str]) -> bool:
    """Whether a script runs at its smallest size and writes its page."""
    script = ROOT / "benchmarks" / f"bench_{name}.py"
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, str(script), *arguments, folder]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        ran = done.returncode == 0 and (Path(folder) / f"{name}.json").exists()
    print(f"{name}: times; its script {'runs' if ran else 'FAILS'} at its smallest size", flush=True)
    if not ran:
        print(done.stderr[-2000:], file=sys.stderr)
    return ran


def main(arguments: Sequence[str] | None = None) -> None:
    """Checks, prints, leaves with 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(sorted({*CHECKS, *TIMED})))
    parser.add_argument("--results", type=Path, default=RESULTS, help="what was published")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    good = True
    for name in options.names or sorted({*CHECKS, *TIMED}):
        began = time.perf_counter()
        good &= passes(name, options.results)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
