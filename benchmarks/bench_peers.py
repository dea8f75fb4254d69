"""Where do we stand beside the libraries that people use? Their models on our split files, judged by our metrics.

Every peer runs in an environment of its own (benchmarks/peers/NAME.txt, versions pinned), on one thread, and hands
lists or click probabilities back; time and memory are taken alike for all, ours included. A peer that fails gets a
line that says why. Finished runs are skipped.

    python benchmarks/bench_peers.py                                               # everything
    python benchmarks/bench_peers.py --datasets amazon-beauty-7core --peers implicit rectools
    python benchmarks/bench_peers.py --page                                        # the page from finished runs

Needs CORRAL_DATA, and a package registry that pip reaches. Environments: runs/peers/envs, or CORRAL_PEER_ENVS. Writes
docs/results/peers.json and peers.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from outcomes import keep, path_of
from peer_environments import SCRIPTS, call, environment, memory_of_import
from peer_files import FACTS, ids_alone, write_clicks, write_events
from peer_judge import judge_clicks, judge_lists
from peer_systems import DATASETS, GOALS, SYSTEMS, WHAT, Goal
from results import ROOT, Row, published, result_row, run_key, table, with_published, write_results

from corral.cli.experiment import Experiment
from corral.cli.recipes import read_recipe
from corral.cli.run_files import write_text

RUNS = ROOT / "runs" / "peers"
OUTCOMES = "outcomes.npz"
COST = ("examples_per_second", "evaluation_seconds", "peak_mb", "train_seconds", "epochs")
LIST_COLUMNS = ("ndcg@10", "recall@10", "recall@100", "coverage@10", *COST)
CLICK_COLUMNS = ("auc", "gauc", "logloss", *COST)


def experiment_of(dataset: str, seed: int, folder: Path) -> Experiment:
    """Data, split and rules of judging."""
    data = DATASETS[dataset]
    settings = read_recipe(data.recipe, (*data.overrides, f"seed={seed}", "threads=1"))
    return ids_alone(Experiment.start(settings, folder, quiet=True))


def split_files(dataset: str, folder: Path) -> Path:
    """The folder of the split, written once."""
    files = folder / dataset / "files"
    if not (files / FACTS).exists():
        with tempfile.TemporaryDirectory() as place:
            experiment = experiment_of(dataset, 0, Path(place))
            (write_clicks if DATASETS[dataset].clicks else write_events)(experiment, files, dataset)
    return files


def run(dataset: str, peer: str, system: str, seed: int, folder: Path, epochs: int | None = None) -> Row:
    """One run, or what it gave before; a failed one says why, and is tried again the next time.

    A quick look, ``epochs``, takes no whole run's place.
    """
    name, settings = f"{peer}/{system}", DATASETS[dataset].settings
    if epochs is not None:
        settings["epochs"] = min(epochs, settings["epochs"])
    place = folder / dataset / f"{peer}-{system}-{seed}"
    done, failed = place / "row.json", place / "failed.json"
    if done.exists():
        row = json.loads(done.read_text(encoding="utf-8"))
        if row["settings"] == settings or (epochs is not None and not cut_short(row)):
            return row
        done.unlink()
    place.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    try:
        python = environment(peer)
        base = memory_of_import(python)
        script = SCRIPTS / f"peer_{peer}.py"
        files = split_files(dataset, folder)
        write_text(place / "settings.json", json.dumps(settings, indent=1) + "\n")
        call([str(python), str(script), system, str(files), str(place), str(seed)], place / "log.txt")
        row = judged(dataset, name, seed, place, base) | {"settings": settings}
    except (RuntimeError, ValueError, OSError) as error:
        row = result_row(dataset, name, seed, {}) | {"failed": str(error)}
        write_text(failed, json.dumps(row))
        return row
    write_text(done, json.dumps(row, default=str))
    return row


def cut_short(row: Row) -> bool:
    """By ``--epochs``: such a row tells what a system costs, not how good it is."""
    return bool(row["settings"]["epochs"] < DATASETS[row["dataset"]].settings["epochs"])


def judged(dataset: str, name: str, seed: int, place: Path, base: int) -> Row:
    """The row of a run that has answered: quality by our metrics, and what it cost."""
    answers = np.load(place / "answers.npy", allow_pickle=False)
    timing = json.loads((place / "timing.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        experiment = experiment_of(dataset, seed, Path(folder))
        protocol = experiment.protocol()
        if DATASETS[dataset].clicks:
            metrics = judge_clicks(experiment, answers)
        else:
            found = judge_lists(experiment, answers)
            metrics, protocol = {key: value for key, value in found.metrics.items() if "/" not in key}, found.protocol
            keep(found, place / OUTCOMES)
    seconds = {phase: spent["cpu"] for phase, spent in timing["seconds"].items()}
    metrics |= {
        "examples_per_second": timing["examples"] / seconds["train"],
        "evaluation_seconds": seconds["evaluate"],
        "peak_mb": (timing["peak_bytes"] - base) / 1e6,
        "train_seconds": seconds["train"],
        "epochs": timing["epochs"],
    }
    row = result_row(dataset, name, seed, metrics, data_hash=experiment.dataset.hash, protocol=dict(protocol))
    return {**row, "timing": timing, "memory_of_import": base}


def goal_lines(rows: Sequence[Row], goal: Goal) -> list[str]:
    """One line a data set and model that we and the peer both have: reached or missed."""
    lines = []
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if goal.metric in row["metrics"]:
            values.setdefault((row["dataset"], row["system"]), []).append(row["metrics"][goal.metric])
    for (dataset, name), theirs in values.items():
        peer, system = name.split("/")
        ours = values.get((dataset, f"corral/{system}"))
        if peer != goal.peer or ours is None or (goal.systems and system not in goal.systems):
            continue
        one, other = statistics.mean(ours), statistics.mean(theirs)
        factor = other / one if goal.less else one / other
        verdict = "reached" if factor >= goal.factor else "**missed**"
        lines.append(
            f"| {goal.metric} | {dataset} | {system} | {peer} | {one:,.1f} | {other:,.1f} | {factor:.1f} x "
            f"| {goal.factor:g} x | {verdict} |"
        )
    return lines


PROTOCOL = {
    "threads": 1,
    "split": "the same files for all, internal ids; models see ids and history alone",
    "lists": "top 100 of the full catalogue, what the user had before left out; judged by corral.evaluation",
    "trained on": "train alone; early stopping on validation; test histories hold the validation events",
    "settings": "sizes, batch and learning rate shared (benchmarks/peer_systems.py), the rest as each library ships; "
    "nobody is tuned here",
    "examples_per_second": "predictions trained on, over CPU seconds of training, without validation",
    "evaluation_seconds": "CPU seconds of the library's own judging of validation: full-catalogue lists and their "
    "metrics, or click metrics; torch-rechub judges no lists: scores, sort and recall@10",
    "peak_mb": "peak memory of the whole process above `import torch` (`import numpy` where there is no torch): "
    "libraries, data, training and lists",
    "time": "CPU seconds, on a machine that did other work besides: compare by ratios",
}


def write_page(folder: Path) -> None:
    """docs/results/peers.json and peers.md from all runs here, failed ones too, and what was published before."""
    paths = [*folder.glob("*/*/row.json"), *folder.glob("*/*/failed.json")]
    made = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    for path, row in made.items():
        if (outcomes := path.with_name(OUTCOMES)).exists():
            path_of(row).parent.mkdir(exist_ok=True)
            shutil.copy(outcomes, path_of(row))

    def whole(row: Row) -> bool:
        return "failed" not in row and not cut_short(row)

    # A run that failed here, or a quick look, does not take a published one's place.
    known = {run_key(row) for row in published("peers")["rows"] if whole(row)}
    rows = with_published("peers", [row for row in made.values() if whole(row) or run_key(row) not in known])
    order = [f"{peer}/{system}" for peer, kinds in SYSTEMS.items() for systems in kinds for system in systems]
    rows.sort(key=lambda row: (list(DATASETS).index(row["dataset"]), order.index(row["system"]), row["seed"]))
    done = [row for row in rows if "failed" not in row]
    shown = [*(f"- {key}: {value}" for key, value in PROTOCOL.items()), ""]
    for clicks, title, columns in ((False, "Lists", LIST_COLUMNS), (True, "Clicks", CLICK_COLUMNS)):
        here = [row for row in done if DATASETS[row["dataset"]].clicks == clicks]
        shown += [f"## {title}", "", *table(here, columns), ""]
    shown += [*(f"- {name}: {what}." for name, what in WHAT.items()), ""]
    lines = [line for goal in GOALS for line in goal_lines(done, goal)]
    head = "| | data set | model | peer | ours | peer's | factor | goal | |"
    shown += ["## Goals", "", "Factor: how many times better ours is.", "", head, "|---" * 9 + "|", *lines, ""]
    cut = [row for row in done if cut_short(row)]
    shown += ["## Cut short: what they cost, not how good they are", ""] if cut else []
    shown += [
        f"- {row['dataset']}, {row['system']}, seed {row['seed']}: epochs bounded by {row['settings']['epochs']}"
        for row in cut
    ]
    failed = [row for row in rows if "failed" in row]
    shown += ["", "## Did not run", ""] if failed else []
    shown += [f"- {row['dataset']}, {row['system']}, seed {row['seed']}: {row['failed']}" for row in failed]
    write_results("peers", rows, PROTOCOL, shown)
    print("\n".join(shown))


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--peers", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--systems", nargs="+", help="for example din; by default all of a peer")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="a quick look: at most so many; such rows are made anew without it")
    parser.add_argument("--runs", type=lambda text: Path(text).resolve(), default=RUNS)
    parser.add_argument("--page", action="store_true", help="write the page from the finished runs, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for dataset in () if arguments.page else arguments.datasets:
        for seed in arguments.seeds:
            for peer in arguments.peers:
                for system in SYSTEMS[peer][DATASETS[dataset].clicks]:
                    if arguments.systems and system not in arguments.systems:
                        continue
                    row = run(dataset, peer, system, seed, arguments.runs, arguments.epochs)
                    columns = CLICK_COLUMNS if DATASETS[dataset].clicks else LIST_COLUMNS
                    values = {name: round(row["metrics"][name], 4) for name in columns if name in row["metrics"]}
                    print(dataset, f"{peer}/{system}", seed, row.get("failed", values), flush=True)
    write_page(arguments.runs)


if __name__ == "__main__":
    main()
