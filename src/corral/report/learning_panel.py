"""Panel: how each stage learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.report import charts
from corral.report.blocks import Block, Chart, Heading, Mark, Panel, Paragraph, Row, SideBySide, Table
from corral.report.number_text import count, decimal, seconds

TITLES = {"retriever": "Stage 1, retriever", "ranker": "Stage 2, ranker", "together": "Both stages together"}
NO_METRIC = ("epoch", "step", "seconds")


def learning_panel(
    logs: Mapping[str, Sequence[Mapping[str, float]]],
    watched: Mapping[str, str],
    epochs: Mapping[str, float] | None = None,
) -> Panel:
    """Loss and validation metrics by epoch, the chosen epoch marked.

    Args:
        logs: one record an epoch, by stage.
        watched: the metric that chose the epoch, by stage.
        epochs: what a retriever that trained with its ranker would be worth with its last epoch's weights; None or
            empty: not tried.
    """
    blocks: list[Block] = []
    for stage, records in logs.items():
        blocks.append(Heading(TITLES.get(stage, stage)))
        blocks += (
            _stage(stage, records, watched.get(stage)) if records else [Paragraph("No epoch was finished.", Mark.NOTE)]
        )
    if epochs:
        best, later = epochs["best epoch"], epochs["retriever of the last"]
        kept = "It kept them." if epochs["used"] else "It did not keep them."
        note = f"With the retriever's weights of the last epoch it is {decimal(later)}, not {decimal(best)}. {kept}"
        blocks.append(Paragraph(note, Mark.NOTE))
    if not logs:
        blocks.append(Paragraph("Nothing was trained: this system learns nothing by steps.", Mark.NOTE))
    return Panel("learning", "Learning curves", blocks)


def _stage(stage: str, records: Sequence[Mapping[str, float]], watched: str | None) -> list[Block]:
    # Of all epochs: a part of the loss may come in later.
    logged = list(dict.fromkeys(name for record in records for name in record))
    losses = [name for name in logged if name.startswith("loss/")]
    # A lone part of the loss is the total.
    if len(losses) == 2 and "loss/total" in losses:
        losses = ["loss/total"]
    metrics = [name for name in logged if name not in NO_METRIC and not name.startswith(("loss/", "rar/"))]
    best = None
    judged = [record for record in records if watched is not None and record.get(watched) is not None]
    if watched is not None and judged:
        best = max(judged, key=lambda record: record[watched])
    note = None if best is None else (best["epoch"] + 1, "chosen")
    graphs = []
    for kind, names, title in (
        ("loss", losses, "Training loss"),
        ("metrics", _drawn(metrics, watched), "Validation metrics"),
    ):
        points = [
            {"epoch": record["epoch"] + 1, "value": float(record[name]), "name": name.removeprefix("loss/")}
            for name in names
            for record in records
            if record.get(name) is not None
        ]
        if points:
            label = f"{title} of the {stage} over {len(records)} epochs. " + _ends(points)
            spec = charts.lines(
                points,
                "epoch",
                "value",
                "name",
                label=label,
                x_title="epoch",
                y_title=title.lower(),
                whole_x=True,
                reference=note,
            )
            graphs.append(Chart(f"{stage}-{kind}", f"{title}, {stage}", label, spec))
    blocks: list[Block] = [SideBySide(graphs)] if graphs else []
    names = [*losses, *metrics]
    rows = [
        Row(
            (
                count(record["epoch"] + 1) + (" (chosen)" if record is best else ""),
                *(decimal(record.get(name)) for name in names),
                seconds(record.get("seconds")),
            ),
            Mark.STRONG if record is best else Mark.NONE,
        )
        for record in records
    ]
    blocks.append(Table(f"Epochs of the {stage}", ("epoch", *names, "time"), rows))
    if watched is not None:
        blocks.append(Paragraph(f"The weights with the best validation {watched} are kept.", Mark.NOTE))
    return blocks


def _drawn(metrics: Sequence[str], watched: str | None) -> list[str]:
    """At most five lines in one chart, the watched one first; what only says of how many users it is stays in
    the table.
    """
    kept = [name for name in metrics if "coverage" not in name]
    return sorted(kept, key=lambda name: name != watched)[:5]


def _ends(rows: Sequence[Mapping[str, object]]) -> str:
    words = []
    for name in dict.fromkeys(str(row["name"]) for row in rows):
        values = [float(str(row["value"])) for row in rows if row["name"] == name]
        words.append(f"{name}: from {decimal(values[0])} to {decimal(values[-1])}.")
    return " ".join(words)
