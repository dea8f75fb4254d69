"""What RAR is compared with, from settings to a bundle that answers the same: similar rows, searches, a second head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click_runs import RECIPE, Train, assert_same_answers

from corral.cli.experiment import Experiment
from corral.cli.leakage_inputs import row_inputs
from corral.cli.run import build_part, open_recommender
from corral.ranking.evidence import EvidenceRanker
from corral.rar.similar_rows import SimilarRowsEvidence
from corral.serving.new_items import add_items
from corral.settings import load_settings

ROWS = "ranker.similar_rows={blocks: 3, near_items: 2, people: 4, rows: 5, key_size: 4, history_length: 6}"
FORMS = {
    "similar rows": (ROWS,),
    "similar rows alone": ("ranker.as_of=null", ROWS),
    "eta": ("ranker.kind=eta", "ranker.nearest=2", "ranker.recent=1", "ranker.bits=16"),
    "sdim": ("ranker.kind=sdim", "ranker.recent=1", "ranker.bits=12", "ranker.width=2"),
    "exposure head": ("ranker_training.exposure_head=0.2",),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_the_bundle_answers_as_the_trained_models_did(train: Train, form: str) -> None:
    experiment, recommender = train(*FORMS[form])
    assert_same_answers(recommender, open_recommender(experiment.directory))
    assert ("similar_rows_rule" in experiment.protocol()) == (ROWS in FORMS[form])
    lines = (experiment.directory / "ranker" / "log.jsonl").read_text().splitlines()
    assert all(("loss/exposure" in json.loads(line)) == (form == "exposure head") for line in lines)


def test_similar_rows_read_histories_as_long_as_they_say(train: Train) -> None:
    experiment, recommender = train(*FORMS["similar rows alone"])
    assert experiment.history_length == 6
    ranker = recommender.ranker
    assert isinstance(ranker, EvidenceRanker)
    assert isinstance(ranker.evidence, SimilarRowsEvidence)
    assert ranker.evidence.near.i2i.any()
    assert [one.name for one in row_inputs(experiment)][-1] == "similar rows"


def test_items_are_added(train: Train) -> None:
    before = open_recommender(train(*FORMS["similar rows"])[0].directory)
    frame = pl.DataFrame({"item_id": [-3, 1_000], "shelf": ["shelf 0", "shelf 1"]})
    longer = add_items(before, frame, build_part)
    users = before.tables.users.ids.to_pylist()
    one = before.recommend(users, 24, explain=True)
    other = longer.recommend(users, 26, deny=frame["item_id"].to_list(), explain=True)
    assert one.item_ids == other.item_ids
    np.testing.assert_allclose(other.ranker_logits, one.ranker_logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("ranker_training.exposure_head=0.1", "ranker.rar={}"), "leave ranker.rar out"),
        (("ranker_training.exposure_head=0.1", "ranker_training.loss=softmax"), "loss=clicks"),
        (("ranker.kind=sdim", "ranker.bits=16"), "multiple of width=3"),
    ],
)
def test_what_does_not_go_together_is_said_before_training(
    data: Path, tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Experiment.start(load_settings(RECIPE.replace("DATA", str(data)), "controls", overrides), tmp_path, quiet=True)
