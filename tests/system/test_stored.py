"""What earlier versions wrote is read and answers as it did: the guard of the formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from corral.cli.run import open_recommender
from corral.data.dataset import Dataset
from corral.data.dataset_header import FORMAT_VERSION, UNWEIGHTED_VERSION
from corral.serving.manifest import FORMAT_VERSION as BUNDLE_VERSION

STORED = Path(__file__).parents[1] / "stored"
EXAMPLES = sorted(path for path in STORED.iterdir() if path.is_dir())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_a_bundle_of_before_answers_as_it_did(example: Path) -> None:
    then = json.loads((example / "answers.json").read_text())
    recommender = open_recommender(example / "bundle", "cpu")
    moment = recommender.tables.histories.as_of  # what was asked then; who names no time now asks just after it
    found = recommender.recommend(then["users"], 5, time=moment)
    assert found.item_ids == then["items"]
    scores = np.array([[-np.inf if one is None else one for one in row] for row in then["scores"]])
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-5)
    values = recommender.predict([tuple(pair) for pair in then["pairs"]], time=moment).values
    np.testing.assert_allclose(values, then["predictions"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_lists_of_items_that_nobody_knows_stay_as_they_came(example: Path) -> None:
    """One user a call is how a service asks; with evidence by category the ranker had no item to look at."""
    then = json.loads((example / "answers.json").read_text())
    recommender = open_recommender(example / "bundle", "cpu")
    user, strange = then["users"][0], [-1, -2] if isinstance(then["items"][0][0], int) else ["-1", "-2"]
    assert recommender.rerank([user], [strange]).item_ids == [strange]
    assert recommender.rerank([user], [[]]).item_ids == [[]]


@pytest.mark.parametrize("example", [path for path in EXAMPLES if (path / "data").is_dir()], ids=lambda path: path.name)
def test_a_data_set_of_before_is_whole(example: Path) -> None:
    dataset = Dataset.open(example / "data")
    dataset.verify()
    assert dataset.hash == json.loads((example / "answers.json").read_text())["hash"]
    assert (dataset.n_users, dataset.n_items, len(dataset.events)) == (18, 14, 160)
    assert set(dataset.item_features.columns) == {"title", "shelf", "tags", "price"}
    assert (dataset.events.weight is None) == (example.name != "weighted")


def test_every_format_has_an_example() -> None:
    """Whoever raises a version stores an example of the one before and of the new one: tests/stored/README.md."""
    headers = [json.loads(path.read_text()) for path in STORED.glob("*/data/header.json")]
    assert {header["format_version"] for header in headers} == set(range(UNWEIGHTED_VERSION, FORMAT_VERSION + 1))
    manifests = [json.loads(path.read_text()) for path in STORED.glob("*/bundle/manifest.json")]
    assert {manifest["format_version"] for manifest in manifests} == set(range(1, BUNDLE_VERSION + 1))
    for example in EXAMPLES:
        assert sum(file.stat().st_size for file in example.rglob("*") if file.is_file()) < 100_000, example
