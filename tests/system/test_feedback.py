"""The loop closed: what was served and not clicked teaches the next ranker, as of its time, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from served_runs import small_run

from corral.cli.experiment import Experiment
from corral.cli.main import main
from corral.cli.rar_stage import train_exposures
from corral.cli.run import train_run
from corral.cli.serve import service_app
from corral.data.dataset import Dataset
from corral.data.split import Part
from corral.serving.http.impression_log import ImpressionLog
from corral.serving.http.sqlite_events import SqliteEvents
from corral.settings import load_settings

RECIPE = """
threads: 1
data: {path: DATA}
split: {valid_from: VALID, test_from: TEST, repeats: true}
retriever: {kind: mf, size: 4}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 6, rar: {look_alikes: 3, recall_items: 3}}
ranker_training: {loss: clicks, epochs: 1, batch_size: 64}
evaluation: {num_candidates: 12}
"""


def test_a_served_item_that_was_not_clicked_becomes_a_negative(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    data = Dataset.open(tmp_path / "data")
    end = int(data.events.time.max())
    users = data.users.ids.to_pylist()
    log, store = ImpressionLog(tmp_path / "served"), SqliteEvents(tmp_path / "events.sqlite")
    with TestClient(service_app(run, store, impressions=log)) as client:

        def served(time: int) -> list[dict[str, Any]]:
            body = {"users": [{"user_id": user} for user in users], "k": 5, "time": time}
            return client.post("/v1/recommend", json=body).json()["lists"]

        lists = {one["user_id"]: one["items"] for one in served(end + 10)}
        served(end + 70), served(end + 85)  # of the next validation, and of its test
    log.close()
    store.close()
    # Everybody takes the first item of the list, some time later, and everything else much later.
    rows = [(user, items[0]["item_id"], end + 12) for user, items in lists.items()]
    rows += [(user, items[1]["item_id"], end + 40) for user, items in lists.items()]
    rows += [(user, items[0]["item_id"], end + 60 + place) for place, (user, items) in enumerate(lists.items())]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    events.write_csv(tmp_path / "new.csv")
    files = (str(data.path), str(tmp_path / "new.csv"), "--impressions", str(tmp_path / "served"))
    with pytest.raises(SystemExit) as leaving:
        main(["data", "append", *files, "--clicked-within", "5"])
    assert not leaving.value.code
    cuts = (str(end + 60), str(end + 80))
    text = RECIPE.replace("DATA", str(data.path)).replace("VALID", cuts[0]).replace("TEST", cuts[1])
    experiment = Experiment.start(load_settings(text, "feedback"), tmp_path / "next", quiet=True)
    grown, examples = experiment.dataset, experiment.examples(Part.TRAIN)
    negative = np.flatnonzero(examples.label == 0)
    found: dict[int, set[int]] = {}
    for user, item in zip(
        grown.users.external(examples.user[negative]), grown.items.external(examples.item[negative]), strict=True
    ):
        found.setdefault(user, set()).add(item)
    assert found == {user: {item["item_id"] for item in items[1:]} for user, items in lists.items()}
    # As of the time of the list: the history ends before what was clicked after it.
    batch = examples.batch(negative, 30)
    assert (batch.query.time == end + 10).all()
    histories = grown.events
    for row in range(0, len(negative), 7):
        user = int(batch.query.user[row])
        mine = slice(histories.offsets[user], histories.offsets[user + 1])
        before = histories.item[mine][histories.time[mine] < end + 10]
        assert batch.query.history[row][batch.query.history[row] > 0].tolist() == before[-30:].tolist()
    # RAR's exposures know it was shown, from then on and not before.
    exposures = train_exposures(experiment)
    user, item = batch.query.user, batch.item
    already = experiment.examples(Part.TRAIN)
    met = {(u, i) for u, i, t in zip(already.user, already.item, already.time, strict=True) if t < end + 10}
    first = torch.tensor([(int(u), int(i)) not in met for u, i in zip(user, item, strict=True)])
    assert first.any()
    for time, shown in ((end + 10, False), (end + 11, True)):
        exposed, _ = exposures.before(user[first], item[first], torch.full_like(user[first], time))
        assert bool((exposed == shown).all())
    # And a RAR ranker learns from it: clicks are judged without sampled negatives.
    assert 0.0 <= train_run(experiment).metrics["click/auc"] <= 1.0
