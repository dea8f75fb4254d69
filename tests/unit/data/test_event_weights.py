"""Weights of events, from a column or from the kinds of events: read, kept, appended, put into batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.cli.main import main
from corral.data.clicks import Clicks
from corral.data.dataset import Dataset
from corral.data.dataset_append import append_events
from corral.data.dataset_header import FORMAT_VERSION, DatasetHeader
from corral.data.examples import Examples
from corral.data.interactions import ColumnMap, Interactions, read_table
from corral.data.parquet_interactions import ParquetInteractions
from corral.data.sampled_negatives import with_sampled_negatives
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, time_cut

KINDS = {"view": 0.1, "cart": 0.3, "purchase": 1.0}
COLUMNS = ColumnMap(event_type="what")


def frame(count: int = 60, after: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(count + after)
    return pl.DataFrame(
        {
            "user_id": random.integers(0, 5, count),
            "item_id": random.integers(0, 9, count),
            "timestamp": after + random.permutation(count),
            "what": random.choice(list(KINDS), count),
        }
    )


def kept(dataset: Dataset) -> pl.DataFrame:
    log = dataset.events
    users, items = dataset.users.external(log.user), dataset.items.external(log.item)
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": log.time, "weight": log.weight})


def wanted(events: pl.DataFrame) -> pl.DataFrame:
    weight = pl.col("what").replace_strict(KINDS, return_dtype=pl.Float32).alias("weight")
    return events.select("user_id", "item_id", "timestamp", weight)


def test_kinds_become_weights_that_a_dataset_keeps_and_appends(tmp_path: Path) -> None:
    first, more = frame(), frame(20, after=60)
    dataset = Dataset.write(tmp_path / "data", read_table(first, COLUMNS, event_weights=KINDS))
    assert dataset.header.format_version == FORMAT_VERSION
    assert dataset.header.event_weights == KINDS
    assert kept(dataset).sort("timestamp").equals(wanted(first).sort("timestamp"))
    grown = append_events(tmp_path / "data", more, COLUMNS)
    both = pl.concat([first, more])
    assert kept(grown).sort("timestamp").equals(wanted(both).sort("timestamp"))
    at_once = Dataset.write(tmp_path / "all", read_table(both, COLUMNS, event_weights=KINDS))
    assert grown.header.source_hash == at_once.header.source_hash
    with pytest.raises(ValueError, match=r"have a event_type: say which column .* \(--event-type\)"):
        append_events(tmp_path / "data", frame(5, after=99))


def test_a_column_of_weights(tmp_path: Path) -> None:
    events = frame().drop("what").with_columns(w=pl.Series(np.arange(60) / 7))
    dataset = Dataset.write(tmp_path / "data", read_table(events, ColumnMap(weight="w")))
    assert dataset.header.event_weights == {}
    assert np.array_equal(np.sort(dataset.events.weight), (np.arange(60) / 7).astype(np.float32))  # type: ignore[arg-type]
    append_events(tmp_path / "data", events.with_columns(pl.col("timestamp") + 60), ColumnMap(weight="w"))
    with pytest.raises(ValueError, match="have a weight"):
        append_events(tmp_path / "data", events.with_columns(pl.col("timestamp") + 120))


def test_many_files_have_no_weights_yet(tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "one.parquet")
    with pytest.raises(ValueError, match="not read from many files yet"):
        ParquetInteractions.open([tmp_path / "one.parquet"], COLUMNS, source="x")


def test_without_weights_the_format_is_that_of_before(tmp_path: Path) -> None:
    dataset = Dataset.write(tmp_path / "data", read_table(frame()))
    header = json.loads((dataset.path / "header.json").read_text())
    assert header["format_version"] == 1
    assert "event_weights" not in header
    assert dataset.events.weight is None
    examples = Examples.of(dataset, time_cut(dataset), Part.TRAIN)
    assert examples.batch(np.arange(3), 4).weight is None


def test_what_is_no_weight_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,timestamp,what,w\n1,2,3,view,1\n1,3,4,look,-1\n")
    with pytest.raises(ValueError, match=r"events.csv, line 3, column 'what': 'look': no weight is given .* 'cart'"):
        read_table(path, COLUMNS, event_weights=KINDS)
    with pytest.raises(ValueError, match=r"line 3, column 'w': '-1': not a weight"):
        read_table(path, ColumnMap(weight="w"))
    for columns, weights in ((COLUMNS, None), (ColumnMap(weight="w", event_type="what"), KINDS)):
        with pytest.raises(ValueError, match="an event type needs the weight of each type"):
            read_table(path, columns, event_weights=weights)
    with pytest.raises(ValueError, match="weight of event type 'view': -1"):
        read_table(path, COLUMNS, event_weights={"view": -1})


def test_batches_bring_the_weights_of_their_events(tmp_path: Path) -> None:
    clicks = read_table(frame(), COLUMNS, event_weights=KINDS)
    shown = frame(20, after=7).select("user_id", "item_id", "timestamp").with_columns(weight=pl.lit(0.5, pl.Float32))
    both = Interactions.of(clicks.events, impressions=shown, source="made up", event_weights=KINDS)
    dataset = Dataset.write(tmp_path / "data", both)
    split = time_cut(dataset)
    log = dataset.events
    assert log.weight is not None
    examples = Examples.of(dataset, split, Part.TRAIN, impressions=True)
    at = np.flatnonzero(examples.label == 0)
    assert (examples.weight[at] == 0.5).all()  # type: ignore[index]
    batch = examples.batch(np.arange(10), 4)
    assert batch.weight is not None
    assert np.array_equal(batch.weight.numpy(), log.weight[examples.event[:10]])
    clicks_alone = Clicks.of(dataset, split, Part.TRAIN)
    asked = clicks_alone.batch(np.arange(5), 4)
    assert asked.weight is not None
    assert np.array_equal(asked.weight.numpy(), log.weight[clicks_alone.event[:5]])
    more = with_sampled_negatives(Examples.of(dataset, split, Part.TRAIN), dataset, split, Part.TRAIN, per_positive=2)
    n = len(Examples.of(dataset, split, Part.TRAIN))
    source = {(u, t): w for u, t, w in zip(more.user[:n], more.time[:n], more.weight[:n], strict=True)}  # type: ignore[index]
    assert all(
        source[u, t] == w
        for u, t, w in zip(more.user[n:], more.time[n:], more.weight[n:], strict=True)  # type: ignore[index]
    )
    for sequence in SequenceLoader(dataset, split, length=4, batch_size=3, seed=0).epoch(0):
        assert sequence.weight is not None
        real = sequence.items != 0
        assert np.array_equal(sequence.weight[real].numpy(), log.weight[sequence.event[real].numpy()])
        assert not sequence.weight[~real].any()


def test_the_command_line_takes_kinds_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, more = tmp_path / "events.csv", tmp_path / "more.csv"
    frame().write_csv(path)
    frame(20, after=60).write_csv(more)
    add = ("data", "add", "shop", "--from", path, "--format", "table", "--root", tmp_path)

    def corral(*words: object) -> str:
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return err if leaving.value.code else out

    assert "--event-type COLUMN and --weights" in corral(*add, "--event-type", "what")
    assert "write TYPE=WEIGHT" in corral(*add, "--event-type", "what", "--weights", "view")
    corral(*add, "--event-type", "what", "--weights", "view=0.1,cart=0.3,purchase=1")
    assert DatasetHeader.read(tmp_path / "shop").event_weights == KINDS
    assert "view 0.1, cart 0.3, purchase 1" in corral("data", "describe", "shop", "--root", tmp_path)
    corral("data", "append", "shop", more, "--event-type", "what", "--root", tmp_path)
    assert len(Dataset.open(tmp_path / "shop").events) == 80
