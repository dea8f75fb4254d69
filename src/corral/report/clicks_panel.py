"""Panel: probabilities of a click, where the data has click labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from corral.evaluation.click_metrics import calibration_table
from corral.evaluation.result import Evaluation
from corral.report import charts
from corral.report.blocks import Block, Chart, Mark, Panel, Paragraph, Row, Table
from corral.report.number_text import count, decimal
from corral.report.run_report import ClickResults

MEANINGS = {
    "auc": "how often a click scores above a non-click",
    "gauc": "the same within each user, weighted by the user's events",
    "gauc_user_coverage": "share of the users with both labels, which gauc is of",
    "gauc_row_coverage": "share of the events that are theirs",
    "logloss": "mean negative log-likelihood, in nats",
    "calibration_error": "mean distance of predicted and actual click rate, over bins of equal size",
    "predicted_to_actual": "mean prediction / click rate: 1 is right, above 1 promises too much",
}


def clicks_panel(evaluation: Evaluation, clicks: ClickResults | None) -> Panel:
    """Metrics of the ranker's clicks, and predicted against actual click rates."""
    prefix = "click/"
    found = {name.removeprefix(prefix): value for name, value in evaluation.metrics.items() if name.startswith(prefix)}
    if clicks is None and not found:
        words = "This run has no click labels: the ranker's outputs are scores, not probabilities of a click."
        return Panel("clicks", "Clicks", [Paragraph(words, Mark.NOTE)])
    blocks: list[Block] = []
    if found:
        rows = [Row((name, decimal(value), MEANINGS.get(name, ""))) for name, value in found.items()]
        blocks.append(
            Table(
                "The ranker as a judge of clicks, test part, before calibration",
                ("metric", "value", "what it is"),
                rows,
                frozenset({"what it is"}),
            )
        )
    if clicks is not None and len(clicks.labels):
        blocks += _calibration(clicks)
    return Panel("clicks", "Clicks", blocks)


def _calibration(clicks: ClickResults) -> list[Block]:
    import altair
    import torch

    logits = torch.from_numpy(np.asarray(clicks.logits, dtype=np.float64))
    tables = {"as trained": calibration_table(clicks.labels, torch.sigmoid(logits).numpy())}
    if clicks.calibration.n_labels:
        tables["calibrated"] = calibration_table(clicks.labels, clicks.calibration(logits).numpy())
    points: list[dict[str, Any]] = [
        {"what": name, "predicted": float(predicted), "actual": float(actual), "events": int(size)}
        for name, table in tables.items()
        for predicted, actual, size in zip(table.predicted, table.actual, table.rows, strict=True)
    ]
    label = "Predicted against actual click rate in bins of equal size. " + " ".join(
        f"{name}: calibration error {decimal(table.error)}." for name, table in tables.items()
    )
    top = max(max(point["predicted"], point["actual"]) for point in points)
    low = min(min(point["predicted"], point["actual"]) for point in points)
    diagonal = altair.Chart(charts.inline([{"predicted": end, "actual": end} for end in (low, top)]))
    x = altair.X("predicted", type="quantitative", title="predicted click rate", scale=altair.Scale(zero=False))
    y = altair.Y("actual", type="quantitative", title="actual click rate", scale=altair.Scale(zero=False))
    lines = (
        altair.Chart(charts.inline(points))
        .mark_line(point=True)
        .encode(
            x,
            y,
            altair.Color("what", type="nominal", title=None, sort=list(tables)),
            tooltip=[
                altair.Tooltip("what", type="nominal"),
                altair.Tooltip("predicted", type="quantitative", format=".4f"),
                altair.Tooltip("actual", type="quantitative", format=".4f"),
                altair.Tooltip("events", type="quantitative", format=","),
            ],
        )
    )
    spec = charts.specification(
        altair.layer(diagonal.mark_line(style=charts.REFERENCE).encode(x, y), lines), label, 300
    )
    rows = [
        Row((name, decimal(table.error), decimal(table.ratio), count(len(table.rows))))
        for name, table in tables.items()
    ]
    return [
        Chart(
            "calibration",
            "Predicted against actual click rates; on the dashed line, promises are kept",
            label,
            spec,
        ),
        Table("Calibration", ("probabilities", "calibration error", "predicted / actual", "bins"), rows),
    ]
