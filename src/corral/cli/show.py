"""Tables for a terminal: the funnel, its protocol, lists of recommendations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from corral.evaluation.funnel_table import funnel_columns, funnel_table
from corral.evaluation.result import Evaluation


def evaluation_json(evaluation: Evaluation) -> str:
    """Metrics, protocol and system as JSON; metrics that do not exist are null."""
    metrics = {name: None if value != value else value for name, value in evaluation.metrics.items()}
    return json.dumps({"metrics": metrics, "protocol": evaluation.protocol, "system": evaluation.system}, indent=1)


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
    title: str, ids: Sequence[Any], scores: Sequence[float], titles: Mapping[Any, str], console: Console
) -> None:
    """One ranked list, with the items' titles where there are any."""
    table = Table(title=escape(title), title_justify="left")
    for name, justify in (("#", "right"), ("item", "left"), ("title", "left"), ("score", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for place, (item, score) in enumerate(zip(ids, scores, strict=True), 1):
        if item is not None:
            table.add_row(str(place), escape(str(item)), escape(titles.get(item, "")), f"{score:.4f}")
    console.print(table)
