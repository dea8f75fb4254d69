"""Both papers at once against their parts and the peers: who makes the best list, and how sure that is.

Puts together what two other benchmarks have made; it trains nothing:

    python benchmarks/bench_corr.py
    python benchmarks/bench_peers.py
    python benchmarks/bench_funnel.py

Needs CORRAL_DATA (to judge the peers' lists again). Writes docs/results/funnel.json and funnel.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from bench_corr import RUNS as CORR_RUNS
from bench_corr import SYSTEMS as CORR_SYSTEMS
from bench_peers import RUNS as PEER_RUNS
from bench_peers import experiment_of
from peer_judge import judge_lists
from peer_systems import DATASETS
from results import Row, table, write_results

from corral.evaluation.result import Evaluation, differing_rules
from corral.evaluation.significance import compare

OURS = "corr-rar"
WHOLE = (
    "corr-rar",
    "corr",
    "two-stage",
    "independent-softmax",
    "independent-midx",
    "lightgbm",
    "retriever-full-softmax",
)
CONTROLS = tuple(name for name in CORR_SYSTEMS if name.startswith("corr-rar-"))
COLUMNS = ("ndcg@10", "recall@10", "retriever/recall@100", "catalogue/auc")


def own_rows(folder: Path) -> list[Row]:
    """Finished rows of our systems."""
    rows = []
    for dataset in DATASETS:
        for system in (*WHOLE, *CONTROLS):
            for path in sorted(folder.glob(f"{dataset}-{system}-[0-9]*/row.json")):
                rows.append(json.loads(path.read_text(encoding="utf-8")))
    return rows


def peer_rows(folder: Path) -> list[Row]:
    """Finished lists of the peers, epochs not bounded; ours on that page are other sizes, and left out."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*/row.json"))]
    return [
        row
        for row in rows
        if "ndcg@10" in row["metrics"]
        and not row["system"].startswith("corral/")
        and row["settings"]["epochs"] >= DATASETS[row["dataset"]].settings["epochs"]
    ]


@cache
def evaluation(dataset: str, system: str, seed: int, corr: Path, peers: Path) -> Evaluation:
    """What a system earned, query by query."""
    if "/" not in system:
        return Evaluation.open(corr / f"{dataset}-{system}-{seed}" / "evaluation")
    answers = np.load(peers / dataset / f"{system.replace('/', '-')}-{seed}" / "answers.npy", allow_pickle=False)
    with tempfile.TemporaryDirectory() as place:
        return judge_lists(experiment_of(dataset, seed, Path(place)), answers)


def comparisons(rows: Sequence[Row], corr: Path, peers: Path) -> list[dict[str, Any]]:
    """Paired bootstrap over users of corr-rar against every other system, over the seeds both have."""
    found = []
    for dataset in DATASETS:
        here = [row for row in rows if row["dataset"] == dataset]
        mine = {row["seed"] for row in here if row["system"] == OURS}
        for system in dict.fromkeys(row["system"] for row in here if row["system"] != OURS):
            seeds = sorted(mine & {row["seed"] for row in here if row["system"] == system})
            if not seeds:
                continue
            first, second = (
                [evaluation(dataset, name, seed, corr, peers) for seed in seeds] for name in (system, OURS)
            )
            if rules := differing_rules(first[0].protocol, second[0].protocol):
                raise SystemExit(f"{dataset}: {system} and {OURS} were judged by other rules: {', '.join(rules)}")
            gap = compare(first, second)
            gain = gap.second / gap.first - 1
            found.append(
                {
                    "dataset": dataset,
                    "system": OURS,
                    "against": system,
                    "seeds": len(seeds),
                    "gain": gain,
                    "difference": gap.difference,
                    "low": gap.low,
                    "high": gap.high,
                }
            )
    return found


def goal_lines(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """3 % above corr; 10 % above the best peer, 3 % on ml-1m."""
    lines = []
    for dataset in dict.fromkeys(pair["dataset"] for pair in pairs):
        here = {pair["against"]: pair["gain"] for pair in pairs if pair["dataset"] == dataset}
        peers = {name: gain for name, gain in here.items() if "/" in name}
        asked = [("corr", 0.03)] if "corr" in here else []
        asked += [(min(peers, key=lambda name: peers[name]), 0.03 if dataset == "ml-1m" else 0.1)] if peers else []
        for name, goal in asked:
            verdict = "met" if here[name] >= goal else "**missed**"
            lines.append(f"- {dataset}: at least {goal:.0%} above {name}: {here[name]:+.1%}: {verdict}.")
    return lines


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corr", type=Path, default=CORR_RUNS, help="runs of bench_corr.py")
    parser.add_argument("--peers", type=Path, default=PEER_RUNS, help="runs of bench_peers.py")
    arguments = parser.parse_args()
    rows = [*own_rows(arguments.corr), *peer_rows(arguments.peers)]
    if not rows:
        raise SystemExit(f"nothing in {arguments.corr} and {arguments.peers}: run bench_corr.py and bench_peers.py")
    pairs = comparisons(rows, arguments.corr, arguments.peers)
    shown = ["## Goals", "", *goal_lines(pairs), "", "## Systems", "", *table(rows, COLUMNS), ""]
    shown += [
        "catalogue/auc: of the clicked item against all unseen ones, candidates first. Peers are not tuned (peers.md).",
        "",
    ]
    shown += [f"## {OURS} against each, paired bootstrap over users, nDCG@10", ""]
    shown += ["| data set | against | seeds | gain | difference | 95 % interval |", "|---" * 6 + "|"]
    for pair in pairs:
        shown.append(
            "| {dataset} | {against} | {seeds} | {gain:+.1%} | {difference:+.4f} | {low:+.4f} to {high:+.4f} |".format(
                **pair
            )
        )
    write_results("funnel", rows, {"comparisons": pairs}, shown, command="python benchmarks/bench_funnel.py")
    print("\n".join(shown))


if __name__ == "__main__":
    main()
