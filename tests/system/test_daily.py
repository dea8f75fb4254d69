"""Daily work with two finished runs, through the command line: everybody's lists, re-ranked candidates, other systems'
lists judged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.cli.experiment import Experiment
from corral.cli.main import main
from corral.cli.retriever_stage import served_channel
from corral.cli.run import open_models, open_recommender
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part
from corral.data.synthetic import markov_world
from corral.evaluation.result import Evaluation

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


def test_candidates_re_ranked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundle's own candidates come back in its order; strangers get the stated answers."""
    recommender = open_recommender(run)
    users = recommender.tables.users.ids.to_pylist()
    served = recommender.recommend(users, recommender.num_candidates).to_frame()
    given, out = tmp_path / "theirs.csv", tmp_path / "ours.parquet"
    served.sample(fraction=1.0, shuffle=True, seed=0).select("user_id", "item_id").write_csv(given)
    with given.open("a") as stream:
        stream.write("777777,1003\n777777,9999\n777777,1001\n")
    said = corral(capsys, "rerank", run, "--candidates", given, "--out", out)
    assert f"{len(users) + 1} lists, 1 of them of users the bundle does not know" in said
    found = pl.read_parquet(out)
    ours = found.filter(pl.col("user_id") != 777777).sort("user_id", "rank")
    assert ours["item_id"].equals(served.sort("user_id", "rank")["item_id"])
    stranger = found.filter(pl.col("user_id") == 777777)
    assert stranger["item_id"].to_list()[2] == 9999
    assert stranger["score"].null_count() == 1
    assert stranger["fallback"].all()
    corral(capsys, "rerank", run, "--candidates", given, "--out", tmp_path / "top.csv", "-k", 3)
    top = pl.read_csv(tmp_path / "top.csv")
    assert top.sort("user_id", "rank")["item_id"].equals(
        found.filter(pl.col("rank") <= 3).sort("user_id", "rank")["item_id"]
    )
    given.write_text(given.read_text().replace(",", ";"), encoding="utf-16")
    form = ("--separator", ";", "--encoding", "utf-16")
    corral(capsys, "rerank", run, "--candidates", given, "--out", tmp_path / "again.parquet", *form)
    assert pl.read_parquet(tmp_path / "again.parquet").equals(found)
    given.write_text("user_id,item_id\n5,1003\n5,1003\n")
    said = corral(capsys, "rerank", run, "--candidates", given, "--out", out, code=2)
    assert f"{given}, line 3, column 'item_id': '1003': stands twice" in said


def test_lists_of_another_system_are_judged_as_the_runs_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lists that hold every target first are perfect; a missing user finds nothing; the targets are the run's."""
    own = json.loads(corral(capsys, "evaluate", run, "-q", "--json"))
    experiment = Experiment.open(run, quiet=True)
    asked = experiment.targets(Part.TEST)
    users, items = experiment.dataset.users, experiment.dataset.items
    owner = asked.user.repeat(asked.offsets[1:] - asked.offsets[:-1])
    rows = pl.DataFrame({"user_id": users.external(owner), "item_id": items.external(asked.items)}).unique()
    path = tmp_path / "perfect.csv"
    rows.write_csv(path)
    perfect = json.loads(corral(capsys, "evaluate", run, "--lists", path, "--json", "--out", tmp_path / "judged", "-q"))
    assert perfect["protocol"] == own["protocol"]
    assert perfect["metrics"]["recall@100"] == 1.0
    assert perfect["system"]["lists"]["asked_without_list"] == 0
    assert (tmp_path / "judged" / "evaluation.json").is_file()
    without = rows.filter(pl.col("user_id") != rows["user_id"][0])
    pl.concat([without, pl.DataFrame({"user_id": [777777], "item_id": [1003]})]).write_csv(path)
    less = json.loads(corral(capsys, "evaluate", run, "--lists", path, "--json", "-q"))
    queries = (asked.user == users.rows([rows["user_id"][0]])[0]).sum()
    assert less["metrics"]["recall@100"] == pytest.approx(1.0 - queries / len(asked))
    assert less["system"]["lists"] | {"longest_list": 0} == {
        "file": "perfect.csv",
        "users": rows["user_id"].n_unique(),
        "users_not_in_data": 1,
        "asked_without_list": 1,
        "skipped_rows": 0,
        "longest_list": 0,
    }
    path.write_text(path.read_text().replace(",", ";"))
    assert "(--separator ';')" in corral(capsys, "evaluate", run, "--lists", path, "-q", code=2)
    again = json.loads(corral(capsys, "evaluate", run, "--lists", path, "--json", "-q", "--separator", ";"))
    assert again["metrics"] == less["metrics"]
    said = corral(capsys, "evaluate", run, "--lists", path, "-q", "--separator", ";")
    assert "The funnel" in said
    assert "Protocol: " in said


def test_the_runs_own_lists_earn_what_the_run_earns(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 1 as a file of lists: of users asked once, whose lists are as of that query, every metric is the same."""
    experiment = Experiment.open(run, quiet=True)
    models = open_models(run, "cpu")
    asked = experiment.targets(Part.TEST)
    first = asked.only(np.unique(asked.user, return_index=True)[1])
    batch = first.batch(np.arange(len(first)))
    found = served_channel(experiment, models.retriever).recall(batch.query, ITEMS, batch.exclude)
    owner, place = found.mask.numpy().nonzero()
    users, items = experiment.dataset.users, experiment.dataset.items
    lists = pl.DataFrame(
        {
            "user_id": users.external(first.user[owner]),
            "item_id": items.external(found.items.numpy()[owner, place]),
            "score": found.scores.numpy()[owner, place].astype(float),
        }
    )
    path = tmp_path / "lists.parquet"
    lists.write_parquet(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "targets", lambda self, part: first)
        theirs = json.loads(corral(capsys, "evaluate", run, "--lists", path, "--json", "-q"))["metrics"]
        ours = json.loads(corral(capsys, "evaluate", run, "--json", "-q"))["metrics"]
    same = [name for name in theirs if name.startswith("retriever/")]
    assert len(same) > 20
    assert {name: theirs[name] for name in same} == pytest.approx({name: ours[name] for name in same})


def test_lists_that_cannot_be_judged(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lists.csv"
    for rows, message in (
        ("1,1003\n1,9999\n", "line 3, column 'item_id': '9999': no such item in the data set"),
        ("1,1003\n1,1003\n", "line 3, column 'item_id': '1003': stands twice"),
        ("777777,1003\n", "none of its 1 users is in data, first 777777"),
    ):
        path.write_text("user_id,item_id\n" + rows)
        assert message in corral(capsys, "evaluate", run, "--lists", path, "-q", code=2)
    path.write_text("user_id,item_id\n1,1003\n1,9999\n")
    corral(capsys, "evaluate", run, "--lists", path, "-q", "--skip-bad-rows")
    for option in (["--skip-bad-rows"], ["--separator", ";"], ["--encoding", "utf-16"]):
        assert "--skip-bad-rows are for --lists FILE" in corral(capsys, "evaluate", run, "-q", *option, code=2)


def test_a_run_is_exported_with_its_split_and_results(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = json.loads(corral(capsys, "data", "export", run, tmp_path / "out", "--json"))
    assert {"train.parquet", "test.parquet", "items.parquet", "queries.parquet", "split.json"} <= set(said["files"])
    result, experiment = Evaluation.open(run / "evaluation"), Experiment.open(run, quiet=True)
    queries = pl.read_parquet(tmp_path / "out" / "queries.parquet")
    assert queries["ndcg@10"].mean() == pytest.approx(result.metrics["ndcg@10"], abs=1e-6)
    assert queries["retriever/recall@12"].mean() == pytest.approx(result.metrics["retriever/recall@12"], abs=1e-6)
    assert set(queries["user_id"]) <= set(experiment.dataset.users.ids.to_pylist())
    targets = pl.read_parquet(tmp_path / "out" / "targets.parquet")
    assert targets.height == queries["targets"].sum()
    # A target of rank 1 in the retriever's list is what the retriever's MRR counts fully.
    first = targets.group_by("query").agg((pl.col("rank/retriever") == 1).any())["rank/retriever"].mean()
    assert first == pytest.approx(float((result.per_query["retriever/mrr@10"] == 1).mean()))
    test = pl.read_parquet(tmp_path / "out" / "test.parquet")
    assert set(targets.select("user_id", "item_id").rows()) <= set(test.select("user_id", "item_id").rows())
    assert "has its split already: leave --rule out" in corral(
        capsys, "data", "export", run, tmp_path / "other", "--rule", "random", code=2
    )
    corral(capsys, "data", "export", run.parent / "data", tmp_path / "lots", "--rule", "random", "--format", "atomic")
    assert (tmp_path / "lots" / "data.train.inter").exists()
