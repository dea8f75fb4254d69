"""A user is forgotten: the bytes of the id are in no file any more, and all others are served as before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from corral.cli.build import build_part
from corral.cli.experiment import Experiment
from corral.cli.main import main
from corral.cli.run import judge, open_models, open_recommender
from corral.cli.serve import service_app
from corral.cli.traces import traces
from corral.data.dataset import Dataset
from corral.data.dataset_interactions import interactions_of
from corral.data.forget import forget_user
from corral.data.interactions import Interactions
from corral.data.served_lists import forget_lists
from corral.data.synthetic import markov_world
from corral.serving.bundle import save_bundle
from corral.serving.http.impression_log import ImpressionLog, ServedList
from corral.serving.http.live_events import Event
from corral.serving.http.sqlite_events import SqliteEvents
from corral.serving.new_items import add_items

NAME, NUMBER = "zoë-forget-me-8fb1", 7_234_567_890_123
RECIPES = {
    "corr": """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15}
retriever: {kind: mf, size: 8}
ranker: {kind: din, field_size: 8, hidden: [8], history_length: 6, evidence: {recent: 3}, linear: {}}
together: {kind: corr, epochs: 1, batch_size: 64, num_negatives: 4, num_codewords: 4}
evaluation: {num_candidates: 12, correction: true}
""",
    "rar": """
threads: 1
data: {path: DATA}
retriever: {kind: two-tower, size: 8, hidden: [8], history_length: 4}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 4, as_of: {recent: 4}, behaviour: {},
  rar: {look_alikes: 3, recall_items: 3}}
ranker_training: {loss: clicks, sampled_negatives: 2, epochs: 1, batch_size: 64}
""",
}


def world(folder: Path, kind: type) -> tuple[Path, int | str]:
    """A data set with user features and impressions, whose ids are names or numbers; and the user to be forgotten."""
    events = markov_world(40, 30, length=14).interactions.events
    user: int | str = NAME if kind is str else NUMBER
    ids = [user, *(f"user-{n}" if kind is str else n for n in range(1, 40))]
    events = events.with_columns(pl.Series("user_id", [ids[n] for n in events["user_id"]]))
    features = pl.DataFrame({"user_id": ids, "city": ["only theirs", *("ab"[n % 2] for n in range(39))]})
    shown = events.head(60).with_columns(pl.col("item_id").reverse())
    made = Interactions.of(events, impressions=shown, user_features=features, source="made up")
    return Dataset.write(folder / "data", made).path, user


def corral(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (leaving.value.code or 0) == code, out + err
    return err if code == 2 else out


def holding(folder: Path, user: int | str) -> list[str]:
    """Files that hold the bytes of the id, or of the only value that it alone had."""
    wanted = [str(user).encode(), b"only theirs"]
    if isinstance(user, int):
        wanted.append(user.to_bytes(8, "little", signed=True))
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if any(one in file.read_bytes() for one in wanted)]


@pytest.mark.parametrize(("name", "kind"), [("corr", str), ("rar", int)])
def test_no_file_holds_a_forgotten_user(
    name: str, kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, user = world(tmp_path, kind)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPES[name].replace("DATA", str(data)))
    run, served, live = tmp_path / "run", tmp_path / "served", tmp_path / "live.sqlite"
    corral(capsys, "train", recipe, "--run", run, "-q")
    before = open_recommender(run, "cpu")
    others = [one for one in before.tables.users.ids.to_pylist() if one != user]
    (run / "report.html").write_text(f"<p>{user}</p>")
    log, store = ImpressionLog(served), SqliteEvents(live)
    with TestClient(service_app(run, store, impressions=log)) as client:
        asked = {"users": [{"user_id": one} for one in (user, others[0], user)], "k": 3}
        assert client.post("/v1/recommend", json=asked).status_code == 200
    log.close()
    store.append([Event(one, 7, 10_000 + n) for n in range(50) for one in (user, others[0])])
    places = ("--dataset", data, "--run", run, "--events", live, "--impressions", served)
    assert "files, " in corral(capsys, "forget", str(user), *places, "--check", code=1)
    assert len(holding(tmp_path, user)) >= 5
    said = corral(capsys, "forget", str(user), *places, "-q")
    assert "14 events, " in said
    assert "1 rows of features removed" in said
    assert "2 lists removed" in said
    assert "50 live events removed" in said
    assert "No file holds the id" in said
    assert "searched: " in said
    store.close()
    assert holding(tmp_path, user) == []
    assert not (run / "report.html").exists()
    # What it says of others: weights are those of before, and so is everything that did not come from the user.
    after = open_recommender(run, "cpu")
    assert after.tables.users.ids.to_pylist() == others
    items = after.tables.items.ids.to_pylist()
    rows = [r.tables.items.rows(items) for r in (before, after)]
    old, new = (dict(r.retriever.named_parameters()) for r in (before, after))  # type: ignore[attr-defined]
    table = "item_embedding.weight" if name == "corr" else "items.id.weight"
    assert np.array_equal(old[table].detach().numpy()[rows[0]], new[table].detach().numpy()[rows[1]])
    assert after.recommend([user], 3).fallback.tolist() == [True]
    experiment = Experiment.open(run, quiet=True)
    assert judge(experiment, open_models(run, "cpu")).metrics["ndcg@10"] == pytest.approx(
        json.loads((run / "evaluation" / "evaluation.json").read_text())["metrics"]["ndcg@10"]
    )
    # Again: nobody is there, and nothing is changed.
    again = corral(capsys, "forget", str(user), *places, "-q")
    assert "0 events, " in again
    assert "no such user" in again
    # Life goes on.
    later = ("split.valid_from=null", "split.test_from=null", "split.valid_fraction=0.08", "split.test_fraction=0.08")
    corral(capsys, "train", "--from", run, "--run", tmp_path / "next", "-q", *later)


def test_every_run_that_can_be_made_again_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first one is on other data; live events stand where a server keeps them; an item came after training."""
    data, user = world(tmp_path, str)
    other, _ = world(tmp_path / "elsewhere", str)
    old = interactions_of(Dataset.open(data))
    colours = old.events.select(pl.col("item_id").unique().sort()).with_columns(colour=pl.lit("red"))
    Dataset.write(data, replace(old, item_features=colours), overwrite=True)
    recipe = tmp_path / "recipe.yaml"
    runs = [tmp_path / "first", tmp_path / "second"]
    for run, trained_on in zip(runs, (other, data), strict=True):
        recipe.write_text(RECIPES["rar"].replace("DATA", str(trained_on)))
        corral(capsys, "train", recipe, "--run", run, "-q")
    arrived = pl.DataFrame({"item_id": [1_000_003], "colour": ["red"]})
    longer = add_items(open_recommender(runs[1], "cpu"), arrived, build_part)
    save_bundle(runs[1] / "bundle", longer, data_name="made up", data_hash=Dataset.open(data).hash)
    store = SqliteEvents(Path(f"{runs[1]}.events.sqlite"))
    store.append([Event(user, 7, 10_000)])
    store.close()
    said = corral(capsys, "forget", user, "--dataset", data, "--run", runs[0], "--run", runs[1], "-q", code=1)
    assert f"{runs[0]}: was trained on {other}" in said
    assert f"{runs[1]}: made again without the user" in said
    assert "1 items that were added to its bundle later are not in it any more (1000003): add them again" in said
    assert "second.events.sqlite: 1 live events removed" in said
    assert not [file for file in holding(tmp_path, user) if "first" not in file and "elsewhere" not in file]
    assert user in open_recommender(runs[0], "cpu").tables.users.ids.to_pylist()


def test_a_data_set_is_as_if_the_user_had_never_been(tmp_path: Path) -> None:
    path, user = world(tmp_path, str)
    dataset = Dataset.open(path)
    log = dataset.events
    rows = {"user_id": dataset.users.external(log.user), "item_id": dataset.items.external(log.item)}
    events = pl.DataFrame({**rows, "timestamp": log.time}).filter(pl.col("user_id") != user)
    mine = int(dataset.users.rows([user])[0])
    found = forget_user(path, user)
    assert found.events == int(np.diff(log.offsets)[mine])
    assert found.features
    never = Dataset.write(tmp_path / "never", Interactions.of(events, source="made up"))
    assert (Dataset.open(path).events.item == never.events.item).all()
    assert (Dataset.open(path).events.offsets == never.events.offsets).all()
    Dataset.open(path).verify()
    with pytest.raises(ValueError, match="is the only one with events"):
        forget_user(Dataset.write(tmp_path / "one", Interactions.of(events.head(1), source="x")).path, "user-1")


@pytest.mark.parametrize("iterate", [False, True])
def test_nobody_else_loses_an_event_where_filters_were_applied(tmp_path: Path, iterate: bool) -> None:
    """Applied again, they would find items that came to be rare with the user, and users with those."""
    rng = np.random.default_rng(0)
    items = (rng.pareto(0.8, 1500) * 20).astype(int).clip(0, 400)
    events = pl.DataFrame({"user_id": rng.integers(0, 300, 1500), "item_id": items, "timestamp": np.arange(1500)})
    events = events.with_columns(value=pl.col("timestamp") / 4)
    made = Interactions.of(events, impressions=events.drop("value").head(400), source="made up")
    old = Dataset.write(tmp_path / "data", made, min_user_events=5, min_item_events=4, iterate=iterate)
    user, before = old.users.external([2])[0], interactions_of(old)
    found = forget_user(old.path, user)
    new = Dataset.open(old.path)
    after = interactions_of(new)
    assert after.events.equals(before.events.filter(pl.col("user_id") != user))
    assert before.impressions is not None
    assert after.impressions is not None
    assert after.impressions.equals(before.impressions.filter(pl.col("user_id") != user))
    assert found.events == len(before.events) - len(after.events)
    new.verify()
    for name in ("min_user_events", "min_item_events", "iterate"):
        assert getattr(new.header, name) == getattr(old.header, name)
    for name in ("filtered_events", "filtered_impressions"):
        assert getattr(new.header.counts, name) == getattr(old.header.counts, name) > 0
    never = Dataset.write(tmp_path / "never", after)
    assert new.hash == never.hash


def test_filters_keep_nobody_from_being_forgotten(tmp_path: Path) -> None:
    events = pl.DataFrame({"user_id": ["a", "a", "b", "b"], "item_id": [1, 2, 1, 2], "timestamp": [1, 2, 3, 4]})
    path = Dataset.write(tmp_path / "data", Interactions.of(events, source="x"), min_item_events=2).path
    assert forget_user(path, "a").events == 2
    assert interactions_of(Dataset.open(path)).events.equals(events[2:])


def test_refusals_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, user = world(tmp_path, str)
    before = Dataset.open(path).hash
    for words, message in (
        (("--run", tmp_path / "nowhere"), "no run"),
        (("--events", tmp_path / "nowhere.sqlite"), "no live events there"),
    ):
        assert message in corral(capsys, "forget", user, "--dataset", path, *words, code=2)
    assert Dataset.open(path).hash == before
    numbers, _ = world(tmp_path / "numbers", int)
    assert "the ids of this data set are whole numbers" in corral(capsys, "forget", user, "--dataset", numbers, code=2)


def test_a_log_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    log.write([ServedList("a", 1, ["x"], "b"), ServedList("other", 1, ["x"], "b")])
    with pytest.raises(ValueError, match="is being written: stop the server"):
        forget_lists(tmp_path, "a")
    assert forget_lists(tmp_path, "nobody") == 0
    log.close()
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes() + b'{"user_id": "a", "ti')
    assert forget_lists(tmp_path, "a") == 2
    assert [json.loads(line)["user_id"] for line in file.read_text().splitlines()] == ["other"]


def test_traces_know_whole_ids_from_parts_of_others(tmp_path: Path) -> None:
    store = SqliteEvents(tmp_path / "live.sqlite")
    store.append([Event("customer-17", "x", 1), Event("customer-171", "x", 1)])
    store.close()
    (tmp_path / "notes.txt").write_text("customer-171 and customer-17b")
    events = pl.DataFrame({"user_id": ["customer-171", "b"], "item_id": ["x", "y"], "timestamp": [1, 2]})
    Dataset.write(tmp_path / "data", Interactions.of(events, source="x"))
    assert [line.rpartition(": ")[2] for line in traces("customer-17", [tmp_path]).found] == ["live events of the user"]
    assert traces("customer-9", [tmp_path]).found == ()
    assert len(traces("customer-171", [tmp_path]).found) == 4
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "customer-9.txt").write_bytes(b"")
    assert traces("customer-9", [tmp_path]).found == (f"{tmp_path / 'customer-9.txt'}: the name of the file",)


@pytest.mark.parametrize(
    ("user", "in_text", "in_bytes"),
    [("u17", False, False), (17, False, False), (1_234_567, True, False), (2**40, True, True)],
)
def test_a_search_says_how_it_was_done_and_did_it(
    tmp_path: Path, user: int | str, in_text: bool, in_bytes: bool
) -> None:
    (tmp_path / "notes.txt").write_text(f"about {user} this")
    (tmp_path / "weights.npy").write_bytes(b"?" + (user if isinstance(user, int) else 0).to_bytes(8, "little") + b"?")
    search = traces(user, [tmp_path])
    assert sorted(Path(line.partition(": ")[0]).name for line in search.found) == (
        ["notes.txt"] * in_text + ["weights.npy"] * in_bytes
    )
    assert ("all text" in search.where, search.where == "all bytes") == (in_text and not in_bytes, in_bytes)
