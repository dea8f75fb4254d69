"""``corral data``: list, add, describe and get data sets."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from corral.cli.data_append import append
from corral.cli.data_export import export
from corral.cli.data_formats import READERS, TAKES, ReadOptions
from corral.cli.data_print import print_summary
from corral.cli.data_roots import DEFAULT_ROOT, RootOption, dataset_path
from corral.cli.engines import Engine, preparing
from corral.cli.progress import steps
from corral.cli.text_options import EncodingOption, SeparatorOption
from corral.data.catalog import CATALOG, CatalogEntry

if TYPE_CHECKING:
    from corral.data.interactions import Interactions
    from corral.data.parquet_interactions import ParquetInteractions

app = typer.Typer(
    help="Data sets: what there is, add your own or a public one, describe, download.",
    no_args_is_help=True,
)

EMBEDDED = "online-retail"
EMBEDDED_LICENCE = "CC BY 4.0: Chen, D. (2015). Online Retail [Dataset]. UCI Machine Learning Repository."
DEFAULT_DOWNLOADS = Path("downloads")

JsonOption = Annotated[bool, typer.Option("--json", help="JSON for a machine instead of text.")]


@app.command("list")
def list_sets(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List what comes with corral, what can be downloaded, and your data sets under --root."""
    mine = _datasets(root)
    if as_json:
        catalog = [
            {
                "name": entry.name,
                "title": entry.title,
                "licence": entry.licence,
                "address": entry.address,
                "checksum": entry.checksum,
                "format": entry.reader,
                "login": entry.login,
            }
            for entry in CATALOG.values()
        ]
        shipped = [{"name": EMBEDDED, "licence": EMBEDDED_LICENCE}]
        _print_json({"embedded": shipped, "catalog": catalog, "datasets": mine})
        return
    out = Console()
    out.print(f"[bold]Comes with corral[/bold]: corral data add {EMBEDDED}")
    out.print(f" {EMBEDDED}: purchases in an online gift shop, 2010 to 2011; CC BY 4.0\n")
    out.print("[bold]Public[/bold]: corral data get NAME")
    table = Table("name", "what", "licence", box=None)
    for entry in CATALOG.values():
        notes = [note for note, holds in (("log-in", entry.login), ("no reader yet", not entry.reader)) if holds]
        title = entry.title + (f" ({', '.join(notes)})" if notes else "")
        table.add_row(entry.name, escape(title), escape(entry.licence))
    table.columns[0].no_wrap = True
    out.print(table)
    if not mine:
        out.print(f"\nNo data sets in {root} yet: corral data add NAME --from PATH --format FORMAT")
        return
    out.print(f"\n[bold]Yours[/bold] in {root}: corral data describe NAME")
    table = Table("name", "events", "users", "items", "path", box=None)
    for found in mine:
        numbers = [f"{found[key]:,}" if key in found else "-" for key in ("events", "users", "items")]
        where = f"[red]{escape(found['error'])}[/red]" if "error" in found else escape(found["path"])
        table.add_row(escape(found["name"]), *numbers, where)
    out.print(table)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help=f"What to call it; {EMBEDDED} needs no --from.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The maker's file or directory, or your table; or many Parquet files: a directory or a pattern.",
        ),
    ] = None,
    data_format: Annotated[
        str | None,
        typer.Option("--format", help=f"One of: {', '.join(READERS)}. Known for names of the catalogue."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Directory to write; by default ROOT/NAME.")] = None,
    root: RootOption = DEFAULT_ROOT,
    user: Annotated[str | None, typer.Option(help="Column of the user (table, atomic, bars).")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item (table, atomic, bars).")] = None,
    timestamp: Annotated[
        str | None, typer.Option(help="Column of the time; `none`: the order of the rows is the time.")
    ] = None,
    value: Annotated[str | None, typer.Option(help="Column of the rating, quantity, ...")] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column with 1 clicked, 0 shown and not clicked (which makes impressions)."),
    ] = None,
    part: Annotated[str | None, typer.Option(help="Column of a given split: train, valid, test (table).")] = None,
    weight: Annotated[str | None, typer.Option(help="Column of what a row counts in training losses (table).")] = None,
    event_type: Annotated[str | None, typer.Option(help="Column of the kind of event, with --weights (table).")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weight of each event type: view=0.1,cart=0.3,purchase=1 (table).")
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(
            help="Unit of the times: seconds (default), milliseconds, minutes, hours, days; dates are brought to it "
            "(table, atomic, bars)."
        ),
    ] = None,
    user_features: Annotated[Path | None, typer.Option(help="Table of user features (table).")] = None,
    item_features: Annotated[Path | None, typer.Option(help="Table of item features (table).")] = None,
    impressions: Annotated[Path | None, typer.Option(help="Table of what was shown and not clicked (table).")] = None,
    separator: SeparatorOption = None,
    encoding: EncodingOption = "utf-8",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Feature column for display only, such as a title; may be repeated."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Kept with the data, in place of the reader's.")] = None,
    min_user_events: Annotated[int, typer.Option(min=1, help="Leave out users with fewer events.")] = 1,
    min_item_events: Annotated[int, typer.Option(min=1, help="Leave out items with fewer events.")] = 1,
    k_core: Annotated[
        int | None, typer.Option(min=1, help="Both filters at this number, repeated until nothing changes.")
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Drop, count and list bad rows instead of stopping.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="What reads many Parquet files: this process, or Ray (corral\\[scale]) in parallel.")
    ] = Engine.LOCAL,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data set that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read raw events and write a data set: a directory of columns that opens in milliseconds.

    A table needs the columns user_id, item_id and timestamp, or a map: --user, --item, --timestamp.
    """
    from corral.data.dataset import Dataset
    from corral.data.feature_fit import feature_gaps
    from corral.data.parquet_interactions import ParquetInteractions

    options = ReadOptions(
        skip_bad_rows=skip_bad_rows,
        user=user,
        item=item,
        timestamp=timestamp,
        value=value,
        label=label,
        part=part,
        weight=weight,
        event_type=event_type,
        weights=weights,
        user_features=user_features,
        item_features=item_features,
        impressions=impressions,
        separator=separator,
        encoding=encoding,
        text=tuple(text or ()),
        time_unit=time_unit,
        licence=licence,
    )
    if k_core is not None and (min_user_events > 1 or min_item_events > 1):
        raise ValueError("--k-core sets both filters: leave out --min-user-events and --min-item-events")
    target = out or root / name
    if target.exists() and not overwrite:  # said before minutes of reading, not after
        raise FileExistsError(f"{target} exists already: choose another --out or NAME, or pass --overwrite")
    interactions = _read(name, source, data_format, options)
    if licence is not None:
        interactions = replace(interactions, licence=licence)
    many = isinstance(interactions, ParquetInteractions)
    if engine is Engine.RAY and not many:
        raise ValueError("--engine ray reads many Parquet files: give --from a directory of them, or a pattern")
    target.parent.mkdir(parents=True, exist_ok=True)
    with steps("Data", quiet=as_json) as report, preparing(engine) as prepare:
        # Typed as one: they take the same words, each with its kind of events.
        write: Any = prepare if many else Dataset.write
        dataset: Dataset = write(
            target,
            interactions,
            name=name,
            min_user_events=k_core or min_user_events,
            min_item_events=k_core or min_item_events,
            iterate=k_core is not None,
            overwrite=overwrite,
            progress=report,
        )
    counts = dataset.header.counts
    gaps = feature_gaps(interactions, counts)
    if as_json:
        examples = list(dataset.header.skipped_examples)
        _print_json(
            {
                "name": name,
                "path": str(target),
                "hash": dataset.hash,
                "counts": counts.model_dump(),
                "feature_gaps": [asdict(gap) for gap in gaps],
                "skipped_examples": examples,
            }
        )
        return
    console = Console(soft_wrap=True, highlight=False)
    if counts.skipped_rows:
        lines = [f"{counts.skipped_rows} bad rows skipped, the first:", *dataset.header.skipped_examples]
        console.print(escape("\n".join(lines)), style="yellow")
    sizes = f"{counts.events:,} events, {counts.users:,} users, {counts.items:,} items"
    console.print(f"{escape(str(target))}: {sizes}")
    for gap in gaps:
        if gap.missing or gap.unused:
            console.print(str(gap))


app.command("append")(append)
app.command("export")(export)


@app.command("describe")
def describe(
    dataset: Annotated[str, typer.Argument(help="Directory of a data set, or its name under --root.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its checksum.")] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Counts, times, ties, quantiles, features, cold shares and the licence of a data set."""
    from corral.data.dataset import Dataset
    from corral.data.summary import summarize

    path = dataset_path(dataset, root)
    opened = Dataset.open(path)
    if verify:
        with steps("Data", quiet=as_json) as report:
            opened.verify(report)
    summary = {**summarize(opened), "path": str(path), "verified": verify}
    if as_json:
        _print_json(summary)
    else:
        print_summary(summary)


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="Name in `corral data list`.")],
    to: Annotated[Path, typer.Option("--to", help="Directory for archives and unpacked sets.")] = DEFAULT_DOWNLOADS,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence without being asked.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download a public data set: shows its licence, asks, verifies the checksum, unpacks."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from corral.data import download

    err = Console(stderr=True, soft_wrap=True, highlight=False)

    def consent(entry: CatalogEntry) -> bool:
        err.print(f"{escape(entry.title)}\n  from    {entry.address}\n  licence {escape(entry.licence)}")
        if yes:
            return True
        try:
            return typer.confirm("Download it and accept its licence?", err=True)
        except typer.Abort:  # nobody there to answer
            err.print()
            return False

    if name == EMBEDDED:
        raise ValueError(f"{name} comes with corral: run `corral data add {name}`")
    if name not in CATALOG:
        close = difflib.get_close_matches(name, CATALOG, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see `corral data list`"
        raise ValueError(f"unknown data set {name!r}: {hint}")
    entry = CATALOG[name]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(entry.file, total=None, visible=False)
        path = download.get(
            entry,
            to,
            consent,
            progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True),
            warn=lambda message: err.print(escape(message), style="yellow"),
        )
    then = None
    if entry.reader is not None:
        words = [f"corral data add {name} --from {path} --format {entry.reader}", entry.add_options]
        then = " ".join(word for word in words if word)
    if as_json:
        _print_json({"name": name, "path": str(path), "format": entry.reader, "next": then})
        return
    then = then or "corral has no reader for it yet: make a table of it, then --format table"
    Console(soft_wrap=True, highlight=False).print(f"{escape(str(path))}\nnext: {escape(then)}")


def _read(
    name: str, source: Path | None, data_format: str | None, options: ReadOptions
) -> Interactions | ParquetInteractions:
    if source is None:
        if name != EMBEDDED or data_format is not None:
            raise ValueError(f"say where {name} is: --from PATH (only {EMBEDDED} comes with corral)")
        if options.given():
            raise ValueError(f"{', '.join(sorted(options.given()))}: not for the data that comes with corral")
        from corral.data import embedded

        return embedded.online_retail()
    if data_format is None:
        data_format = CATALOG[name].reader if name in CATALOG else None
        if data_format is None:
            raise ValueError(f"say what {source} is: --format, one of {', '.join(READERS)}")
    if data_format not in READERS:
        raise ValueError(f"unknown format {data_format!r}: one of {', '.join(READERS)}")
    unwanted = sorted(options.given() - TAKES.get(data_format, set()))
    if unwanted:
        takers = [known for known, taken in TAKES.items() if unwanted[0] in taken]
        raise ValueError(f"{unwanted[0]} is not for --format {data_format}, only for {', '.join(takers)}")
    return READERS[data_format](source, options)


def _datasets(root: Path) -> list[dict[str, Any]]:
    """The data sets directly under ``root``; a damaged one with its error."""
    from corral.data.dataset_header import HEADER_FILE, DatasetHeader

    found: list[dict[str, Any]] = []
    for file in sorted(root.glob(f"*/{HEADER_FILE}")):
        path = file.parent
        try:
            header = DatasetHeader.read(path)
        except (ValueError, OSError) as error:
            found.append({"name": path.name, "path": str(path), "error": str(error)})
            continue
        counts = header.counts
        sizes = {"events": counts.events, "users": counts.users, "items": counts.items}
        found.append({"name": header.name, "path": str(path), **sizes, "licence": header.licence})
    return found


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))
