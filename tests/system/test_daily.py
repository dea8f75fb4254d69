"""Daily work with two finished runs, through the command line: everybody's lists, re-ranked candidates, other systems'
lists judged."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from corral.cli.main import main
from corral.cli.run import open_recommender
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.synthetic import markov_world

RECIPE = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15}
retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 6}
ranker_training: {epochs: 1, batch_size: 256, num_negatives: 4}
evaluation: {num_candidates: 12, serve_by: fused}
"""
ITEMS = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users and items 1000 .. with shelves 0, 1, 2, 3."""
    folder = tmp_path_factory.mktemp("daily")
    events = markov_world(50, ITEMS, length=14).interactions.events
    events = events.with_columns(pl.col("item_id") + 1000)
    shelves = pl.DataFrame({"item_id": range(1000, 1000 + ITEMS), "shelf": [str(item % 4) for item in range(ITEMS)]})
    Dataset.write(folder / "data", Interactions.of(events, item_features=shelves, source="made up"))
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(folder / "data")))
    with pytest.raises(SystemExit) as leaving:
        main(["train", str(recipe), "--run", str(folder / "run"), "-q"])
    assert not leaving.value.code
    return folder / "run"


def corral(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What a command prints; where it is refused (2), what it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (leaving.value.code or 0) == code, err
    return err if code else out


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_everybodys_lists(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    monkeypatch.setattr("corral.cli.write_lists.BATCH", 7)
    out = tmp_path / "new" / f"lists.{ending}"
    said = corral(capsys, "recommend", run, "--users", "all", "--out", out, "-k", 4)
    recommender = open_recommender(run)
    users = recommender.tables.users.ids.to_pylist()
    assert f"{len(users)} lists, 0 of them shorter than 4" in said
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[ending]
    found, wanted = read(out), recommender.recommend(users, 4).to_frame()
    assert found.select("user_id", "rank", "item_id", "fallback").equals(
        wanted.select("user_id", "rank", "item_id", "fallback")
    )
    # batches of another size round differently in the last bits
    assert (found["score"] - wanted["score"]).abs().max() < 1e-5
    assert os.listdir(out.parent) == [out.name]


def test_rules_of_a_list(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock = tmp_path / "stock.txt"
    stock.write_text("".join(f"{item}\n" for item in range(1004, 1030)))
    out = tmp_path / "lists.parquet"
    options = ("--allow", f"@{stock}", "--deny", "1005,1006", "--at-most", "shelf=2", "--diversity", "0.4")
    new = ("--min-new", 3, "--new", "1010,1011,1012,1013,1014,1015,1016,1017,1018,1019,1020,1021,1022")
    corral(capsys, "recommend", run, "--users", "all", "--out", out, "-k", 6, *options, *new, "--seen")
    found = pl.read_parquet(out)
    assert set(found["item_id"]) <= set(range(1004, 1030)) - {1005, 1006}
    sizes = found.group_by("user_id", pl.col("item_id") % 4).len()
    assert sizes["len"].max() == 2
    assert (found.group_by("user_id").len()["len"] == 6).all()
    fresh = found.filter(pl.col("item_id").is_between(1010, 1022)).group_by("user_id").len()
    assert len(fresh) == 50
    assert fresh["len"].min() >= 3


def test_requests_for_lists_that_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "stock.txt"
    bad.write_text("1004\nsoap\n")
    for words, message in (
        (("--users", "all"), "--users all and --out FILE go together"),
        (("--out", "lists.csv", "--user", 1), "--users all and --out FILE go together"),
        (("--users", "all", "--out", "lists.xlsx"), "unknown kind of file '.xlsx'"),
        (("--user", 1, "--allow", f"@{bad}"), f"{bad}, line 2: item 'soap'"),
        (("--user", 1, "--allow", "@nothing.txt"), "nothing.txt: no such file"),
        (("--user", 1, "--at-most", "shelf"), "write FEATURE=N"),
        (("--user", 1, "--at-most", "shlf=1"), "no such item feature; categorical ones: shelf"),
        (("--user", 1, "--new", "1004"), "--min-new"),
    ):
        assert message in corral(capsys, "recommend", run, *words, code=2)
