"""A data set's summary as text."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_summary(summary: dict[str, Any]) -> None:
    """Prints what ``data.summary.summarize`` gave, with ``path`` and ``verified``."""
    from corral.data.summary import time_text  # heavy imports wait until a verb runs

    out = Console()
    counts, time = summary["counts"], summary["time"]
    facts = Table(show_header=False, title=f"{summary['name']} ({summary['hash']})", title_justify="left")
    facts.add_row("source", escape(summary["source"]))
    facts.add_row("licence", escape(summary["licence"] or "not stated"))
    facts.add_row("path", escape(summary["path"]) + (", checksums verified" if summary["verified"] else ""))
    facts.add_row("events", f"{counts['events']:,} ({counts['filtered_events']:,} more were filtered out)")
    facts.add_row("users, items", f"{counts['users']:,}, {counts['items']:,}")
    if summary["impressions"] is not None:
        facts.add_row("shown, not clicked", f"{summary['impressions']:,}")
    if time["unit"] == "order":
        facts.add_row("time", "no times, only an order")
    else:
        facts.add_row("time", f"{time['first_date']} to {time['last_date']} ({time['unit']})")
    facts.add_row("tied in time", f"{summary['tied_share']:.1%} of events, with the user's event before")
    facts.add_row("repeats", f"{summary['repeated_share']:.1%} of events repeat a (user, item) pair")
    if summary["value"] is not None:
        facts.add_row("value", ", ".join(f"{name} {number:g}" for name, number in summary["value"].items()))
    if (weights := summary["event_weights"]) is not None:
        told = ", ".join(f"{escape(name)} {weight:g}" for name, weight in weights.items()) or "a column"
        facts.add_row("weights", told)
    if summary["given_split"] is not None:
        facts.add_row("given split", ", ".join(f"{name} {n:,}" for name, n in summary["given_split"].items()))
    if (cold := summary["cold"]) is not None:
        facts.add_row(
            "cold",
            f"of the {cold['events']:,} events from {time_text(cold['from'], time['unit'])} on, "
            f"{cold['user_share']:.1%} by users and {cold['item_share']:.1%} of items with no event before",
        )
    facts.add_row("bad rows skipped", f"{counts['skipped_rows']:,}")
    out.print(facts)
    columns = list(summary["events_per_user"])
    table = Table("events per", *columns, title="How many", title_justify="left")
    for side in ("user", "item"):
        table.add_row(side, *(f"{number:,.1f}".removesuffix(".0") for number in summary[f"events_per_{side}"].values()))
    out.print(table)
    table = Table("of", "feature", "kind", "values", "coverage", title="Features", title_justify="left")
    for side in ("user", "item"):
        for one in summary[f"{side}_features"]:
            values = "-" if one["values"] is None else f"{one['values']:,}"
            table.add_row(side, escape(one["name"]), one["kind"], values, f"{one['coverage']:.1%}")
    out.print(table if table.row_count else "No features.")
    for example in summary["skipped_examples"]:
        out.print(escape(example), style="yellow", soft_wrap=True)
