"""Panels: parts of the users and items, and what the lists are made of."""

from __future__ import annotations

from corral.evaluation.result import Evaluation
from corral.evaluation.slices import slices
from corral.report import charts
from corral.report.blocks import Block, Chart, Heading, Mark, Panel, Paragraph, Row, SideBySide, Table
from corral.report.number_text import count, decimal

K = 10
TITLES = {
    "history length": "Users by how many events they had before",
    "user": "Cold users (nothing known before) and known ones",
    "item popularity": "Targets by popularity of the item",
}
MEANINGS = {
    f"coverage@{K}": "share of the catalogue that stands in at least one list",
    f"gini@{K}": "concentration of the exposures: 0 all items equally often, near 1 all lists alike",
    f"novelty@{K}": "mean surprise of the items shown, in bits: popular items have little",
    f"popularity@{K}": "mean popularity percentile of the items shown",
    "history_popularity": "mean popularity percentile of what the users had before (their last 200 events)",
    f"popularity_bias@{K}": "the difference: above 0, lists are more popular than the users' own taste",
}


def slices_panel(evaluation: Evaluation) -> Panel:
    """The served list and the ceiling for users of different activity and items of different popularity."""
    found = slices(evaluation, K)
    ceiling = f"retriever/recall@{evaluation.num_candidates}"
    blocks: list[Block] = []
    for by in dict.fromkeys(part.by for part in found):
        parts = [part for part in found if part.by == by]
        names = list(parts[0].metrics)
        shown = [f"ceiling, recall@{evaluation.num_candidates}" if name == ceiling else name for name in names]
        title = TITLES.get(by, by)
        bars = [
            {"part": f"{part.name}", "metric": words, "value": part.metrics[name]}
            for part in parts
            for name, words in zip(names, shown, strict=True)
        ]
        label = f"{title}, mean {', '.join(shown)}. " + " ".join(
            f"{part.name}: {', '.join(decimal(part.metrics[name], 3) for name in names)}." for part in parts
        )
        spec = charts.bars(bars, "part", "value", "metric", label=label, value_title="mean")
        chart = Chart(f"slices-{by.replace(' ', '-')}", "Means", label, spec)
        number = "targets" if by == "item popularity" else "queries"
        rows = [Row((part.name, count(part.count), *(decimal(part.metrics[name]) for name in names))) for part in parts]
        table = Table("The same in numbers", (by, number, *shown), rows)
        blocks += [Heading(title), SideBySide([chart, table])]
    blocks.append(
        Paragraph(
            "Parts by users are means over queries, parts by items over targets. Small parts are noisy: "
            "look at their numbers.",
            Mark.NOTE,
        )
    )
    return Panel("slices", "Slices", blocks)


def lists_panel(evaluation: Evaluation) -> Panel:
    """Coverage, concentration, novelty and popularity bias of the served lists."""
    rows = [
        Row((name, decimal(evaluation.metrics[name]), meaning))
        for name, meaning in MEANINGS.items()
        if name in evaluation.metrics
    ]
    if not rows:
        return Panel("lists", "List quality", [Paragraph("Not measured: train counts were not given.", Mark.NOTE)])
    return Panel(
        "lists",
        "List quality",
        [
            Table(
                f"What the first {K} places are made of, whoever likes them",
                ("measure", "value", "what it is"),
                rows,
                frozenset({"what it is"}),
            ),
            Paragraph("Percentiles: share of the catalogue that is less popular, by train events.", Mark.NOTE),
        ],
    )
