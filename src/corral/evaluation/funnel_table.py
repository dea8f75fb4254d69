"""The funnel as a table: each stage, what is served, the ceiling and the oracle bounds. Data, no printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corral.data.html_table import html_table
from corral.evaluation.result import Evaluation, Stage


@dataclass(frozen=True)
class FunnelRow:
    """One line of the table.

    Attributes:
        name: "retriever", "ranker", "fused", "served", "ceiling", "oracle ranker" or "oracle retriever".
        meaning: what the line says, in a few words.
        values: one number a column; None where the line has none.
    """

    name: str
    meaning: str
    values: dict[str, float | None]


def funnel_columns(evaluation: Evaluation, cutoffs: Sequence[int] = (10, 20)) -> list[str]:
    """Names of the columns: list metrics at ``cutoffs``, then recall of longer lists and candidates."""
    names = [f"{metric}@{k}" for k in cutoffs for metric in ("ndcg", "recall", "mrr", "map")]
    prefix = f"{Stage.RETRIEVER}/recall@"
    deep = {int(name.removeprefix(prefix)) for name in evaluation.metrics if name.startswith(prefix)}
    deep = {k for k in deep if k > max(cutoffs)} | {evaluation.num_candidates}
    names += [f"recall@{k}" for k in sorted(deep) if k not in cutoffs]
    return [name for name in names if f"{Stage.RETRIEVER}/{name}" in evaluation.metrics]


def funnel_table(evaluation: Evaluation, cutoffs: Sequence[int] = (10, 20)) -> list[FunnelRow]:
    """The lines, stage 1 first; a line that was not measured is not there.

    Args:
        evaluation: what was measured.
        cutoffs: k of the list metrics shown.

    Returns:
        Lines whose ``values`` all have the columns of :func:`funnel_columns`, in that order.
    """
    metrics, n = evaluation.metrics, evaluation.num_candidates
    columns, served = funnel_columns(evaluation, cutoffs), evaluation.served.value
    lines = [
        ("retriever", f"{Stage.RETRIEVER}/", "stage 1 alone"),
        ("ranker", f"{Stage.RANKER}/", f"stage 2 re-orders the {n} candidates"),
        ("fused", f"{Stage.FUSED}/", f"both scores mixed, weight {evaluation.system.get('mixture_weight')}"),
        ("served", "", f"what users would see: the list of {served}"),
        ("oracle ranker", "oracle-ranker/", f"perfect order of the {n} candidates"),
        ("oracle retriever", "oracle-retriever/", "the ranker's order, had stage 1 missed nothing"),
    ]
    rows = [
        FunnelRow(name, meaning, {column: metrics.get(prefix + column) for column in columns})
        for name, prefix, meaning in lines
        if any(prefix + column in metrics for column in columns)
    ]
    ceiling: dict[str, float | None] = dict.fromkeys(columns)
    ceiling[f"recall@{n}"] = metrics[f"{Stage.RETRIEVER}/recall@{n}"]
    bound = FunnelRow("ceiling", f"no list of {n} candidates can have a higher recall", ceiling)
    place = next(index for index, row in enumerate(rows) if row.name == "served") + 1
    return [*rows[:place], bound, *rows[place:]]


def funnel_html(evaluation: Evaluation) -> str:
    """The main columns of the table and the protocol, for a notebook."""
    rows = funnel_table(evaluation, (10,))
    wanted = ("ndcg@10", "recall@10", "mrr@10", f"recall@{evaluation.num_candidates}")
    columns: dict[str, Sequence[object]] = {"": [row.name for row in rows]}
    shown = [name for name in funnel_columns(evaluation, (10,)) if name in wanted]
    columns |= {name: [row.values[name] for row in rows] for name in shown}
    columns["meaning"] = [row.meaning for row in rows]
    protocol = "; ".join(f"{name} {value}" for name, value in evaluation.protocol.items())
    return html_table(repr(evaluation), columns, notes=[f"Protocol: {protocol}"])
