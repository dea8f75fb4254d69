"""What a result looks like in a terminal, and as JSON: the funnel, its protocol, lists, a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from corral.evaluation.comparison import Comparison
from corral.evaluation.funnel_table import funnel_columns, funnel_table
from corral.evaluation.result import Evaluation


def metric_values(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN: metrics that do not exist are null."""
    return {name: None if value != value else value for name, value in metrics.items()}


def evaluation_json(evaluation: Evaluation) -> str:
    """Metrics, protocol and system as JSON."""
    found = {
        "metrics": metric_values(evaluation.metrics),
        "protocol": evaluation.protocol,
        "system": evaluation.system,
    }
    return json.dumps(found, indent=1)


def comparison_values(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON values.

    Returns:
        ``differences``: the fields of ``PairedDifference`` by system and metric; ``not_comparable``: the rules that
        differ, by system, where there are any.
    """
    differences = [
        {"system": system, "against": found.first, "metric": metric, **asdict(pair)}
        for (system, metric), pair in found.differences.items()
    ]
    return {"differences": differences, "not_comparable": found.strange}


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """The funnel table (its main columns: the report has all), and the protocol it was judged by."""
    wanted = ("ndcg@10", "recall@10", "mrr@10", f"recall@{evaluation.num_candidates}")
    columns = [column for column in funnel_columns(evaluation, (10,)) if column in wanted]
    table = Table(title="The funnel", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in funnel_table(evaluation, (10,)):
        values = [row.values.get(column) for column in columns]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        table.add_row(row.name, *cells, style="bold" if row.name == "served" else None)
    console.print(table)
    for row in funnel_table(evaluation, (10,)):
        console.print(f"  {row.name}: {escape(row.meaning)}", style="dim", highlight=False)
    clicks = {name: value for name, value in evaluation.metrics.items() if name.startswith("click/")}
    if clicks:
        console.print("Clicks: " + ", ".join(f"{name[6:]} {value:.4f}" for name, value in clicks.items()))
    console.print("Protocol: " + escape("; ".join(f"{k} {v}" for k, v in evaluation.protocol.items())), style="dim")


def show_list(
    title: str, ids: Sequence[Any], columns: Mapping[str, Sequence[float]], titles: Mapping[Any, str], console: Console
) -> None:
    """One ranked list, with the items' titles where there are any.

    Args:
        title: above the table.
        ids: external ids, best first; None = no more.
        columns: scores of the ids, by the name of their column.
        titles: of items, by external id.
        console: where to.
    """
    table = Table(title=escape(title), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("item")
    table.add_column("title")
    for name in columns:
        table.add_column(name, justify="right")
    for place, (item, *scores) in enumerate(zip(ids, *columns.values(), strict=True), 1):
        if item is not None:
            cells = ["-" if score != score else f"{score:.4f}" for score in scores]
            table.add_row(str(place), escape(str(item)), escape(titles.get(item, "")), *cells)
    console.print(table)
