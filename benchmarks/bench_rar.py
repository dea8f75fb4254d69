"""Does recall-augmented ranking raise any CTR model, and does it survive its controls?

Systems: lightgbm, BACKBONE, BACKBONE+plain (without as-of statistics), BACKBONE+rar (the paper), BACKBONE+rar-plus
(what look-alikes did, in place of who they are; lightgbm+rar-plus reads the same numbers), and BACKBONE+rar-CONTROL;
BACKBONE+corrected, +rar-corrected, ...: the same trained models with the held-out correction, against the corrected
bare one. Seeds are paired; all but BACKBONE+plain read the same as-of statistics. Every backbone is tuned bare first
(validation AUC); its RAR forms take the same settings. Finished runs are skipped, and so are published ones.

    python benchmarks/bench_rar.py --tune                                   # one data set and seed, validation only
    python benchmarks/bench_rar.py                                          # everything, one seed of each first
    python benchmarks/bench_rar.py --datasets ml-100k --backbones deepfm din --seeds 0 1
    python benchmarks/bench_rar.py --page                                   # the pages from finished runs

Needs CORRAL_DATA. Writes docs/results/rar.json and rar.md (and rar_tuning.json by --tune).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rar_systems import AS_OF, BACKBONES, CONTROLS, DATASETS, GBDT, PATIENT, RECIPE, SWEEPS, TRIALS, VARIANTS
from results import ROOT, Row, fill_readme, published, result_row, run_key, table, with_published, write_results
from scipy import stats
from torch import nn

from corral.cli.correction_stage import correct
from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import click_logits, train_ranker
from corral.cli.recipes import read_recipe
from corral.cli.run_files import CORRECTION_FILE, write_text
from corral.data.split import Part
from corral.evaluation.click_metrics import auc, click_metrics

RUNS = ROOT / "runs" / "rar"
TUNING = ROOT / "docs" / "results" / "rar_tuning.json"
TUNED_ON = ("ml-100k", 0)
COLUMNS = ("gauc", "auc", "logloss", "calibration_error", "seen/auc", "new/auc", "seconds")
ACTIVITY = (("unseen", 0, 0), ("1-20", 1, 20), ("21-100", 21, 100), ("more", 101, 10**9))
RESAMPLES = 200


def tuned(backbone: str) -> tuple[str, ...]:
    """What tuning chose for a backbone."""
    if not TUNING.exists():
        return ()
    return tuple(json.loads(TUNING.read_text(encoding="utf-8"))["chosen"].get(backbone, ()))


def train(dataset: str, backbone: str, seed: int, folder: Path, more: Sequence[str]) -> tuple[Experiment, nn.Module]:
    """One training on labels; no retriever is needed."""
    fixed = (*PATIENT, f"ranker.kind={backbone}", f"seed={seed}", "threads=1")
    chosen = (*DATASETS[dataset].overrides, *fixed, *more)
    settings = read_recipe(RECIPE, (*chosen, "evaluation.correction=true"))  # fitted when training is over
    experiment = Experiment.start(settings, folder, quiet=True)
    return experiment, train_ranker(experiment, nn.Module())


def judged(experiment: Experiment, logits: np.ndarray, labels: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """Click metrics of all rows, and the AUC by how active the user was in train."""
    found = click_metrics(labels, logits, users)
    train = experiment.split.part == Part.TRAIN
    events = np.bincount(experiment.dataset.events.user[train], minlength=experiment.dataset.n_users)[users]
    slices = [("seen", 1, 10**9), ("new", 0, 0), *((f"activity {name}", low, high) for name, low, high in ACTIVITY)]
    for name, low, high in slices:
        inside = (events >= low) & (events <= high)
        if inside.any() and 0 < labels[inside].sum() < inside.sum():
            found[f"{name}/auc"] = auc(labels[inside], logits[inside])
            found[f"{name}/rows"] = float(inside.sum())
    return {key: value for key, value in found.items() if value == value}


def run(dataset: str, system: str, seed: int, folder: Path, more: Sequence[str]) -> Row:
    """One run, or what it gave before."""
    place = folder / f"{dataset}-{system}-{seed}"
    done = place / "row.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    began = time.process_time()
    if base_of(system) == "lightgbm":
        from gbdt_clicks import best_gbdt_clicks

        chosen = (*DATASETS[dataset].overrides, *more, f"seed={seed}", "threads=1")
        experiment = Experiment.start(read_recipe(RECIPE, chosen), place, quiet=True)
        logits, examples = best_gbdt_clicks(experiment).test, experiment.examples(Part.TEST)
        labels, users, facts, ranker = examples.label, np.asarray(examples.user), {}, None
    else:
        backbone = base_of(system)
        experiment, ranker = train(dataset, backbone, seed, place, (*tuned(backbone), *more))
        logits, labels, users = click_logits(experiment, ranker, Part.TEST)
        records = [json.loads(line) for line in (place / "ranker" / "log.jsonl").read_text().splitlines()]
        facts = {"valid/auc": max(record["auc"] for record in records), "epochs": float(len(records))}
    seconds = time.process_time() - began
    order, facts_of = {system: logits}, {system: facts}
    if ranker is not None:
        correct(experiment, nn.Module(), ranker)
    if (place / CORRECTION_FILE).exists():
        note, name = json.loads((place / CORRECTION_FILE).read_text(encoding="utf-8")), corrected_name(system)
        order[name] = click_logits(experiment, ranker, Part.TEST)[0]
        fit = {"valid/auc": note["after, cross-validated"], "likelier": note["likelier, nats"]}
        facts_of[name] = {**fit, "used": float(note["used"])}
    kept = {name: values.astype(np.float32) for name, values in order.items()}
    np.savez_compressed(place / "test.npz", labels=labels, users=users, **cast(Any, kept))
    for name in reversed(order):  # row.json comes last: with it the run is finished
        metrics = {**judged(experiment, order[name], labels, users), **facts_of[name], "seconds": seconds}
        protocol = experiment.protocol()
        row = result_row(dataset, name, seed, metrics, data_hash=experiment.dataset.hash, protocol=protocol)
        row["overrides"] = [*more, *tuned(base_of(system))]
        write_text(done if name == system else place / "corrected.json", json.dumps(row, default=str))
    # Weights are not needed any more, and hundreds of runs fill a disk.
    for left in (place / "ranker").glob("*.safetensors"):
        left.unlink()
    return row


def print_coverage(datasets: Sequence[str]) -> None:
    """How many rows of each part may have look-alikes and recall items, by rule: of the others RAR says nothing."""
    for dataset in datasets:
        for rule in ("{blocks: 2}", "{}", "{blocks: 32}", "{rule: folds}"):
            chosen = (*DATASETS[dataset].overrides, *AS_OF, "ranker.kind=lr", f"ranker.rar={rule}", "seed=0")
            with tempfile.TemporaryDirectory() as place:
                inputs = Experiment.start(read_recipe(RECIPE, chosen), Path(place), quiet=True).inputs
            assert inputs is not None
            print(dataset, rule, str(inputs.rules["rar_rule"]).rpartition("; ")[2], flush=True)


def tune(backbones: Sequence[str], folder: Path) -> None:
    """Every bare backbone's trials; the best on validation is kept for all its runs."""
    dataset, seed = TUNED_ON
    for backbone in backbones:
        found: list[tuple[float, tuple[str, ...]]] = []
        for number, trial in enumerate(TRIALS):
            place = folder / f"tune-{backbone}-{number}"
            note = place / "trial.json"
            if not note.exists():
                train(dataset, backbone, seed, place, (*trial, *VARIANTS[""]))
                records = [json.loads(line) for line in (place / "ranker" / "log.jsonl").read_text().splitlines()]
                write_text(note, json.dumps({"valid/auc": max(record["auc"] for record in records)}))
            value = json.loads(note.read_text(encoding="utf-8"))["valid/auc"]
            found.append((value, trial))
            print(backbone, trial, round(value, 4), flush=True)
        known = {"chosen": {}, "trials": {}} if not TUNING.exists() else json.loads(TUNING.read_text(encoding="utf-8"))
        known |= {"dataset": dataset, "seed": seed, "metric": "AUC on validation, bare, with as-of statistics"}
        known["chosen"][backbone] = list(max(found, key=lambda pair: pair[0])[1])
        known["trials"][backbone] = [{"overrides": list(trial), "valid/auc": value} for value, trial in found]
        write_text(TUNING, json.dumps(known, indent=1) + "\n")


def standard_error(folder: Path, row: Row) -> float:
    """Of the AUC difference between a run and what it is compared with: bootstrap over test users, both drawn alike."""
    dataset, system, seed = run_key(row)
    names = (compared_with(system), system)
    runs = [np.load(folder / f"{dataset}-{trained(name)}-{seed}" / "test.npz") for name in names]
    labels, users = runs[1]["labels"], runs[1]["users"]
    assert (runs[0]["labels"] == labels).all()
    logits = [one[name] for one, name in zip(runs, names, strict=True)]
    order = np.argsort(users, kind="stable")
    _, starts, sizes = np.unique(users[order], return_index=True, return_counts=True)
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = random.integers(0, len(starts), len(starts))
        rows = order[np.concatenate([np.arange(starts[c], starts[c] + sizes[c]) for c in chosen])]
        first, second = (auc(labels[rows], one[rows]) for one in logits)
        drawn.append(second - first)
    return float(np.std(drawn, ddof=1))


def base_of(system: str) -> str:
    """The bare backbone of a system."""
    return system.split("+")[0]


def corrected_name(system: str) -> str:
    """The system of the same trained model, corrected."""
    return f"{system}-corrected" if "+" in system else f"{system}+corrected"


def trained(system: str) -> str:
    """The system whose training a system is, with or without the correction."""
    return system.removesuffix("-corrected").removesuffix("+corrected")


def compared_with(system: str) -> str:
    """The bare backbone; where the system is corrected, the bare one is too."""
    base = base_of(system)
    return corrected_name(base) if trained(system) not in (system, base) else base


def gaps(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every form against what it is compared with: mean AUC difference over paired seeds, with a 95 % interval.

    Test users are the same in all seeds, so their variance does not shrink with seeds; that of training does. The
    interval of a single seed is of users alone: what another training would give, it does not say.
    """
    aucs = {run_key(row): row["metrics"]["auc"] for row in rows}
    found = []
    for dataset, system in dict.fromkeys((row["dataset"], row["system"]) for row in rows):
        base = compared_with(system)
        here = [row for row in rows if (row["dataset"], row["system"]) == (dataset, system)]
        here = [row for row in here if (dataset, base, row["seed"]) in aucs]
        if system == base or not here:
            continue
        before = [aucs[dataset, base, row["seed"]] for row in here]
        after = [row["metrics"]["auc"] for row in here]
        each = [two - one for one, two in zip(before, after, strict=True)]
        of_users = statistics.mean(row["standard_error"] ** 2 for row in here)
        of_seeds = statistics.variance(each) / len(each) if len(each) > 1 else 0.0
        reach = quantile(of_users, of_seeds, len(each)) * (of_users + of_seeds) ** 0.5
        difference, first, second = (statistics.mean(values) for values in (each, before, after))
        found.append(
            {
                "dataset": dataset,
                "system": system,
                "against": base,
                "seeds": len(here),
                "difference": difference,
                "low": difference - reach,
                "high": difference + reach,
                "ri": second / first - 1,
                "ri_above_half": (second - 0.5) / (first - 0.5) - 1,
            }
        )
    return found


def quantile(of_users: float, of_seeds: float, seeds: int) -> float:
    """How many standard errors a 95 % interval reaches: Student's t, its degrees of freedom by Satterthwaite.

    The variance of a mean is a sum of two estimates: ``of_users`` rests on hundreds of users, as good as known, and
    ``of_seeds`` on a few seeds, whose spread may be far from the true one: seeds - 1 degrees of freedom. Where seeds
    are alike by chance, that cannot be seen: by simulation, 95 % are 87 to 95 of two seeds, 92 to 95 of three.
    """
    freedom = (seeds - 1) * ((of_users + of_seeds) / of_seeds) ** 2 if of_seeds else np.inf
    return float(stats.t.ppf(0.975, freedom))


def interval(pair: Mapping[str, Any]) -> str:
    """In words, with a mark where it is of users alone."""
    return "{low:+.4f} to {high:+.4f}".format(**pair) + (", users alone" if pair["seeds"] == 1 else "")


def counts_of_gains(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a data set and form: on how many backbones it gains, and how sure that is."""
    lines = [
        "| data set | form | backbones | gain | interval above 0, several seeds | of users alone above 0, one seed "
        "| median gain |",
        "|---" * 7 + "|",
    ]
    neural = [pair for pair in pairs if base_of(pair["system"]) != "lightgbm"]
    for dataset in DATASETS:
        for form in ("+plain", "+rar", "+rar-plus", "+corrected", "+rar-corrected", "+rar-plus-corrected"):
            here = [p for p in neural if p["dataset"] == dataset and p["system"] == base_of(p["system"]) + form]
            if not here:
                continue
            cells = [f"{len(here)}", f"{sum(p['difference'] > 0 for p in here)}"]
            for some in ([p for p in here if p["seeds"] > 1], [p for p in here if p["seeds"] == 1]):
                cells.append(f"{sum(p['low'] > 0 for p in some)} of {len(some)}" if some else "-")
            median = statistics.median(p["difference"] for p in here)
            lines.append(f"| {dataset} | {form[1:]} | {' | '.join(cells)} | {median:+.4f} |")
    return lines


def with_error(place: Path) -> Row:
    """The row of a finished run; resampling takes a while, so its outcome is written into the row."""
    row = json.loads(place.read_text(encoding="utf-8"))
    if row["system"] != base_of(row["system"]) and "standard_error" not in row:
        row["standard_error"] = standard_error(place.parent.parent, row)
        write_text(place, json.dumps(row))
    return row


def write_pages(folder: Path) -> None:
    """docs/results/rar.json and rar.md from all runs finished here and what was published before."""
    made = sorted((*folder.glob("*/row.json"), *folder.glob("*/corrected.json")))
    rows = with_published("rar", [with_error(path) for path in made])
    order = [f"lightgbm{v}" for v in GBDT]
    for backbone in BACKBONES:
        names = [f"{backbone}{form}" for form in (*VARIANTS, *CONTROLS, *SWEEPS)]
        order += [*names, *(corrected_name(name) for name in names)]
    rows.sort(key=lambda row: (list(DATASETS).index(row["dataset"]), order.index(row["system"]), row["seed"]))
    pairs = gaps(rows)
    shown = [*table(rows, COLUMNS), "", "## AUC against the bare backbone, paired seeds", ""]
    shown += [
        "RI: AUC / bare - 1, and (AUC - .5) / (bare - .5) - 1. Interval: the variance over test users (bootstrap) and "
        "that of the mean over seeds, added; Student's t, its degrees of freedom by Satterthwaite, as the spread of a "
        "few seeds is known but roughly (by simulation, intervals of two seeds hold 87 to 95 % of the time, of three "
        "92 to 95). *Users alone*: one seed, so the interval is of other users, not of another "
        "training, and too narrow for a verdict.",
        "",
    ]
    shown += ["| data set | system | seeds | difference | 95 % interval | RI | RI above .5 |", "|---" * 7 + "|"]
    for pair in pairs:
        shown.append(
            "| {dataset} | {system} | {seeds} | {difference:+.4f} | {between} | {ri:+.2%} "
            "| {ri_above_half:+.2%} |".format(between=interval(pair), **pair)
        )
    shown += ["", "## How many backbones gain", "", *counts_of_gains(pairs)]
    protocol = {"recipe": RECIPE, "threads": 1, "comparisons": pairs}
    write_results("rar", rows, protocol, shown)
    fill_readme("rar", readme_table(rows, pairs))
    print("\n".join(shown))


def readme_table(rows: Sequence[Row], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first data set: each backbone bare and with what RAR adds."""
    dataset = next(iter(DATASETS))
    lines = ["| ml-100k, time cut | AUC | gAUC | + rar | + rar-plus, 95 % interval |", "|---|---|---|---|---|"]
    gains = {pair["system"]: pair for pair in pairs if pair["dataset"] == dataset}
    for backbone in ("lightgbm", *BACKBONES):
        here = [row["metrics"] for row in rows if row["dataset"] == dataset and row["system"] == backbone]
        if not here:
            continue
        values = [statistics.mean(metrics[name] for metrics in here) for name in ("auc", "gauc")]
        cells = [f"{value:.4f}" for value in values]
        plain, plus = (gains.get(f"{backbone}{form}") for form in ("+rar", "+rar-plus"))
        cells.append(f"{plain['difference']:+.4f}" if plain else "-")
        cells.append(f"{plus['difference']:+.4f} ({interval(plus)})" if plus else "-")
        lines.append(f"| {backbone} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Runs what is missing and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--backbones", nargs="+", choices=("lightgbm", *BACKBONES), default=["lightgbm", *BACKBONES])
    parser.add_argument("--forms", nargs="+", help="for example +rar-plus; by default all that the data set has")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--sweeps", action="store_true", help="where controls run, one knob at a time too")
    parser.add_argument("--tune", action="store_true", help="try every bare backbone's trials, choose by validation")
    parser.add_argument("--coverage", action="store_true", help="print how many rows have neighbours; trains nothing")
    parser.add_argument("--page", action="store_true", help="write the pages from the finished runs, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tune:
        tune([backbone for backbone in arguments.backbones if backbone != "lightgbm"], arguments.runs)
        return
    if arguments.coverage:
        print_coverage(arguments.datasets)
        return
    if arguments.page:
        write_pages(arguments.runs)
        return
    known = {run_key(row) for row in published("rar")["rows"]}
    for dataset in arguments.datasets:
        data = DATASETS[dataset]
        # One seed of everything first: a table without gaps exists early.
        for seed in arguments.seeds or range(data.seeds):
            for backbone in arguments.backbones:
                forms = GBDT if backbone == "lightgbm" else dict(VARIANTS)
                if backbone in data.controls and seed < 3:
                    forms |= {**CONTROLS, **(SWEEPS if arguments.sweeps else {})}
                if backbone not in ("lightgbm", *data.backbones):
                    continue
                for form, more in forms.items():
                    if (arguments.forms and form not in arguments.forms) or (dataset, backbone + form, seed) in known:
                        continue
                    if form:  # it is compared with the bare one's logits, which are not published
                        run(dataset, backbone, seed, arguments.runs, AS_OF)
                    row = run(dataset, backbone + form, seed, arguments.runs, more)
                    shown = {name: round(row["metrics"][name], 4) for name in COLUMNS if name in row["metrics"]}
                    print(dataset, backbone + form, seed, shown, flush=True)
    write_pages(arguments.runs)


if __name__ == "__main__":
    main()
