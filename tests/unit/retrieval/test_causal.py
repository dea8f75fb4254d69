"""A request encodes one history alone, by a shorter way than a batch: the query must be the same. Items are looked up
once whatever the histories are: workers, each with other histories, look up together."""

from __future__ import annotations

import pytest
import torch

from corral.data.batches import Query
from corral.retrieval.gru4rec import GRU4Rec
from corral.retrieval.sasrec import SASRec

ROWS, LENGTH = 40, 6
MODELS = {
    "sasrec": lambda: SASRec(ROWS, size=8, max_length=LENGTH, heads=2),
    "sasrec, one block": lambda: SASRec(ROWS, size=8, max_length=LENGTH, blocks=1),
    "gru4rec": lambda: GRU4Rec(ROWS, size=8, hidden=12, max_length=LENGTH),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_history_alone_is_encoded_as_in_a_batch(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    torch.nn.init.normal_(model.empty_query)
    history = torch.randint(2, ROWS, (LENGTH + 1, LENGTH))
    for number in range(LENGTH + 1):
        history[number, : LENGTH - number] = 0
    history[LENGTH, 2] = 1  # an unknown item
    some = torch.zeros(LENGTH + 1, dtype=torch.int64)
    query = Query(some, some, history, some)
    together = model.encode_queries(query)
    with torch.no_grad():
        for number in range(LENGTH + 1):
            alone = model.encode_queries(query.where(some.index_fill(0, torch.tensor(number), 1).bool()))
            torch.testing.assert_close(alone, together[number : number + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize(("number", "empty"), [(0, 0), (1, 0), (1, 1), (64, 64), (65, 0), (130, 70)])
def test_items_are_looked_up_once_whatever_the_histories(name: str, learning: bool, number: int, empty: int) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    history = torch.randint(2, ROWS, (number, LENGTH))
    history[:empty] = 0
    looked_up: list[torch.Tensor] = []
    model.item_embedding.register_forward_hook(lambda module, given, found: looked_up.append(found))
    some = torch.zeros(number, dtype=torch.int64)
    with torch.set_grad_enabled(learning):
        queries = model.encode_queries(Query(some, some, history, some))
    assert queries.shape == (number, 8)
    assert len(looked_up) == 1
    if learning:  # gradients go back together, too
        queries.sum().backward()
        assert model.item_embedding.weight.grad is not None


def test_item_vectors_begin_as_long_as_asked() -> None:
    torch.manual_seed(0)
    as_it_is, short = (SASRec(4_000, size=16, max_length=8, item_std=std) for std in (0.0, 0.02))
    assert float(as_it_is.item_embedding.weight[2:].detach().std()) == pytest.approx(0.25, rel=0.02)
    assert float(short.item_embedding.weight[2:].detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(short.position_embedding.weight.detach().std()) == pytest.approx(0.25, rel=0.25)
    assert not short.item_embedding.weight[:2].any()
