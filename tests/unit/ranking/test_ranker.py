from __future__ import annotations

import pytest
import torch

from corral.data.batches import Query
from corral.ranking.ctr.ctr_model import FieldVectors
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.ctr.din import DIN
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker


def make_query(queries: int = 3, length: int = 4) -> Query:
    nothing = torch.zeros(queries, dtype=torch.int64)
    return Query(torch.arange(queries) + 2, nothing - 1, torch.randint(2, 12, (queries, length)), nothing)


def build(model: type[DIN] | type[DeepFM], *, embedding_dropout: float = 0.0, **keywords: object) -> FieldRanker:
    fields = Fields(8, 12, field_size=5, embedding_std=0.5)
    ctr = model(5, fields.num_context_fields, fields.num_item_fields, hidden=(8,), **keywords)  # type: ignore[arg-type]
    return FieldRanker(fields, ctr, embedding_dropout=embedding_dropout)


def test_is_the_ctr_model_of_the_fields() -> None:
    ranker, query, items = build(DIN), make_query(), torch.randint(2, 12, (3, 6))
    fields = ranker.fields
    vectors = FieldVectors(fields.context(query), fields.items(items))
    assert torch.equal(ranker(query, items), ranker.ctr(vectors, fields.history(query), query.history != 0))


def test_a_list_in_parts_gives_the_same_logits() -> None:
    ranker, query, items = build(DIN, num_extra=2), make_query(), torch.randint(2, 12, (3, 6))
    extra = torch.randn(3, 6, 2)
    encoded = ranker.encode(query)
    parts = [ranker.logits(encoded, items[:, a : a + 2], extra[:, a : a + 2]) for a in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts, dim=1), ranker(query, items, extra))


def test_a_model_that_ignores_the_history_gets_none() -> None:
    encoded = build(DeepFM).encode(make_query())
    assert encoded.history.shape == (3, 0, 1, 5)
    assert encoded.mask.shape == (3, 0)


@pytest.mark.parametrize("model", [DIN, DeepFM])
def test_dropout_treats_the_items_of_a_query_alike(model: type[DIN] | type[DeepFM]) -> None:
    ranker = build(model, embedding_dropout=0.5, dropout=0.5)
    query, items = make_query(), torch.full((3, 6), 7)
    logits = ranker(query, items)
    torch.testing.assert_close(logits, logits[:, :1].expand(3, 6))
    assert not torch.allclose(logits, ranker(query, items))
    ranker.eval()
    assert torch.equal(ranker(query, items), ranker(query, items))


def test_refuses_a_dropout_of_one() -> None:
    with pytest.raises(ValueError, match="embedding_dropout"):
        build(DIN, embedding_dropout=1.0)
