"""Both papers at once against their parts and the peers: who makes the best list, and how sure that is.

Puts together what two other benchmarks have made; it trains nothing:

    python benchmarks/bench_corr.py
    python benchmarks/bench_peers.py
    python benchmarks/bench_funnel.py

Reads docs/results/corr.json, peers.json and the outcomes beside them. Writes docs/results/funnel.json and funnel.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from corr_systems import SYSTEMS as CORR_SYSTEMS
from outcomes import comparison
from peer_systems import DATASETS
from results import Row, published, table, write_results

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
SHOWN = WHOLE + tuple(name for name in CORR_SYSTEMS if name.startswith("corr-rar-"))
COLUMNS = ("ndcg@10", "recall@10", "retriever/recall@100", "catalogue/auc")


def own_rows() -> list[Row]:
    """Published rows of our systems."""
    order = list(DATASETS)
    rows = [row for row in published("corr")["rows"] if row["system"] in SHOWN and row["dataset"] in order]
    return sorted(rows, key=lambda row: (order.index(row["dataset"]), SHOWN.index(row["system"]), row["seed"]))


def peer_rows() -> list[Row]:
    """Published lists of the peers, epochs not bounded; ours on that page are other sizes, and left out."""
    return [
        row
        for row in published("peers")["rows"]
        if "ndcg@10" in row["metrics"]
        and not row["system"].startswith("corral/")
        and row["settings"]["epochs"] >= DATASETS[row["dataset"]].settings["epochs"]
    ]


def comparisons(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """corr-rar against every other system."""
    before = published("funnel")["protocol"].get("comparisons", ())
    found = []
    for dataset in DATASETS:
        here = [row for row in rows if row["dataset"] == dataset]
        ours = [row for row in here if row["system"] == OURS]
        for system in dict.fromkeys(row["system"] for row in here if row["system"] != OURS):
            theirs = [row for row in here if row["system"] == system]
            if (pair := comparison(theirs, ours, before)) is not None:
                found.append(pair)
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
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [*own_rows(), *peer_rows()]
    pairs = comparisons(rows)
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
    write_results("funnel", rows, {"comparisons": pairs}, shown)
    print("\n".join(shown))


if __name__ == "__main__":
    main()
