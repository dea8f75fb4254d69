"""Panel: how alike the two stages order the candidates, and how many candidates are worth it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from corral.evaluation.result import Evaluation
from corral.report import charts
from corral.report.blocks import Block, Chart, Heading, Mark, Panel, Paragraph, Row, Table
from corral.report.number_text import count, decimal, percent, signed
from corral.report.stage_probe import BINS, StageProbe


def stages_panel(evaluation: Evaluation, probe: StageProbe | None, correction: Mapping[str, float]) -> Panel:
    """The agreement of both orders, nDCG@10 against the number of candidates, and the held-out correction."""
    if probe is None:
        return Panel("stages", "The two stages", [Paragraph("This run has one stage only.", Mark.NOTE)])
    blocks = [*_agreement(probe), *_candidates(evaluation, probe)]
    note = f"Of {count(probe.num_queries)} queries of the part, drawn by a fixed seed."
    return Panel("stages", "The two stages", [Paragraph(note, Mark.NOTE), *blocks, *_correction(correction)])


def _agreement(probe: StageProbe) -> list[Block]:
    known = probe.spearman[np.isfinite(probe.spearman)]
    low, middle, high = np.quantile(known, (0.1, 0.5, 0.9)) if len(known) else (np.nan,) * 3
    # Tenths hold alike many candidates only where a list's length is a multiple of ten.
    by_first, by_second = (np.maximum(probe.places.sum(axis, keepdims=True), 1e-12) for axis in (1, 0))
    rows_of = probe.places / by_first
    stays, jumps = float(np.trace(probe.places)), float((probe.places / by_second)[BINS // 2 :, 0].sum())
    label = (
        f"Where candidates stand by stage 1 and by stage 2, in tenths of the list: {percent(stays)} stay in their "
        f"tenth; {percent(jumps)} of stage 2's first tenth come from the lower half of stage 1's list."
    )
    names = [f"{tenth * 100 // BINS}-{(tenth + 1) * 100 // BINS} %" for tenth in range(BINS)]
    cells = [
        {"stage 1": names[first], "stage 2": names[second], "share": float(rows_of[first, second])}
        for first in range(BINS)
        for second in range(BINS)
    ]
    spec = charts.heat_map(
        cells,
        "stage 2",
        "stage 1",
        "share",
        label=label,
        x_title="place by stage 2",
        y_title="place by stage 1",
        value_title="share of the row",
        percent=True,
    )
    rows = [Row(("Spearman's correlation of the two orders", *(decimal(float(v)) for v in (low, middle, high))))]
    columns = ("of a query's candidates", "10 % of queries below", "median", "10 % above")
    return [
        Heading("How far they agree"),
        Chart("agreement", "Places of candidates by both stages; the diagonal is agreement", label, spec),
        Table("Agreement", columns, rows),
        Paragraph(
            "Two stages that always agree are one stage too many; two that never do teach each other nothing.",
            Mark.NOTE,
        ),
    ]


def _candidates(evaluation: Evaluation, probe: StageProbe) -> list[Block]:
    n = evaluation.num_candidates
    best = int(np.argmax(probe.values))
    here = probe.values[probe.counts.index(n)]
    label = (
        f"nDCG@10 of the served list against the number of candidates that stage 2 sees: {decimal(here)} at {n}, "
        f"the most, {decimal(probe.values[best])}, at {probe.counts[best]}."
    )
    spec = charts.lines(
        [{"candidates": c, "ndcg": v} for c, v in zip(probe.counts, probe.values, strict=True)],
        "candidates",
        "ndcg",
        label=label,
        x_title="candidates that stage 2 sees",
        y_title="nDCG@10, served",
        log_x=True,
        reference=(n, f"served: {n}"),
    )
    rows = [
        Row((count(c), decimal(value), decimal(ceiling)), Mark.STRONG if c == n else Mark.NONE)
        for c, value, ceiling in zip(probe.counts, probe.values, probe.ceilings, strict=True)
    ]
    return [
        Heading("How many candidates"),
        Chart("candidates", "nDCG@10 of the served list against the number of candidates", label, spec),
        Table("More and fewer candidates", ("candidates", "nDCG@10", "ceiling, recall of stage 1"), rows),
    ]


def _correction(found: Mapping[str, float]) -> list[Block]:
    if not found:
        return []
    before, after = found["before"], found["after, cross-validated"]
    rows = [
        Row(("the ranker as it was trained", decimal(before), "")),
        Row(("corrected, each half by weights of the other", decimal(after), signed(after - before))),
    ]
    note = (
        "What a ranker learns on train events makes it trust its evidence too little: it has seen the outcome of those "
        "events. A few weights, fitted on validation, put it right. "
    )
    if "likelier, nats" in found:  # runs made before the choice was by likelihood have no such number
        note += f"What the other half chose becomes likelier by {found['likelier, nats']:+.3f} nats, which decides. "
    note += f"Used; logits count {found['scale']:.2f} times." if found["used"] else "Not used: it does not help here."
    columns = ("validation", "AUC" if found.get("metric") == "auc" else "nDCG@10", "difference")
    return [
        Heading("The correction on held-out events"),
        Table("What the held-out correction gains on validation", columns, rows),
        Paragraph(note, Mark.NOTE),
    ]
