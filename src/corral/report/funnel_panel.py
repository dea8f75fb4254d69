"""Panels: the funnel with its ceiling, and what each stage loses."""

from __future__ import annotations

import numpy as np

from corral.evaluation.fates import TOP, fates
from corral.evaluation.funnel_table import funnel_columns, funnel_table
from corral.evaluation.result import Evaluation, Stage
from corral.evaluation.slices import ITEM_GROUPS
from corral.report import charts
from corral.report.blocks import Block, Chart, Figure, Figures, Mark, Panel, Paragraph, Row, Table
from corral.report.number_text import count, decimal, percent

CURVE_POINTS = 200


def protocol_line(evaluation: Evaluation) -> str:
    """How the numbers beside it came about, in a sentence."""
    rules = evaluation.protocol
    part = f"{rules['part']} part, " if "part" in rules else ""
    split = f", split {rules['split']}" if "split" in rules else ""
    size = rules.get("catalogue_size")
    catalogue = f" of {count(int(str(size)))} items" if size is not None else ""
    targets = count(len(evaluation.targets["item"]))
    text = (
        f"{part}{count(len(evaluation))} queries with {targets} targets{split}; "
        f"the full catalogue{catalogue} judged, no sampled negatives. The whole protocol is under Protocol."
    )
    return text[0].upper() + text[1:]


def summary_panel(evaluation: Evaluation) -> Panel:
    """The numbers to look at first."""
    metrics, n = evaluation.metrics, evaluation.num_candidates
    ceiling = metrics.get(f"retriever/recall@{n}")
    figures = []
    for name, words in (
        ("ndcg@10", "nDCG@10"),
        ("recall@10", "Recall@10"),
        ("mrr@10", "MRR@10"),
    ):
        if name in metrics:
            alone = metrics.get(f"retriever/{name}")
            detail = f"stage 1 alone: {decimal(alone)}" if evaluation.served is not Stage.RETRIEVER else "served list"
            figures.append(Figure(words, decimal(metrics[name]), detail))
    figures.append(Figure(f"Ceiling, recall@{n}", decimal(ceiling), f"of stage 1's {n} candidates"))
    for name, words in (("coverage@10", "Coverage@10"), ("click/auc", "AUC of clicks")):
        if name in metrics:
            figures.append(
                Figure(words, decimal(metrics[name]), "share of the catalogue shown" if "cov" in name else "")
            )
    weight = evaluation.system.get("mixture_weight")
    served = {
        Stage.RETRIEVER: "Served is the order of stage 1 (the retriever).",
        Stage.RANKER: "Served is the order of stage 2 (the ranker).",
        Stage.FUSED: f"Served is a mixture of both stages' scores; the ranker's weight, tuned, is {weight}.",
    }[evaluation.served]
    return Panel("summary", "Summary", [Figures(figures), Paragraph(f"{served} {protocol_line(evaluation)}")])


def recall_curve(evaluation: Evaluation) -> np.ndarray:
    """Mean recall@k of stage 1 [T] for k = 1..T, T the longest list it was judged by."""
    judged, per_query = evaluation.targets, evaluation.queries["targets"]
    prefix = f"{Stage.RETRIEVER}/recall@"
    depth = max(int(name.removeprefix(prefix)) for name in evaluation.metrics if name.startswith(prefix))
    rank = judged["retriever"]
    found = (rank > 0) & (rank <= depth)
    weight = 1.0 / per_query[judged["query"][found]]
    return np.cumsum(np.bincount(rank[found], weight, minlength=depth + 1)[1:]) / len(evaluation)


def funnel_panel(evaluation: Evaluation) -> Panel:
    """The table of stages, ceiling and oracles, and recall of stage 1 against the length of its list."""
    columns, n = funnel_columns(evaluation), evaluation.num_candidates
    marks = {
        "served": Mark.STRONG,
        "ceiling": Mark.BOUND,
        "oracle ranker": Mark.BOUND,
        "oracle retriever": Mark.BOUND,
    }
    rows = [
        Row(
            (
                (row.name, row.meaning),
                *("" if row.values[name] is None else decimal(row.values[name]) for name in columns),
            ),
            marks.get(row.name, Mark.NONE),
        )
        for row in funnel_table(evaluation)
    ]
    curve = recall_curve(evaluation)
    places = np.unique(np.geomspace(1, len(curve), CURVE_POINTS).round().astype(int))
    label = (
        f"Recall of stage 1 rises with the length k of its list: {decimal(float(curve[0]))} at 1, "
        f"{decimal(float(curve[min(n, len(curve)) - 1]))} at the {n} candidates that stage 2 sees, "
        f"{decimal(float(curve[-1]))} at {len(curve)}."
    )
    spec = charts.lines(
        [{"k": int(k), "recall": float(curve[k - 1])} for k in places],
        "k",
        "recall",
        label=label,
        x_title="k, length of stage 1's list",
        y_title="recall@k",
        points=False,
        reference=(n, f"{n} candidates: {decimal(float(curve[min(n, len(curve)) - 1]), 3)}"),
    )
    return Panel(
        "funnel",
        "The funnel",
        [
            Paragraph(protocol_line(evaluation), Mark.NOTE),
            Table("Each stage, what is served, and the bounds", ("list", *columns), rows),
            Chart("recall-by-k", "Recall of stage 1 against the length of its list", label, spec),
            Paragraph(
                "What lies right of the line is lost to stage 2, however good it is: more candidates raise "
                "the ceiling and cost ranking time.",
                Mark.NOTE,
            ),
        ],
    )


def losses_panel(evaluation: Evaluation) -> Panel:
    """Where the targets went: missed by stage 1, lost in the order, found in the first ten."""
    what = fates(evaluation)
    names = {
        f"found in the first {TOP}": what.found,
        "candidate, but further down": what.lost,
        "missed by stage 1": what.missed,
    }
    groups = {"all targets": np.ones(len(what.found), dtype=bool)}
    groups |= {f"{name} items": evaluation.targets["group"] == group for group, name in ITEM_GROUPS.items()}
    rows, bars = [], []
    for name, mask in groups.items():
        size = int(mask.sum())
        if size:
            found = [int((fate & mask).sum()) for fate in names.values()]
            rows.append(Row((name, count(size), *(f"{count(part)} ({percent(part / size)})" for part in found))))
            bars += [{"of": name, "what": fate, "share": part / size} for fate, part in zip(names, found, strict=True)]
    label = "What became of the targets. " + " ".join(
        f"{bar['what']}: {percent(float(str(bar['share'])))}." for bar in bars[: len(names)]
    )
    spec = charts.bars(
        bars,
        "of",
        "share",
        "what",
        label=label,
        value_title="share of the targets",
        stacked=True,
        percent=True,
    )
    blocks: list[Block] = [
        Chart("losses", "What each stage loses", label, spec),
        Table("What became of the targets", ("targets", "number", *names), rows),
    ]
    if evaluation.served is not Stage.RETRIEVER:
        stayed = int(what.found.sum()) - int(what.promoted.sum())
        blocks.append(
            Paragraph(
                f"Stage 2 brought {count(int(what.promoted.sum()))} targets into the first {TOP} that "
                f"stage 1 had further down, and pushed out {count(int(what.demoted.sum()))}; {count(stayed)} stayed."
            )
        )
    blocks.append(
        Paragraph("Head, mid and tail items each got a third of the train events; cold items none.", Mark.NOTE)
    )
    return Panel("losses", "What each stage loses", blocks)
