"""The cache of named data: another source, filter, reader or version is another Dataset."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from corral.cli import open_data as module
from corral.cli.data_roots import dataset_path
from corral.cli.given_ids import given_ids
from corral.cli.open_data import cache_path, open_data
from corral.data.interactions import Interactions
from corral.data.vocabulary import Vocabulary
from corral.settings import DataSettings


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set by the name ``tiny``: the lines of ``inner/clicks.txt``."""
    folder = tmp_path / "data" / "tiny"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "clicks.txt").write_text("1 5\n1 6\n2 5\n")

    def read(where: Path) -> Interactions:
        rows = [line.split() for line in (where / "inner" / "clicks.txt").read_text().splitlines()]
        frame = pl.DataFrame(rows, ["user_id", "item_id"], orient="row").cast(pl.Int64)
        return Interactions.of(frame.with_row_index("timestamp").cast(pl.Int64), source="tiny", licence="none")

    monkeypatch.setitem(module.NAMED_DATA, "tiny", read)
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    return folder


TINY = DataSettings(name="tiny")


def test_read_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_data(TINY)
    monkeypatch.setitem(module.NAMED_DATA, "tiny", lambda folder: pytest.fail("read again"))
    assert open_data(TINY).path == first.path


def test_a_file_in_a_folder_below_is_seen(source: Path) -> None:
    assert len(open_data(TINY).events) == 3
    (source / "inner" / "clicks.txt").write_text("1 5\n1 6\n2 5\n2 6\n")
    assert len(open_data(TINY).events) == 4


def test_readers_version_and_filters_are_in_the_key(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {cache_path(TINY, source), cache_path(TINY.model_copy(update={"min_user_events": 2}), source)}
    monkeypatch.setattr(module, "READERS_VERSION", module.READERS_VERSION + 1)
    paths.add(cache_path(TINY, source))
    monkeypatch.setattr(module, "__version__", "99.0")
    paths.add(cache_path(TINY, source))
    assert len(paths) == 4


def test_what_python_caches_beside_the_data_does_not_matter(source: Path) -> None:
    before = cache_path(TINY, source)
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "x.pyc").write_text("")
    assert cache_path(TINY, source) == before


def test_a_damaged_copy_is_made_again(source: Path) -> None:
    path = open_data(TINY).path
    (path / "header.json").write_text("{")
    assert len(open_data(TINY).events) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataSettings(), "give either name or path"),
        (DataSettings(name="tiny", path=Path("x")), "give either name or path"),
        (DataSettings(name="tinny"), "known are online-retail"),
        (DataSettings(name="ml-1m"), "ml-1m does not exist"),
        (DataSettings(path=Path("x"), min_user_events=2), "filters are applied when a Dataset is made"),
    ],
)
def test_wrong_requests(source: Path, data: DataSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(data)


def test_a_folder_of_raw_files_called_as_the_data_set_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "data" / "shop").mkdir(parents=True)
    assert dataset_path("shop", Path("data")) == Path("shop")
    (tmp_path / "data" / "shop" / "header.json").write_text("{}")
    assert dataset_path("shop", Path("data")) == Path("data/shop")
    (tmp_path / "shop" / "header.json").write_text("{}")
    assert dataset_path("shop", Path("data")) == Path("shop")
    assert dataset_path("nowhere", Path("data")) == Path("nowhere")


def test_blanks_after_commas_are_no_part_of_ids() -> None:
    vocabulary = Vocabulary.of(pl.Series(["a", "b"]))
    assert given_ids("a, b ,", vocabulary, "item", "--deny") == ["a", "b"]
