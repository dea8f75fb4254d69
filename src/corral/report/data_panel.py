"""Panel: the data and its split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from corral.report import charts
from corral.report.blocks import Block, Chart, Facts, Heading, Mark, Panel, Paragraph, Row, SideBySide, Table
from corral.report.data_summary import DataSummary
from corral.report.number_text import count, decimal, percent

WORDS = frozenset({"feature", "kind", "from", "to"})


def data_panel(data: DataSummary) -> Panel:
    """Counts, times, licence, parts with cold users and items, events over time, popularity."""
    counts = data.counts
    facts = {
        "Data set": data.name,
        "Users": count(counts["users"]),
        "Items": count(counts["items"]),
        "Events": count(counts["events"]),
        "Time": f"{data.first} to {data.last}" if data.first else "no times: the order of the rows",
        "Licence": data.licence or "not stated",
        "Source": data.source,
        "Content hash": data.hash,
        "Split": f"{data.split}; histories: {data.history_rule}",
    }
    for key, words in (
        ("impressions", "Impressions"),
        ("filtered_events", "Events filtered out"),
        ("skipped_rows", "Bad rows skipped"),
    ):
        if counts.get(key):
            facts[words] = count(counts[key])
    blocks: list[Block] = [Facts(facts)]
    if data.warning:
        blocks.append(Paragraph(data.warning, Mark.WARNING))
    blocks.append(_parts(data))
    blocks.append(
        Paragraph(
            "Cold users and items have no train event. Cold items cannot be recommended by a model that "
            "knows items by their ids.",
            Mark.NOTE,
        )
    )
    blocks.append(SideBySide([_over_time(data), *_popularity(data.popularity)]))
    blocks.append(_quantiles(data))
    if data.features:
        rows = [Row((name, whose, kind, percent(coverage))) for whose, name, kind, coverage in data.features]
        blocks += [
            Heading("Features"),
            Table(
                "Feature columns and how many rows have a value",
                ("feature", "of", "kind", "present"),
                rows,
                WORDS | {"of"},
            ),
        ]
    return Panel("data", "Data", blocks)


def _parts(data: DataSummary) -> Table:
    columns = (
        "part",
        "events",
        "from",
        "to",
        "users",
        "cold users",
        "items",
        "cold items",
        "cold-user events",
        "cold-item events",
    )
    rows = []
    for part in data.parts:
        cold = part.name != "train"
        rows.append(
            Row(
                (
                    part.name,
                    count(part.events),
                    part.first,
                    part.last,
                    count(part.users),
                    count(part.cold_users) if cold else "",
                    count(part.items),
                    count(part.cold_items) if cold else "",
                    percent(part.cold_user_events / max(part.events, 1)) if cold else "",
                    percent(part.cold_item_events / max(part.events, 1)) if cold else "",
                )
            )
        )
    if not data.first:
        keep = [place for place, name in enumerate(columns) if name not in ("from", "to")]
        return Table(
            "Parts of the split",
            [columns[place] for place in keep],
            [Row([row.cells[place] for place in keep]) for row in rows],
        )
    return Table("Parts of the split", columns, rows, WORDS)


def _over_time(data: DataSummary) -> Chart:
    import altair

    kind: Literal["temporal", "quantitative"] = "temporal" if data.dates else "quantitative"
    title = None if data.dates else ("place in the log" if data.time_unit == "order" else f"time ({data.time_unit})")
    scale = altair.Scale(type="utc") if data.dates else altair.Scale(zero=False, nice=False)
    parts = list(dict.fromkeys(str(row["part"]) for row in data.timeline))
    label = f"Events over time, by part of the split: {', '.join(parts)}."
    spec = charts.specification(
        altair.Chart(charts.inline(data.timeline))
        .mark_bar()
        .encode(
            altair.X("start", type=kind, title=title, scale=scale, bin="binned"),
            altair.X2("end"),
            altair.Y("events", type="quantitative", title="events", stack="zero", axis=altair.Axis(format="~s")),
            altair.Color("part", type="nominal", title=None, sort=parts),
            tooltip=[
                altair.Tooltip("part", type="nominal"),
                altair.Tooltip("start", type=kind, title="from"),
                altair.Tooltip("events", type="quantitative", format=","),
            ],
        ),
        label,
    )
    return Chart("events-over-time", "Events over time", label, spec)


def _popularity(points: Sequence[Mapping[str, Any]]) -> list[Chart]:
    if not points:
        return []
    most, last = points[0], points[-1]
    label = (
        f"Train events against popularity rank, both logarithmic: from {count(most['events'])} for the most "
        f"popular item to {count(last['events'])} for number {count(last['rank'])}. Head, mid and tail "
        "each got a third of all train events."
    )
    spec = charts.lines(
        points,
        "rank",
        "events",
        "group",
        label=label,
        x_title="popularity rank",
        y_title="train events",
        log=True,
        points=False,
    )
    return [
        Chart(
            "item-popularity",
            "Popularity of items: head, mid and tail each hold a third of the events",
            label,
            spec,
        )
    ]


def _quantiles(data: DataSummary) -> Table:
    names = list(next(iter(data.quantiles.values()), {}))
    words = {"events_per_user": "events a user", "events_per_item": "events an item"}
    rows = [
        Row((words.get(name, name), *(decimal(values.get(key), 1 if key == "mean" else 0) for key in names)))
        for name, values in data.quantiles.items()
    ]
    return Table("How many events users and items have, by quantile", ("", *names), rows)
