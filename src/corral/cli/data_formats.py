"""The formats of raw data by name: READERS, the only place where such names become readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.data.interactions import ColumnMap, Interactions
    from corral.data.parquet_interactions import ParquetInteractions


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
    weight: str | None = None
    event_type: str | None = None
    weights: str | None = None
    user_features: Path | None = None
    item_features: Path | None = None
    impressions: Path | None = None
    separator: str | None = None
    encoding: str = "utf-8"
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
        return type(default)(
            user=self.user or default.user,
            item=self.item or default.item,
            timestamp=found["timestamp"],
            value=found["value"],
            label=found["label"],
            part=found["part"],
            weight=self.weight,
            event_type=self.event_type,
        )

    def event_weights(self) -> dict[str, float] | None:
        """The weight of each event type, as typed: view=0.1,purchase=1."""
        if (self.event_type is None) != (self.weights is None):
            raise ValueError("--event-type COLUMN and --weights TYPE=WEIGHT,... go together")
        found = {}
        for pair in (self.weights or "").split(",") if self.weights is not None else ():
            name, _, weight = pair.partition("=")
            try:
                found[name.strip()] = float(weight)
            except ValueError as error:
                raise ValueError(f"--weights: {pair!r}: write TYPE=WEIGHT,TYPE=WEIGHT, view=0.1,purchase=1") from error
        return found or None

    def given(self) -> set[str]:
        """Options that only some formats take, as typed."""
        plain = ReadOptions(skip_bad_rows=self.skip_bad_rows, licence=self.licence)
        names = (name for name in self.__dataclass_fields__ if getattr(self, name) != getattr(plain, name))
        return {"--" + name.replace("_", "-") for name in names}


def _movielens(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import movielens

    return movielens.read(path, skip_bad_rows=options.skip_bad_rows)


def _online_retail(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import online_retail

    return online_retail.read(path, skip_bad_rows=options.skip_bad_rows)


def _amazon(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import amazon

    return amazon.read(path, skip_bad_rows=options.skip_bad_rows)


def _amazon_ratings(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import amazon

    return amazon.read_ratings(path, skip_bad_rows=options.skip_bad_rows)


def _amazon_2018_ratings(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import amazon

    return amazon.read_ratings(path, columns=amazon.COLUMNS_2018, skip_bad_rows=options.skip_bad_rows)


def _lastfm(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import lastfm

    return lastfm.read(path, skip_bad_rows=options.skip_bad_rows)


def _lastfm_listening(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import lastfm

    return lastfm.read_listening(path, skip_bad_rows=options.skip_bad_rows)


def _lib_sibgmu(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import lib_sibgmu

    return lib_sibgmu.read(path, skip_bad_rows=options.skip_bad_rows)


def _atomic(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import atomic

    return atomic.read(
        path,
        columns=options.columns(atomic.DEFAULT_COLUMNS),
        text_columns=options.text or atomic.TEXT_COLUMNS,
        time_unit=options.time_unit or "seconds",
        skip_bad_rows=options.skip_bad_rows,
    )


def _bars(path: Path, options: ReadOptions) -> Interactions:
    from corral.data.readers import bars

    columns = options.columns(bars.DEFAULT_COLUMNS)
    time_unit = options.time_unit or "seconds"
    return bars.read(path, columns=columns, time_unit=time_unit, skip_bad_rows=options.skip_bad_rows)


def _table(path: Path, options: ReadOptions) -> Interactions | ParquetInteractions:
    from corral.data.parquet_interactions import ParquetInteractions, parquet_files
    from corral.data.readers import tabular

    files = parquet_files(path)
    if files is not None:
        if options.separator is not None or options.encoding != "utf-8":
            raise ValueError(f"{path}: Parquet files: --separator and --encoding are for text files: leave them out")
        shown = options.impressions
        return ParquetInteractions.open(
            files,
            options.columns(tabular.DEFAULT_COLUMNS),
            impressions=() if shown is None else parquet_files(shown) or (shown,),
            user_features=options.user_features,
            item_features=options.item_features,
            text_columns=options.text,
            time_unit=options.time_unit or "seconds",
            source=path.name,
            skip_bad_rows=options.skip_bad_rows,
        )
    return tabular.read(
        path,
        columns=options.columns(tabular.DEFAULT_COLUMNS),
        user_features=options.user_features,
        item_features=options.item_features,
        impressions=options.impressions,
        text_columns=options.text,
        time_unit=options.time_unit or "seconds",
        separator=options.separator,
        encoding=options.encoding,
        skip_bad_rows=options.skip_bad_rows,
        event_weights=options.event_weights(),
    )


READERS: dict[str, Callable[[Path, ReadOptions], Interactions | ParquetInteractions]] = {
    "movielens": _movielens,
    "online-retail": _online_retail,
    "amazon": _amazon,
    "amazon-ratings": _amazon_ratings,
    "amazon-2018-ratings": _amazon_2018_ratings,
    "lastfm": _lastfm,
    "lastfm-listening": _lastfm_listening,
    "lib-sibgmu": _lib_sibgmu,
    "atomic": _atomic,
    "bars": _bars,
    "table": _table,
}

_COLUMN_OPTIONS = {"--user", "--item", "--timestamp", "--value", "--label"}
TAKES: dict[str, set[str]] = {
    "table": _COLUMN_OPTIONS
    | {
        "--part",
        "--weight",
        "--event-type",
        "--weights",
        "--user-features",
        "--item-features",
        "--impressions",
        "--separator",
        "--encoding",
        "--text",
        "--time-unit",
    },
    "atomic": _COLUMN_OPTIONS | {"--text", "--time-unit"},
    "bars": _COLUMN_OPTIONS | {"--time-unit"},
}
"""The options a format takes besides those all take."""
