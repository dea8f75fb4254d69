"""ParquetInteractions: events in many Parquet files, read and checked some rows at a time, never all at once."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from corral.data.event_check import ID_COLUMNS, check_rows, require_columns
from corral.data.feature_fit import keyed_like, unrelated
from corral.data.interactions import ColumnMap, read_features
from corral.data.skipped_rows import Problems, SkippedRows
from corral.data.table_files import PARQUET_SUFFIXES
from corral.data.time_units import require_unit

# Of one batch: its frames and those of its check are a few hundred bytes a row at most.
BATCH_ROWS = 1 << 20


@dataclass(frozen=True)
class ParquetFile:
    """One of the files.

    Attributes:
        path: of it.
        first_row: its place in the whole: rows of the files before it.
        rows: how many it has.
    """

    path: Path
    first_row: int
    rows: int


@dataclass(frozen=True)
class ParquetInteractions:
    """Events in Parquet files with what is known of users and items; the counterpart of ``Interactions``.

    Make it with ``ParquetInteractions.open``. Only the feature tables are in memory.

    Attributes:
        files: of the events, in order: with equal times, the row that comes first is the earlier event.
        columns: which column is which. Rows with label 0 are impressions.
        shown: files of impressions; () where there are none of their own.
        user_features: as in ``Interactions``.
        item_features: as in ``Interactions``.
        text_columns: as in ``Interactions``.
        time_unit: as in ``Interactions``.
        source: as in ``Interactions``.
        licence: as in ``Interactions``.
        skipped: bad rows of the feature tables that were dropped.
        skip_bad_rows: drop, count and list bad rows instead of raising.
        unfit_features: as in ``Interactions``.
    """

    files: tuple[ParquetFile, ...]
    columns: ColumnMap
    shown: tuple[ParquetFile, ...]
    user_features: pl.DataFrame | None
    item_features: pl.DataFrame | None
    text_columns: frozenset[str]
    time_unit: str
    source: str
    licence: str
    skipped: SkippedRows
    skip_bad_rows: bool
    unfit_features: tuple[int, int] = (0, 0)

    @classmethod
    def open(
        cls,
        files: Iterable[str | Path],
        columns: ColumnMap | None = None,
        *,
        impressions: Iterable[str | Path] = (),
        user_features: str | Path | Any | None = None,
        item_features: str | Path | Any | None = None,
        text_columns: Iterable[str] = (),
        time_unit: str = "seconds",
        source: str,
        licence: str = "",
        skip_bad_rows: bool = False,
    ) -> ParquetInteractions:
        """Reads the files' footers and the feature tables; events are read when a Dataset is made of them.

        Args:
            files: of the events; see ``parquet_files``.
            columns: which column is which.
            impressions: files of what was shown and not clicked, with the same column names.
            user_features: as in ``read_table``.
            item_features: as in ``read_table``.
            text_columns: feature columns for display only.
            time_unit: of the timestamps (dates are brought to it).
            source: kept in the data set.
            licence: kept in the data set.
            skip_bad_rows: drop, count and list bad rows instead of raising.

        Raises:
            ValueError: no file, a damaged one, or one without a column or with ids or times of another type; or no row
                of a feature table has an id of the events' type.
            FileNotFoundError: there is no such file.
        """
        columns = columns or ColumnMap()
        require_unit(time_unit)
        if columns.weight is not None or columns.event_type is not None:
            raise ValueError(f"{source}: weights of events are not read from many files yet: give one table")
        shown = tuple(impressions)
        if shown and columns.label is not None:
            raise ValueError("impressions are given twice: by a label column and by a table of their own; choose one")
        kinds: dict[str, tuple[str, Path]] = {}
        events = _numbered(files, list(columns.present().values()), columns, kinds)
        if not any(file.rows for file in events):
            raise ValueError(f"{source}: no events: the files have no rows")
        for key, name in zip(ID_COLUMNS, (columns.user, columns.item), strict=True):
            if key not in kinds:
                raise ValueError(f"{source}: column {name!r} is empty in all files: every event needs an id")
        shown_columns = [name for name in columns.present().values() if name not in (columns.value, columns.label)]
        of_shown = _numbered(shown, shown_columns, columns, kinds)
        skipped, features, unfit = SkippedRows(), [], []
        for key, name, table in (
            ("user_id", columns.user, user_features),
            ("item_id", columns.item, item_features),
        ):
            frame, left_out = None, 0
            if table is not None:
                frame, dropped = read_features(table, key, name, text_columns=text_columns, skip_bad_rows=skip_bad_rows)
                skipped += dropped
                kind, where = kinds[key]
                fitting = keyed_like(frame, key, pl.String() if kind == "string" else pl.Int64())
                if len(frame) and fitting.is_empty():
                    raise unrelated(source, key, len(frame), frame[key][0], _first_id(where, name))
                frame, left_out = fitting, len(frame) - len(fitting)
            features.append(frame)
            unfit.append(left_out)
        return cls(
            events,
            columns,
            of_shown,
            features[0],
            features[1],
            frozenset(text_columns),
            time_unit if columns.timestamp is not None else "order",
            source,
            licence,
            skipped,
            skip_bad_rows,
            (unfit[0], unfit[1]),
        )

    def batches(self, file: ParquetFile, shown: bool = False) -> Iterator[tuple[pl.DataFrame, SkippedRows]]:
        """Checked rows of a file, in order, at most ``BATCH_ROWS`` at a time, and what was skipped among them.

        Args:
            file: one of ``files``, or of ``shown``.
            shown: it is one of ``shown``.

        Yields:
            As from ``check_events``; label 1 throughout where there is no column of labels, or 0 in impressions.
        """
        names = self.columns.present()
        if shown:
            names = {canonical: name for canonical, name in names.items() if canonical not in ("value", "label")}
        start = 0
        try:
            with pq.ParquetFile(file.path, memory_map=True) as parquet:
                for batch in parquet.iter_batches(BATCH_ROWS, columns=list(names.values()), use_threads=False):
                    frame = pl.from_arrow(batch)
                    assert isinstance(frame, pl.DataFrame)
                    frame = frame.select(pl.col(name).alias(canonical) for canonical, name in names.items())
                    problems = Problems(str(file.path), None, names, first_row=start)
                    checked, skipped = check_rows(frame, problems, self.skip_bad_rows, time_unit=self.time_unit)
                    if "timestamp" not in names:
                        checked = checked.with_columns(pl.col("timestamp") + (file.first_row + start))
                    if "label" not in names:
                        checked = checked.with_columns(pl.lit(0 if shown else 1, dtype=pl.Int8).alias("label"))
                    yield checked, skipped
                    start += len(frame)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file.path, error) from error


def parquet_files(source: str | Path) -> tuple[Path, ...] | None:
    """The Parquet files in a directory and those below it, or of a pattern such as ``events/*.parquet``, by name.

    Returns:
        None where ``source`` is neither: a file.

    Raises:
        ValueError: there are none.
    """
    source = Path(source)
    if source.is_dir():
        found = [path for path in source.rglob("*") if path.suffix.lower() in PARQUET_SUFFIXES and path.is_file()]
    elif glob.has_magic(str(source)) and not source.exists():
        found = [path for name in glob.glob(str(source), recursive=True) if (path := Path(name)).is_file()]
    else:
        return None
    if not found:
        raise ValueError(f"{source}: no Parquet files there ({', '.join(PARQUET_SUFFIXES)})")
    return tuple(sorted(found))


def _numbered(
    files: Iterable[str | Path], wanted: list[str], columns: ColumnMap, kinds: dict[str, tuple[str, Path]]
) -> tuple[ParquetFile, ...]:
    """The files with their places, their columns looked at; ``kinds``: type of the ids, and a file that has some."""
    numbered: list[ParquetFile] = []
    first = 0
    for path in map(Path, files):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            rows, schema = pq.read_metadata(path).num_rows, pl.read_parquet_schema(path)
        except (pa.ArrowException, OSError, pl.exceptions.PolarsError) as error:
            raise _damaged(path, error) from error
        require_columns(list(schema), wanted, str(path))
        for key, name in zip(ID_COLUMNS, (columns.user, columns.item), strict=True):
            if not rows or schema[name] == pl.Null:
                continue  # nobody is named: an empty frame of pandas, say, whose columns have no type
            kind = _id_type(schema[name])
            known, where = kinds.setdefault(key, (kind, path))
            if kind != known:
                raise ValueError(
                    f"{path}: column {name!r} holds {kind} ids, those of {where} are {known}: give all the same type"
                )
        if columns.timestamp is not None and schema[columns.timestamp] == pl.String:
            # What a text means, number or date, is decided by a whole column, which is never in memory.
            raise ValueError(f"{path}: column {columns.timestamp!r} holds text: cast it to numbers or dates")
        numbered.append(ParquetFile(path, first, rows))
        first += rows
    return tuple(numbered)


def _id_type(dtype: pl.DataType) -> str:
    return "string" if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum) else "int64"


def _first_id(path: Path, name: str) -> object:
    """The first id of a column of a file; None where there is none."""
    first = pl.scan_parquet(path).select(name).drop_nulls().head(1).collect()
    return first[name][0] if len(first) else None


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0]
    return ValueError(f"{path}: damaged or truncated parquet file ({reason}): fetch or write it again")
