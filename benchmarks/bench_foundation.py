"""How good is stage 1 by itself, against public figures on the same data and protocol?

Leave-last-two-out, seen items left out, full catalogue, all ratings as events. Every (data set, system, seed) is
one run of a shipped recipe under runs/foundation; finished runs are skipped, interrupted ones go on.

    python benchmarks/bench_foundation.py                                  # everything
    python benchmarks/bench_foundation.py --datasets amazon-beauty --systems sasrec --seeds 0 1 2

Needs CORRAL_DATA. Writes docs/results/foundation.json and foundation.md from all finished runs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from results import ROOT, Row, fill_readme, result_row, table, with_published, write_results

from corral.cli.experiment import Experiment
from corral.cli.recipes import read_recipe
from corral.cli.retriever_stage import served_channel, train_retriever
from corral.cli.run_files import EVALUATION, write_text
from corral.data.split import Part
from corral.evaluation.evaluate import evaluate

DATASETS = ("amazon-beauty", "ml-1m")
SYSTEMS = ("sasrec", "gru4rec", "mf", "two-tower", "popularity")
COLUMNS = ("ndcg@10", "recall@10", "mrr@10", "retriever/recall@100", "epochs", "train_minutes")
# Public figures on the same data and protocol, for orientation; see the issue and docs/results/foundation.md.
PUBLIC = {
    "ml-1m": "public nDCG@10: SASRec .160, HSTU .172, HSTU-large .189; goal of this benchmark .170",
    "amazon-beauty": "public nDCG@10: RecBole's SASRec .0432; goal of this benchmark .043",
}


def run(dataset: str, system: str, seed: int, folder: Path, threads: int) -> Row:
    """One run, or what it gave before."""
    done = folder / f"{dataset}-{system}-{seed}" / "row.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    settings = read_recipe(f"{dataset}-{system}", (f"seed={seed}", f"threads={threads}"))
    experiment = Experiment.start(settings, done.parent)
    start = time.perf_counter()
    retriever = train_retriever(experiment)
    seconds = time.perf_counter() - start
    log = done.parent / "retriever" / "log.jsonl"
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    result = evaluate(
        experiment.targets(Part.TEST),
        served_channel(experiment, retriever),
        num_candidates=100,
        item_counts=experiment.counts,
        catalogue=experiment.catalogue.numpy(),
        protocol=experiment.protocol(),
        device=experiment.device,
    )
    result.save(done.parent / EVALUATION)
    # The log holds the whole training, also where it was interrupted; the clock above only the last part.
    trained = sum(record["seconds"] for record in epochs)
    row = result_row(
        dataset,
        system,
        seed,
        {
            **{name: value for name, value in result.metrics.items() if value == value},
            "epochs": len(epochs),
            "train_minutes": trained / 60,
            "validate_minutes": max(seconds - trained, 0.0) / 60,
            "evaluate_seconds": result.seconds["total"],
            "valid/ndcg@10": max((record.get("ndcg@10", 0.0) for record in epochs), default=0.0),
        },
        data_hash=experiment.dataset.hash,
        protocol={**result.protocol, "threads": torch.get_num_threads()},
    )
    write_text(done, json.dumps(row, default=str))
    return row


def main() -> None:
    """Runs what is missing and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "foundation")
    parser.add_argument("--page", action="store_true", help="write the pages from the finished runs, run nothing")
    arguments = parser.parse_args()
    for dataset in arguments.datasets:
        for system in () if arguments.page else arguments.systems:
            for seed in arguments.seeds:
                row = run(dataset, system, seed, arguments.runs, arguments.threads)
                print(dataset, system, seed, {name: round(row["metrics"][name], 4) for name in COLUMNS}, flush=True)
    finished = sorted(arguments.runs.glob("*/row.json"))
    rows = with_published("foundation", [json.loads(path.read_text(encoding="utf-8")) for path in finished])
    rows.sort(key=lambda row: (DATASETS.index(row["dataset"]), SYSTEMS.index(row["system"]), row["seed"]))
    shown = [*table(rows, COLUMNS), ""]
    shown += ["train_minutes: wall clock of one thread on a machine that did other work besides.", ""]
    shown += [f"{name}: {text}." for name, text in PUBLIC.items()]
    shown += ["", "Protocol of each data set:", ""]
    for dataset in DATASETS:
        first = next((row for row in rows if row["dataset"] == dataset), None)
        if first:
            facts = "; ".join(f"{key} {value}" for key, value in first["protocol"].items() if key != "seed")
            shown.append(f"- {dataset}: {facts}.")
    protocol = {"threads": arguments.threads, "public": PUBLIC}
    write_results("foundation", rows, protocol, shown)
    fill_readme("foundation", table(rows, ("ndcg@10", "recall@10", "mrr@10", "retriever/recall@100")))
    print("\n".join(shown))


if __name__ == "__main__":
    main()
