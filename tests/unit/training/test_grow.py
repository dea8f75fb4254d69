"""Weights moved into longer tables: what new rows start with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from corral.data.dataset import Dataset
from corral.data.features import FeatureTable
from corral.data.interactions import Interactions
from corral.data.split import time_cut
from corral.data.vocabulary import UNKNOWN, Vocabulary
from corral.retrieval.look_alike_items import LookAlikeItems
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.two_tower import TwoTower
from corral.training.grow import grow

# Old rows 2, 3, 4 are now 2, 4, 5; row 3 is new.
MOVED = np.array([0, 1, 2, 4, 5])
# Half a visit near row 4, one and a half near row 5.
LIKE = LookAlikeItems(torch.tensor([3, 3]), torch.tensor([4, 5]), torch.tensor([0.25, 0.75]))


def test_old_rows_stand_and_new_ones_start_from_unknown_or_look_alikes() -> None:
    old, new = MatrixFactorization(5, 5, size=3), MatrixFactorization(6, 6, size=3)
    grow(old, new, MOVED, MOVED, LIKE)
    for mine, theirs in ((new.user_embedding, old.user_embedding), (new.item_embedding, old.item_embedding)):
        assert torch.equal(mine.weight[MOVED], theirs.weight)
    assert torch.equal(new.user_embedding.weight[3], old.user_embedding.weight[1])
    weight = old.item_embedding.weight
    torch.testing.assert_close(new.item_embedding.weight[3], 0.25 * weight[3] + 0.75 * weight[4])
    grow(old, new, MOVED, MOVED)
    assert torch.equal(new.item_embedding.weight[3], weight[1])


def test_rows_that_are_gone_or_taught_nothing_are_left_out() -> None:
    old, new = MatrixFactorization(5, 5, size=3), MatrixFactorization(4, 6, size=3)
    grow(old, new, np.array([0, 1, 2, UNKNOWN, 3]), np.array([0, 1, 2, UNKNOWN, 5]))
    assert torch.equal(new.user_embedding.weight[[0, 1, 2, 3]], old.user_embedding.weight[[0, 1, 2, 4]])
    assert torch.equal(new.item_embedding.weight[4], old.item_embedding.weight[1])  # its own row taught nothing


def test_an_item_with_features_starts_as_unknown_and_feature_values_keep_their_vectors() -> None:
    def towers(ids: list[int], shelves: list[str]) -> TwoTower:
        frame = pl.DataFrame({"item_id": ids, "shelf": shelves})
        vocabulary = Vocabulary.of(frame["item_id"])
        features = FeatureTable.build(frame, "item_id", vocabulary, frozenset())
        return TwoTower(4, len(vocabulary), None, features, size=4, hidden=(4,))

    old, new = towers([10, 30, 40], ["b", "d", "b"]), towers([10, 20, 30, 40], ["b", "a", "d", "b"])
    grow(old, new, np.arange(4), MOVED, LIKE)
    assert old.items.id is not None
    assert new.items.id is not None
    assert torch.equal(new.items.id.weight[3], old.items.id.weight[UNKNOWN])
    before, after = (model.items.columns[0].embedding.weight for model in (old, new))
    assert torch.equal(after[[0, 1, 3, 4]], before)  # b, d; a came between
    assert torch.equal(after[2], before[UNKNOWN])
    rows = torch.tensor([2, 3, 4])
    old.eval(), new.eval()
    torch.testing.assert_close(new.encode_items(torch.from_numpy(MOVED)[rows]), old.encode_items(rows))


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'user_embedding.weight' are \[3\] in the one model and \[4\]"):
        grow(MatrixFactorization(5, 5, size=3), MatrixFactorization(5, 5, size=4), np.arange(5), np.arange(5))
    with pytest.raises(ValueError, match="only one of the two models has the weights"):
        grow(MatrixFactorization(5, 5, size=3), TwoTower(5, 5, size=3), np.arange(5), np.arange(5))


def test_look_alikes_are_train_neighbours_weighed_by_nearness(tmp_path: Path) -> None:
    """9 is new: user 1 had it one step from 7 and two from 8; user 2's visit of 6 beside it is of the test."""
    rows = [(1, 8, 0), (1, 7, 1), (1, 9, 2), (2, 7, 3), (3, 8, 4), (2, 9, 8), (2, 6, 9), (3, 6, 9)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset = Dataset.write(tmp_path / "data", Interactions.of(frame, source="by hand"))
    split = time_cut(dataset, valid_from=8, test_from=9)
    known = np.zeros(dataset.n_items, dtype=bool)
    known[dataset.items.rows([6, 7, 8])] = True
    found = LookAlikeItems.of(dataset, split, known)
    like = dict(zip(dataset.items.external(found.like.numpy()), found.share.tolist(), strict=True))
    assert dataset.items.external(found.item.numpy()) == [9, 9]
    assert like == pytest.approx({7: 1 / 1.5, 8: 0.5 / 1.5})
