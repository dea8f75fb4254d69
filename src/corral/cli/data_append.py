"""corral data append: new events, users and items in a data set, in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.data_roots import DEFAULT_ROOT, RootOption, dataset_path


def append(
    dataset: Annotated[str, typer.Argument(help="Directory of a data set, or its name under --root.")],
    file: Annotated[Path, typer.Argument(help="Table of new events: CSV, TSV, Parquet or Arrow.")],
    user: Annotated[str, typer.Option(help="Column of the user.")] = "user_id",
    item: Annotated[str, typer.Option(help="Column of the item.")] = "item_id",
    timestamp: Annotated[str, typer.Option(help="Column of the time, in the data set's unit.")] = "timestamp",
    value: Annotated[
        str | None, typer.Option(help="Column of the value, where the data set has one.", show_default=False)
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column with 1 clicked, 0 shown and not clicked (impressions).", show_default=False),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Column of a given split, where the data set has one.", show_default=False)
    ] = None,
    weight: Annotated[
        str | None, typer.Option(help="Column of the weight, where the data set has one.", show_default=False)
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option(help="Column of the kind of event, where the data set weighs kinds.", show_default=False),
    ] = None,
    user_features: Annotated[
        Path | None, typer.Option(help="Table of the new users' features.", show_default=False)
    ] = None,
    item_features: Annotated[
        Path | None, typer.Option(help="Table of the new items' features.", show_default=False)
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for a machine instead of text.")] = False,
) -> None:
    """Add new events, users and items to a data set; the raw files of the old ones are not needed.

    The result is what one would get from all events at once. It is written beside the data set and takes its place
    when it is whole: whatever happens, one of the two is there. What does not fit is refused as a whole.

    Examples:

    corral data append shop yesterday.csv

    corral data append shop yesterday.csv --value stars --item-features new_items.csv
    """
    from rich.console import Console

    from corral.cli.progress import steps
    from corral.data.dataset_append import append_events
    from corral.data.dataset_header import DatasetHeader
    from corral.data.interactions import ColumnMap

    path = dataset_path(dataset, root)
    before = DatasetHeader.read(path).counts
    with steps("Data", quiet=as_json) as report:
        grown = append_events(
            path,
            file,
            ColumnMap(user, item, timestamp, value, label, part, weight, event_type),
            user_features=user_features,
            item_features=item_features,
            progress=report,
        )
    counts = grown.header.counts
    if as_json:
        found = {"path": str(path), "hash": grown.hash, "counts": counts.model_dump()}
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    sizes = ", ".join(
        f"{getattr(counts, what):,} {what} (+{getattr(counts, what) - getattr(before, what):,})"
        for what in ("events", "impressions", "users", "items")
        if getattr(counts, what)
    )
    Console(soft_wrap=True, highlight=False).print(f"{path}: {sizes}", markup=False)
