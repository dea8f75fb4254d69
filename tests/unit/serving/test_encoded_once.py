"""EncodedOnce: a request's queries are encoded once, for both stages, and never kept for the next one."""

from __future__ import annotations

import numpy as np
import torch
from small_system import small_system
from torch import Tensor, nn

from corral.data.batches import Query
from corral.retrieval.retriever import Retriever
from corral.serving.encoded_once import EncodedOnce


class ScoreRanker(nn.Module):
    """Logit = the retriever's score."""

    def connect(self, retriever: Retriever) -> None:
        self.asked = [retriever]

    def forward(self, query: Query, items: Tensor, scores: Tensor | None = None) -> Tensor:
        (retriever,) = self.asked
        return torch.einsum("bd,bnd->bn", retriever.encode_queries(query), retriever.encode_items(items))


def test_both_stages_share_the_vectors_of_a_request_and_no_longer() -> None:
    system = small_system()
    system.ranker = ScoreRanker()  # type: ignore[assignment]
    served = system.recommender(num_candidates=12)
    users = ["u03", "u05"]
    first = served.recommend(users, 5)
    assert system.retriever.calls == 1
    with torch.no_grad():
        system.retriever.table.weight.mul_(-2.0)
    second = served.recommend(users, 5)
    assert system.retriever.calls == 2
    query = served.query(users)
    rows = np.array([system.tables.items.rows(ids) for ids in second.item_ids], dtype=np.int64)
    vectors = system.retriever.eval().encode_items(torch.from_numpy(rows))
    wanted = torch.einsum("bd,bnd->bn", system.retriever.encode_queries(query), vectors)
    torch.testing.assert_close(torch.from_numpy(second.scores).float(), wanted)
    assert not np.allclose(first.scores, second.scores)


def test_another_query_is_encoded_anew() -> None:
    system = small_system()
    once, served = EncodedOnce(system.retriever.eval()), system.recommender()
    one, other = served.query(["u03"]), served.query(["u05"])
    with once.remember(one):
        assert once.encode_queries(one) is once.encode_queries(one)
        assert torch.equal(once.encode_queries(other), system.retriever.encode_queries(other))
    assert once.encode_queries(one) is not once.encode_queries(one)


def test_requests_that_come_at_once_do_not_see_each_others_vectors() -> None:
    system = small_system()
    once, served = EncodedOnce(system.retriever.eval()), system.recommender()
    one, other = served.query(["u03"]), served.query(["u05"])
    with once.remember(one), once.remember(other):
        for query in (one, other, one):
            assert torch.equal(once.encode_queries(query), system.retriever.encode_queries(query))
