"""``corral data``: list, add, describe and get data sets. Names become readers here, in one dictionary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from corral.data import embedded
from corral.data.catalog import CATALOG, CatalogEntry
from corral.data.dataset import Dataset
from corral.data.dataset_header import HEADER_FILE, DatasetHeader
from corral.data.download import DownloadError
from corral.data.download import get as download
from corral.data.interactions import TIME_UNITS, ColumnMap, Interactions
from corral.data.readers import amazon, atomic, bars, lastfm, lib_sibgmu, movielens, online_retail, tabular
from corral.data.summary import summarize, time_text

app = typer.Typer(
    help="Data sets: what there is, add your own or a public one, describe, download.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

DEFAULT_ROOT = Path("data")
DEFAULT_DOWNLOADS = Path("downloads")


@dataclass(frozen=True)
class ReadOptions:
    """What the command line says about reading; None and () where it says nothing."""

    skip_bad_rows: bool = False
    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    value: str | None = None
    label: str | None = None
    part: str | None = None
    user_features: Path | None = None
    item_features: Path | None = None
    impressions: Path | None = None
    text: tuple[str, ...] = ()
    time_unit: str | None = None
    licence: str | None = None

    def columns(self, default: ColumnMap) -> ColumnMap:
        """The reader's column map with what the command line names put in."""
        # "none" says that there is no such column.
        asked = {
            "timestamp": self.timestamp,
            "value": self.value,
            "label": self.label,
            "part": self.part,
        }
        kept = {name: getattr(default, name) if given is None else given for name, given in asked.items()}
        found = {name: None if column == "none" else column for name, column in kept.items()}
        return ColumnMap(
            user=self.user or default.user,
            item=self.item or default.item,
            timestamp=found["timestamp"],
            value=found["value"],
            label=found["label"],
            part=found["part"],
        )

    def given(self) -> set[str]:
        """Options that only some formats take, as typed."""
        plain = ReadOptions(skip_bad_rows=self.skip_bad_rows, licence=self.licence)
        names = (name for name in self.__dataclass_fields__ if getattr(self, name) != getattr(plain, name))
        return {"--" + name.replace("_", "-") for name in names}


def _table(path: Path, options: ReadOptions) -> Interactions:
    return tabular.read(
        path,
        columns=options.columns(tabular.DEFAULT_COLUMNS),
        user_features=options.user_features,
        item_features=options.item_features,
        impressions=options.impressions,
        text_columns=options.text,
        time_unit=options.time_unit or "seconds",
        skip_bad_rows=options.skip_bad_rows,
    )


def _atomic(path: Path, options: ReadOptions) -> Interactions:
    columns = options.columns(atomic.DEFAULT_COLUMNS)
    text = options.text or atomic.TEXT_COLUMNS
    return atomic.read(path, columns=columns, text_columns=text, skip_bad_rows=options.skip_bad_rows)


def _bars(path: Path, options: ReadOptions) -> Interactions:
    return bars.read(path, columns=options.columns(bars.DEFAULT_COLUMNS), skip_bad_rows=options.skip_bad_rows)


READERS: dict[str, Callable[[Path, ReadOptions], Interactions]] = {
    "movielens": lambda path, options: movielens.read(path, skip_bad_rows=options.skip_bad_rows),
    "online-retail": lambda path, options: online_retail.read(path, skip_bad_rows=options.skip_bad_rows),
    "amazon": lambda path, options: amazon.read(path, skip_bad_rows=options.skip_bad_rows),
    "amazon-ratings": lambda path, options: amazon.read_ratings(path, skip_bad_rows=options.skip_bad_rows),
    "amazon-2018-ratings": lambda path, options: amazon.read_ratings_2018(
        path, skip_bad_rows=options.skip_bad_rows
    ),
    "lastfm": lambda path, options: lastfm.read(path, skip_bad_rows=options.skip_bad_rows),
    "lastfm-listening": lambda path, options: lastfm.read_listening(
        path, skip_bad_rows=options.skip_bad_rows
    ),
    "lib-sibgmu": lambda path, options: lib_sibgmu.read(path, skip_bad_rows=options.skip_bad_rows),
    "atomic": _atomic,
    "bars": _bars,
    "table": _table,
}

_COLUMN_OPTIONS = {"--user", "--item", "--timestamp", "--value", "--label"}
TAKES: dict[str, set[str]] = {
    "table": _COLUMN_OPTIONS
    | {"--part", "--user-features", "--item-features", "--impressions", "--text", "--time-unit"},
    "atomic": _COLUMN_OPTIONS | {"--text"},
    "bars": _COLUMN_OPTIONS,
}
"""The options a format takes besides those all take."""

RootOption = Annotated[Path, typer.Option("--root", help="Directory that holds your data sets.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for a machine instead of text.")]


@app.command("list")
def list_sets(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List what comes with corral, what can be downloaded, and your data sets under --root."""
    mine = _datasets(root)
    if as_json:
        _print_json(
            {
                "embedded": [{"name": embedded.NAME, "licence": online_retail.LICENCE}],
                "catalog": [
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
                ],
                "datasets": mine,
            }
        )
        return
    out = Console()
    out.print(f"[bold]Comes with corral[/bold] (`corral data add {embedded.NAME}`)")
    out.print(f"  {embedded.NAME}: purchases of an online gift shop, 2010-2011; CC BY 4.0\n")
    table = Table(
        "name", "what", "licence", "format", title="Public (`corral data get NAME`)", title_justify="left"
    )
    for entry in CATALOG.values():
        title = entry.title + (" (log-in)" if entry.login else "")
        table.add_row(entry.name, escape(title), escape(entry.licence), entry.reader or "no reader yet")
    out.print(table)
    table = Table("name", "events", "users", "items", "path", title=f"Yours in {root}", title_justify="left")
    for found in mine:
        if "error" in found:
            table.add_row(found["name"], "-", "-", "-", f"[red]{escape(found['error'])}[/red]")
        else:
            numbers = (f"{found[key]:,}" for key in ("events", "users", "items"))
            table.add_row(found["name"], *numbers, escape(found["path"]))
    out.print(
        table if mine else f"No data sets in {root} yet: `corral data add NAME --from PATH --format FORMAT`"
    )


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help=f"What to call it; {embedded.NAME} needs no --from.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="The maker's file or directory, or your table.")
    ] = None,
    data_format: Annotated[
        str | None,
        typer.Option("--format", help=f"One of: {', '.join(READERS)}. Known for names of the catalogue."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory to write; by default ROOT/NAME.")
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    user: Annotated[str | None, typer.Option(help="Column of the user (table, atomic, bars).")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item (table, atomic, bars).")] = None,
    timestamp: Annotated[
        str | None, typer.Option(help="Column of the time; `none`: the order of the rows is the time.")
    ] = None,
    value: Annotated[str | None, typer.Option(help="Column of the rating, quantity, ...")] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column with 1 clicked, 0 shown and not clicked (becomes an impression)."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Column of a given split: train, valid, test (table).")
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(help=f"Unit of the times: {', '.join(TIME_UNITS)} (table); seconds by default."),
    ] = None,
    user_features: Annotated[Path | None, typer.Option(help="Table of user features (table).")] = None,
    item_features: Annotated[Path | None, typer.Option(help="Table of item features (table).")] = None,
    impressions: Annotated[
        Path | None, typer.Option(help="Table of what was shown and not clicked (table).")
    ] = None,
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read raw events and write a data set: a directory of columns that opens in milliseconds.

    A table needs the columns user_id, item_id and timestamp, or a map: --user, --item, --timestamp.
    """
    with _clear_errors():
        options = ReadOptions(
            skip_bad_rows=skip_bad_rows,
            user=user,
            item=item,
            timestamp=timestamp,
            value=value,
            label=label,
            part=part,
            user_features=user_features,
            item_features=item_features,
            impressions=impressions,
            text=tuple(text or ()),
            time_unit=time_unit,
            licence=licence,
        )
        if k_core is not None and (min_user_events > 1 or min_item_events > 1):
            raise ValueError("--k-core sets both filters: leave out --min-user-events and --min-item-events")
        target = out or root / name
        if target.exists() and not overwrite:
            raise FileExistsError(
                f"{target} exists already: choose another --out or NAME, or pass --overwrite"
            )
        interactions = _read(name, source, data_format, options)
        if licence is not None:
            interactions = replace(interactions, licence=licence)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _progress(as_json) as bar:
            task = bar.add_task("", total=1.0)
            dataset = Dataset.write(
                target,
                interactions,
                name=name,
                min_user_events=k_core or min_user_events,
                min_item_events=k_core or min_item_events,
                iterate=k_core is not None,
                overwrite=overwrite,
                progress=lambda step, done: bar.update(task, description=step, completed=done),
            )
    counts = dataset.header.counts
    if as_json:
        _print_json({"name": name, "path": str(target), "hash": dataset.hash, "counts": counts.model_dump()})
        return
    console = Console()
    if interactions.skipped.count:
        console.print(escape(str(interactions.skipped)), style="yellow", soft_wrap=True)
    console.print(
        f"{escape(str(target))}: {counts.events:,} events, {counts.users:,} users, {counts.items:,} items",
        soft_wrap=True,
    )


@app.command("describe")
def describe(
    dataset: Annotated[str, typer.Argument(help="Directory of a data set, or its name under --root.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare its checksum.")
    ] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Counts, times, ties, quantiles, features, cold shares and the licence of a data set."""
    with _clear_errors():
        path = Path(dataset)
        if not (path / HEADER_FILE).exists() and (root / dataset).exists():
            path = root / dataset
        opened = Dataset.open(path)
        if verify:
            with _progress(as_json) as bar:
                task = bar.add_task("comparing checksums", total=1.0)
                opened.verify(lambda _, done: bar.update(task, completed=done))
        summary = {**summarize(opened), "path": str(path), "verified": verify}
    if as_json:
        _print_json(summary)
    else:
        _print_summary(summary)


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="Name in `corral data list`.")],
    to: Annotated[
        Path, typer.Option("--to", help="Directory for archives and unpacked sets.")
    ] = DEFAULT_DOWNLOADS,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence without being asked.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download a public data set: shows its licence, asks, verifies the checksum, unpacks."""
    err = Console(stderr=True)

    def consent(entry: CatalogEntry) -> bool:
        err.print(
            f"{escape(entry.title)}\n  from    {entry.address}\n  licence {escape(entry.licence)}",
            soft_wrap=True,
        )
        if yes:
            return True
        try:
            return typer.confirm("Download it and accept its licence?", err=True)
        except typer.Abort:  # no terminal to ask at
            return False

    with _clear_errors():
        if name == embedded.NAME:
            raise ValueError(f"{name} comes with corral: run `corral data add {name}`")
        entry = _entry(name)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
            task = bar.add_task(entry.file, total=None, visible=False)
            path = download(
                entry,
                to,
                consent,
                progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True),
                warn=lambda message: err.print(escape(message), style="yellow", soft_wrap=True),
            )
    next_command = None
    if entry.reader is not None:
        parts = [f"corral data add {name} --from {path} --format {entry.reader}", entry.add_options]
        next_command = " ".join(part for part in parts if part)
    if as_json:
        _print_json({"name": name, "path": str(path), "format": entry.reader, "next": next_command})
    else:
        then = next_command or "no reader for it yet: make a table of it, then --format table"
        Console().print(f"{escape(str(path))}\nnext: {escape(then)}", soft_wrap=True)


def _read(name: str, source: Path | None, data_format: str | None, options: ReadOptions) -> Interactions:
    if source is None:
        if name != embedded.NAME or data_format is not None:
            raise ValueError(f"say where {name} is: --from PATH (only {embedded.NAME} comes with corral)")
        if options.given():
            raise ValueError(f"{', '.join(sorted(options.given()))}: not for the data that comes with corral")
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


def _entry(name: str) -> CatalogEntry:
    if name not in CATALOG:
        import difflib

        close = difflib.get_close_matches(name, CATALOG, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see `corral data list`"
        raise ValueError(f"unknown data set {name!r}: {hint}")
    return CATALOG[name]


def _datasets(root: Path) -> list[dict[str, Any]]:
    """The data sets directly under ``root``; a damaged one with its error."""
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


def _print_summary(summary: dict[str, Any]) -> None:
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
    if summary["given_split"] is not None:
        facts.add_row("given split", ", ".join(f"{name} {n:,}" for name, n in summary["given_split"].items()))
    if (cold := summary["cold"]) is not None:
        facts.add_row(
            "cold",
            f"of the {cold['events']:,} events from {time_text(cold['from'], time['unit'])} on, "
            f"{cold['user_share']:.1%} are by users and {cold['item_share']:.1%} of items without an event before",
        )
    facts.add_row("bad rows skipped", f"{counts['skipped_rows']:,}")
    out.print(facts)
    columns = list(summary["events_per_user"])
    table = Table("events per", *columns, title="How many", title_justify="left")
    for side in ("user", "item"):
        table.add_row(
            side, *(f"{number:,.1f}".removesuffix(".0") for number in summary[f"events_per_{side}"].values())
        )
    out.print(table)
    table = Table("of", "feature", "kind", "values", "coverage", title="Features", title_justify="left")
    for side in ("user", "item"):
        for one in summary[f"{side}_features"]:
            values = "-" if one["values"] is None else f"{one['values']:,}"
            table.add_row(side, escape(one["name"]), one["kind"], values, f"{one['coverage']:.1%}")
    out.print(table if table.row_count else "No features.")
    for example in summary["skipped_examples"]:
        out.print(escape(example), style="yellow", soft_wrap=True)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar on the terminal's error stream; nothing elsewhere."""
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal, transient=True) as bar:
        yield bar


@contextmanager
def _clear_errors() -> Iterator[None]:
    """What the user can mend is one red line and exit code 2, never a traceback."""
    try:
        yield
    except (ValueError, OSError, DownloadError) as error:
        line = " ".join(str(error).split())
        Console(file=sys.stderr).print(
            f"[bold red]error:[/bold red] [red]{escape(line)}[/red]", soft_wrap=True
        )
        raise typer.Exit(2) from None
