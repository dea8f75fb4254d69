"""corral data append: new events, users and items in a data set, in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.data_roots import DEFAULT_ROOT, RootOption, dataset_path
from corral.cli.text_options import EncodingOption, SeparatorOption


def append(
    dataset: Annotated[str, typer.Argument(help="Directory of a data set, or its name under --root.")],
    file: Annotated[
        Path | None, typer.Argument(help="Table of new events: CSV, TSV, Parquet or Arrow.", show_default=False)
    ] = None,
    user: Annotated[str, typer.Option(help="Column of the user.")] = "user_id",
    item: Annotated[str, typer.Option(help="Column of the item.")] = "item_id",
    timestamp: Annotated[str, typer.Option(help="Column of the time, in the data set's unit, or dates.")] = "timestamp",
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
    separator: SeparatorOption = None,
    encoding: EncodingOption = "utf-8",
    impressions: Annotated[
        Path | None,
        typer.Option(help="Lists logged by corral serve --impressions: a directory or file.", show_default=False),
    ] = None,
    clicked_within: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --impressions: an item had later than so long after it was shown was not clicked there, in the "
            "data set's unit (default: a day).",
            show_default=False,
        ),
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for a machine instead of text.")] = False,
) -> None:
    """Add new events, users and items to a data set; the raw files of the old ones are not needed.

    The result is what one would get from all events at once. It is written beside the data set and takes its place
    when it is whole: whatever happens, one of the two is there. What does not fit is refused as a whole, lists that
    cannot be read before any event is added. Interrupted between events and lists, the same command adds the lists.

    Examples:

    corral data append shop yesterday.csv

    corral data append shop yesterday.csv --value stars --item-features new_items.csv

    corral data append shop yesterday.csv --impressions served
    """
    from rich.console import Console

    from corral.cli.progress import steps
    from corral.data.append_served import append_served, check_served
    from corral.data.dataset import Dataset
    from corral.data.dataset_append import AlreadyThereError, append_events
    from corral.data.dataset_header import DatasetHeader
    from corral.data.interactions import ColumnMap

    path = dataset_path(dataset, root)
    before = DatasetHeader.read(path).counts
    if file is None and impressions is None:
        raise ValueError("say what to append: FILE of events, --impressions of served lists, or both")
    if impressions is not None:
        check_served(path, impressions)
    there: AlreadyThereError | None = None
    with steps("Data", quiet=as_json) as report:
        if file is not None:
            try:
                append_events(
                    path,
                    file,
                    ColumnMap(user, item, timestamp, value, label, part, weight, event_type),
                    user_features=user_features,
                    item_features=item_features,
                    separator=separator,
                    encoding=encoding,
                    progress=report,
                )
            except AlreadyThereError as error:
                if impressions is None:
                    raise
                there = error  # of a command that was interrupted before the lists
        # Events first: they say what of the lists was clicked.
        served = None
        if impressions is not None:
            served = append_served(path, impressions, clicked_within=clicked_within, progress=report)
    if there is not None:
        Console(stderr=True, soft_wrap=True).print(
            f"Note: {there} Only the lists are added.", style="yellow", markup=False
        )
    grown = Dataset.open(path)
    counts = grown.header.counts
    if as_json:
        found: dict[str, object] = {"path": str(path), "hash": grown.hash, "counts": counts.model_dump()}
        if served is not None:
            found["served"] = {name: getattr(served, name) for name in ("added", "clicked", "there", "waiting")}
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    sizes = ", ".join(
        f"{getattr(counts, what):,} {what} (+{getattr(counts, what) - getattr(before, what):,})"
        for what in ("events", "impressions", "users", "items")
        if getattr(counts, what)
    )
    Console(soft_wrap=True, highlight=False).print(f"{path}: {sizes}", markup=False)
    if served is not None:
        told = f"{served.clicked:,} clicked, {served.there:,} there already, {served.waiting:,} wait for a later call"
        Console(soft_wrap=True, highlight=False).print(
            f"Shown items: {served.added:,} not clicked, {told}", markup=False
        )
