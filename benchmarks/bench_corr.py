"""Is the whole better than its parts? CoRR against the pairs trained apart, joint baselines, counts, and LightGBM.

Leave-last-two-out, seen items left out, full catalogue, 100 candidates. Two ladders: NAME-plain (ids and history
alone, served by the ranker) and NAME (every system with the same recall-stage evidence, served by the better of
ranker and mixture on validation). Every (data set, system, seed) is one run of a shipped recipe under runs/corr;
interrupted ones go on; finished ones are skipped, and so are published ones whose outcomes are kept (outcomes.py).

    python benchmarks/bench_corr.py                                             # everything, in the order of tiers
    python benchmarks/bench_corr.py --datasets amazon-beauty-7core --systems corr two-stage --seeds 0
    python benchmarks/bench_corr.py --tune                                      # one data set and seed, validation only
    python benchmarks/bench_corr.py --page                                      # the pages from finished runs

Needs CORRAL_DATA. Writes docs/results/corr.json and corr.md (and corr_tuning.json by --tune).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from corr_systems import APART_RECIPES, DATASETS, SYSTEMS, TIERS
from outcomes import comparison, keep, path_of
from results import ROOT, Row, fill_readme, published, result_row, run_key, table, with_published, write_results

from corral.cli.experiment import Experiment
from corral.cli.recipes import read_recipe
from corral.cli.retriever_stage import served_channel, train_retriever
from corral.cli.run import Models, judge, train_models
from corral.cli.run_files import write_text
from corral.data.split import Part
from corral.evaluation.catalogue_auc import catalogue_auc
from corral.evaluation.evaluate import evaluate
from corral.evaluation.fates import fates
from corral.evaluation.result import Evaluation, Stage
from corral.evaluation.slices import ITEM_GROUPS
from corral.retrieval.co_visitation import CoVisitation
from corral.retrieval.co_visitation_channel import CoVisitationChannel

RUNS = ROOT / "runs" / "corr"
FOUNDATION = ROOT / "runs" / "foundation"
TUNING = ROOT / "docs" / "results" / "corr_tuning.json"
JUDGED_GROUPS = tuple(group for group, name in ITEM_GROUPS.items() if name != "cold")
COLUMNS = (
    "ndcg@10",
    "recall@10",
    "mrr@10",
    "retriever/ndcg@10",
    "ranker/ndcg@10",
    "retriever/recall@100",
    "agreement/spearman",
    "mixture_weight",
    "train_minutes",
)
# What co-visitation may choose from.
DECAYS, POWERS = (0.4, 0.5, 0.6, 0.7, 0.8), (0.0, 0.3, 0.5)
TUNED_ON = ("amazon-beauty-7core", 0)


def tuned(system: str) -> tuple[str, ...]:
    """The overrides that tuning chose, or none."""
    if not TUNING.exists():
        return ()
    chosen = json.loads(TUNING.read_text(encoding="utf-8"))["chosen"]
    base = "corr" if system.startswith("corr-") and system != "corr-plain" else system.removesuffix("-no-correction")
    return tuple(chosen.get(base, ()))


def open_run(dataset: str, system: str, seed: int, folder: Path, more: Sequence[str] = ()) -> Experiment:
    """The experiment of one run; a retriever that another system has trained is taken from there."""
    wanted = SYSTEMS[system]
    data = DATASETS[dataset]
    chosen = list(data.overrides)
    if "ranker=null" not in wanted.overrides:
        chosen += data.ranker
    phases = ("retriever_training", "ranker_training") if wanted.recipe in APART_RECIPES else ("together",)
    chosen += [f"{phase}.{one}" for phase in phases for one in data.training.get(phase, ())]
    settings = read_recipe(wanted.recipe, (*chosen, *wanted.overrides, *more, f"seed={seed}", "threads=1"))
    take_trial(dataset, system, seed, folder, tuple(more))
    experiment = Experiment.start(settings, folder, quiet=True)
    donor = folder.parent / f"{dataset}-{wanted.retriever_of}-{seed}"
    # Trained here where bench_foundation has not done it.
    if system == "retriever-full-softmax" and data.finished:
        donor = FOUNDATION / f"{data.finished}-{seed}"
    copy_whole(donor / "retriever", folder / "retriever")
    return experiment


def copy_whole(source: Path, target: Path) -> None:
    """A directory copied whole or not at all; nothing where there is no source, or a target already."""
    if not source.is_dir() or target.exists():
        return
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)


def take_trial(dataset: str, system: str, seed: int, folder: Path, chosen: tuple[str, ...]) -> None:
    """The run that tuning chose was made already, on its data set and seed: taken over, not made again."""
    trials = ((), *SYSTEMS[system].trials)
    if (dataset, seed) != TUNED_ON or chosen not in trials:
        return
    made = folder.parent / f"{dataset}-tune-{system}-{trials.index(chosen)}"
    if (made / "trial.json").exists():
        copy_whole(made, folder)


def co_visitation(
    experiment: Experiment, decays: Sequence[float] = DECAYS, powers: Sequence[float] = POWERS
) -> tuple[Evaluation, dict[str, float]]:
    """Counts alone; decay and power chosen on validation."""
    counts = CoVisitation.of(experiment.dataset, experiment.split)
    best: tuple[float, CoVisitationChannel | None] = (-1.0, None)
    for decay in decays:
        for power in powers:
            channel = CoVisitationChannel(counts, recent=20, decay=decay, power=power)
            found = evaluate(experiment.validation, channel, cutoffs=(10,), recall_cutoffs=(100,)).metrics["ndcg@10"]
            best = max(best, (found, channel), key=lambda pair: pair[0])
    assert best[1] is not None
    result = evaluate(
        experiment.targets(Part.TEST),
        best[1],
        item_counts=experiment.counts,
        catalogue=experiment.catalogue.numpy(),
        protocol={**experiment.protocol(), "part": "test"},
    )
    return result, {"valid/ndcg@10": best[0], "decay": best[1].decay, "power": best[1].power}


def lightgbm(experiment: Experiment) -> tuple[Evaluation, dict[str, float]]:
    """LightGBM over the full-softmax retriever's candidates; its settings chosen on validation."""
    from gbdt_ranker import best_gbdt

    retriever = train_retriever(experiment)
    ranker, mixture, facts = best_gbdt(experiment, retriever)
    models = Models(retriever, ranker, mixture, Stage.FUSED)  # type: ignore[arg-type]
    return judge(experiment, models), facts


def run(dataset: str, system: str, seed: int, folder: Path) -> Row:
    """One run, or what it gave before."""
    done = folder / f"{dataset}-{system}-{seed}" / "row.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    experiment = open_run(dataset, system, seed, done.parent, tuned(system))
    facts: dict[str, float] = {}
    if system == "co-visitation":
        result, facts = co_visitation(experiment)
    elif system == "lightgbm":
        result, facts = lightgbm(experiment)
    else:
        models = train_models(experiment)
        if models.mixture is not None:
            facts["mixture_weight"] = models.mixture.weight
        facts["valid/ndcg@10"] = best_validation(done.parent)
        result = judge(experiment, models)
        facts["catalogue/auc"] = catalogue_auc(
            experiment.targets(Part.TEST),
            served_channel(experiment, models.retriever),
            cast(Any, models.ranker),
            models.mixture,
            models.served,
            num_candidates=experiment.settings.evaluation.num_candidates,
            num_items=len(experiment.catalogue),
            device=experiment.device,
        )
    result.save(done.parent / "evaluation")
    facts["train_minutes"] = sum(record["seconds"] for log in logs(done.parent) for record in log) / 60
    metrics = {**{name: value for name, value in result.metrics.items() if value == value}, **facts}
    row = result_row(dataset, system, seed, metrics, data_hash=experiment.dataset.hash, protocol=dict(result.protocol))
    row["overrides"] = [*SYSTEMS[system].overrides, *tuned(system)]
    row["served"] = str(result.served.value)
    write_text(done, json.dumps(row, default=str))
    return row


def logs(folder: Path) -> list[list[dict[str, float]]]:
    """The records of each phase of a run, the last phase first."""
    paths = [folder / phase / "log.jsonl" for phase in ("together", "ranker", "retriever")]
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths if path.exists()]


def best_validation(folder: Path) -> float:
    """The best validation value of the last phase of a run."""
    return max(record.get("ndcg@10", 0.0) for record in logs(folder)[0])


def tune(systems: Sequence[str], folder: Path) -> None:
    """Every system's trials on one data set and seed, judged on validation; the best is kept for all runs."""
    dataset, seed = TUNED_ON
    for system in systems:
        trials = SYSTEMS[system].trials
        if not trials:
            continue
        found: list[tuple[float, tuple[str, ...]]] = []
        for number, trial in enumerate(((), *trials)):
            place = folder / f"{dataset}-tune-{system}-{number}"
            note = place / "trial.json"
            if not note.exists():
                share_retriever(folder, dataset, system, trial, place)
                began = time.process_time()
                train_models(open_run(dataset, system, seed, place, trial))
                print(f"{(time.process_time() - began) / 60:.1f} minutes", end=" ", flush=True)
                write_text(note, json.dumps({"overrides": trial, "valid/ndcg@10": best_validation(place)}))
            value = json.loads(note.read_text(encoding="utf-8"))["valid/ndcg@10"]
            found.append((value, trial))
            print(system, trial, round(value, 4), flush=True)
        best = max(found, key=lambda pair: pair[0])
        # Read again: another process may tune other systems.
        known = json.loads(TUNING.read_text(encoding="utf-8")) if TUNING.exists() else {"chosen": {}, "trials": {}}
        known |= {"dataset": dataset, "seed": seed, "metric": "ndcg@10 of the served list on validation"}
        known["chosen"][system] = list(best[1])
        known["trials"][system] = [{"overrides": list(trial), "valid/ndcg@10": value} for value, trial in found]
        write_text(TUNING, json.dumps(known, indent=1) + "\n")


def share_retriever(folder: Path, dataset: str, system: str, trial: Sequence[str], place: Path) -> None:
    """Trials that change the ranker alone take the finished retriever of the first trial, or of its donor."""
    if SYSTEMS[system].recipe not in APART_RECIPES:
        return
    first = folder / f"{dataset}-tune-{system}-0" / "retriever"
    donor = folder / f"{dataset}-{SYSTEMS[system].retriever_of}-{TUNED_ON[1]}" / "retriever"
    if not any("retriever" in one for one in trial):
        for source in (first, donor):
            if source != place / "retriever":
                copy_whole(source, place / "retriever")


def comparisons(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """corr (and corr-plain) against every other system of the same ladder."""
    before = published("corr")["protocol"].get("comparisons", ())
    of = defaultdict(list)
    for row in rows:
        of[row["dataset"], row["system"]].append(row)
    ladders = [(ours, system) for ours in ("corr", "corr-plain") for system in SYSTEMS if system != ours]
    ladders = [(ours, system) for ours, system in ladders if (ours == "corr-plain") == system.endswith("-plain")]
    pairs = (comparison(of[data, system], of[data, ours], before) for data in DATASETS for ours, system in ladders)
    return [pair for pair in pairs if pair is not None]


def shares_of_fates(evaluation: Evaluation) -> list[float]:
    """What each stage loses, in the order of the diagnosis table's columns."""
    what = fates(evaluation)
    parts = (what.found, what.lost, what.missed, what.promoted, what.demoted)
    of_group = (what.found[evaluation.targets["group"] == group] for group in JUDGED_GROUPS)
    return [float(part.mean()) if len(part) else float("nan") for part in (*parts, *of_group)]


def diagnosis(rows: Sequence[Row]) -> list[str]:
    """What each stage loses: shares of the targets, means over seeds; one line a (data set, system)."""
    lines = [
        "| data set | system | seeds | found in the first 10 | lost by stage 2 | missed by stage 1 "
        "| promoted by stage 2 | pushed out by stage 2 | found, head items | found, mid | found, tail |",
        "|---" * 11 + "|",
    ]
    systems = dict.fromkeys((row["dataset"], row["system"]) for row in rows)
    for dataset, system in systems:
        shares = [row["fates"] for row in rows if (row["dataset"], row["system"]) == (dataset, system)]
        means = [statistics.mean(column) for column in zip(*shares, strict=True)]
        lines.append(f"| {dataset} | {system} | {len(shares)} | " + " | ".join(f"{m:.1%}" for m in means) + " |")
    return lines


def readme_table(rows: Sequence[Row], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first data set's table with what corr (or corr-plain) gains on each line."""
    dataset = next(iter(DATASETS))
    gains = {pair["against"]: pair for pair in pairs if pair["dataset"] == dataset}
    columns = ("ndcg@10", "recall@10", "retriever/ndcg@10", "retriever/recall@100")
    head, rule, *lines = table([row for row in rows if row["dataset"] == dataset], columns)
    shown = [f"{head} corr's gain, 95 % interval |", f"{rule}---|"]
    for line in lines:
        pair = gains.get(line.split("|")[2].strip())
        shown.append(line + (" {gain:+.1%} ({low:+.4f} to {high:+.4f}) |".format(**pair) if pair else " |"))
    return shown


def write_pages(folder: Path) -> None:
    """docs/results/corr.json and corr.md from all runs finished here and what was published before."""
    made = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/row.json"))]
    for row in made:
        evaluation = Evaluation.open(folder / "-".join(map(str, run_key(row))) / "evaluation")
        row["fates"] = shares_of_fates(evaluation)
        keep(evaluation, path_of(row))
    rows = with_published("corr", made)
    order = list(SYSTEMS)
    rows.sort(key=lambda row: (list(DATASETS).index(row["dataset"]), order.index(row["system"]), row["seed"]))
    pairs = comparisons(rows)
    shown = [*table(rows, COLUMNS), ""]
    shown += ["train_minutes: wall clock of one thread, all phases, on a machine that did other work besides.", ""]
    shown += ["## Paired bootstrap over users, nDCG@10, mean over the seeds both have", ""]
    shown += ["Where outcomes of either are not kept (benchmarks/outcomes), as published when both had their runs.", ""]
    shown += ["| data set | system | against | seeds | gain | difference | 95 % interval |", "|---" * 7 + "|"]
    for pair in pairs:
        shown.append(
            "| {dataset} | {system} | {against} | {seeds} | {gain:+.1%} | {difference:+.4f} "
            "| {low:+.4f} to {high:+.4f} |".format(**pair)
        )
    shown += ["", "## What each stage loses: shares of the test part's targets", "", *diagnosis(rows)]
    shown += ["", "Head, mid and tail items each got a third of the train events."]
    protocol = {"threads": 1, "num_candidates": 100, "comparisons": pairs}
    write_results("corr", rows, protocol, shown)
    fill_readme("corr", readme_table(rows, pairs))
    print("\n".join(shown))


def main() -> None:
    """Runs what is missing and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--tune", action="store_true", help="try every system's trials, choose by validation")
    parser.add_argument("--page", action="store_true", help="write the pages from the finished runs, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tune:
        tune(arguments.systems or list(SYSTEMS), arguments.runs)
        return
    known = {run_key(row) for row in published("corr")["rows"] if path_of(row).exists()}
    for dataset, systems, seeds in () if arguments.page else TIERS:
        if arguments.datasets and dataset not in arguments.datasets:
            continue
        # One seed of everything first: a table without gaps exists early.
        for seed in arguments.seeds or range(seeds):
            for system in systems:
                if (arguments.systems and system not in arguments.systems) or (dataset, system, seed) in known:
                    continue
                row = run(dataset, system, seed, arguments.runs)
                shown = {name: round(row["metrics"][name], 4) for name in COLUMNS if name in row["metrics"]}
                print(dataset, system, seed, shown, flush=True)
    write_pages(arguments.runs)


if __name__ == "__main__":
    main()
