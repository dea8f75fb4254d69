"""What a logit would be without its sources: the same as a ranker that never had them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_rar import asked, small_rar
from torch import Tensor, nn

from corral.data.batches import Query
from corral.studio.masked_ranker import Mask, MaskedRanker, Source
from corral.studio.what_if import WhatIf, what_if


class Counting(nn.Module):
    """Logit = the item's row + ten for every item of the history."""

    def forward(self, query: Query, items: Tensor) -> Tensor:
        return items.double() + 10.0 * (query.history > 0).sum(1, keepdim=True)


def test_a_masked_ranker_is_one_that_never_had_the_input() -> None:
    query, items = asked()
    without_users, without_items, without_both = small_rar(), small_rar(), small_rar()
    without_users.neighbours.u2u.zero_()
    without_items.neighbours.i2i.zero_()
    without_both.neighbours.u2u.zero_()
    without_both.neighbours.i2i.zero_()
    none = replace(query, history=torch.zeros_like(query.history))
    found = what_if(small_rar(), query, items)
    assert set(found.without) == set(Source)
    for logits, expected in (
        (found.logits, small_rar()(query, items)),
        (found.without[Source.HISTORY], small_rar()(none, items)),
        (found.without[Source.LOOK_ALIKES], without_users(query, items)),
        (found.without[Source.RECALL_ITEMS], without_items(query, items)),
        (found.bare, without_both(none, items)),
    ):
        torch.testing.assert_close(logits, expected.detach(), rtol=0, atol=1e-12)
    for change in found.changes.values():
        assert (change.abs() > 1e-6).any()


def test_one_look_alike_left_out_leaves_the_others() -> None:
    query, items = asked()
    ranker, changed = small_rar(), small_rar()
    gone = int(ranker.neighbours.u2u[0, 4, 1])
    changed.neighbours.u2u[0][changed.neighbours.u2u[0] == gone] = 0
    mask = Mask(look_alikes=frozenset({gone}))
    found = what_if(ranker, query, items, mask)
    torch.testing.assert_close(found.logits, changed(query, items).detach(), rtol=0, atol=1e-12)
    assert (found.logits[0] != ranker(query, items)[0]).all()
    enriched = MaskedRanker(ranker, mask).enriched(query, items)
    assert gone not in enriched.user_rows.tolist()[0]
    assert (enriched.user_rows[0] > 0).sum() == 2
    everybody = Mask(look_alikes=frozenset(range(2, 12)))
    assert torch.equal(MaskedRanker(ranker, everybody)(query, items), found.without[Source.LOOK_ALIKES])


def test_the_parts_add_up_by_hand() -> None:
    without = {Source.HISTORY: 3.0, Source.LOOK_ALIKES: 4.0, Source.RECALL_ITEMS: 1.5}
    found = WhatIf(torch.tensor([[5.0]]), {k: torch.tensor([[v]]) for k, v in without.items()}, torch.tensor([[0.5]]))
    assert {source: float(change) for source, change in found.changes.items()} == {
        Source.HISTORY: 2.0,
        Source.LOOK_ALIKES: 1.0,
        Source.RECALL_ITEMS: 3.5,
    }
    assert float(found.total) == 6.5
    assert float(found.remainder) == -2.0


def test_matched_sets_say_nothing_one_without_the_other() -> None:
    """Why the remainder must be shown: their changes are the same, and counted twice."""
    query, items = asked()
    found = what_if(small_rar(), query, items)
    torch.testing.assert_close(found.changes[Source.LOOK_ALIKES], found.changes[Source.RECALL_ITEMS])
    torch.testing.assert_close(found.bare + found.total + found.remainder, found.logits)


def test_any_other_ranker_has_a_history_alone() -> None:
    query, items = asked()
    found = what_if(Counting(), query, items)
    assert found.changes.keys() == {Source.HISTORY}
    assert found.changes[Source.HISTORY].tolist() == [[30.0] * 4, [40.0] * 4]
    assert torch.equal(found.bare, items.double())
    assert not found.remainder.any()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_ranker_changes(training: bool) -> None:
    query, items = asked()
    ranker = small_rar().train(training)
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    what_if(ranker, query, items)
    assert ranker.training == training
    torch.testing.assert_close(ranker.state_dict(), before, rtol=0, atol=0)
