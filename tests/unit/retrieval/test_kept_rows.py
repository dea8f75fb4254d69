"""KeptRows: never older than the weights, whatever changes them; and made only when it pays."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from corral.data.batches import Query
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.rar.co_interaction import CoInteraction, Tower
from corral.rar.neighbours import Neighbours
from corral.rar.ranker import RarRanker
from corral.rar.time_rules import TimeRule
from corral.retrieval.cold_ids import share_unknown
from corral.retrieval.kept_rows import KeptRows
from corral.training.optimizers import RowWiseAdam

USERS, ITEMS, SIZE = 12, 10, 4
Change = Callable[[RarRanker], object]


def make(sparse: bool = False) -> RarRanker:
    """A ranker with neighbours by chance, without dropout."""
    torch.manual_seed(0)
    fields = Fields(USERS, ITEMS, field_size=SIZE, sparse=sparse, embedding_std=1.0)
    ctr = DeepFM(SIZE, fields.num_context_fields, fields.num_item_fields + 2, hidden=(8,))
    neighbours = Neighbours(USERS, ITEMS, TimeRule.static(), look_alikes=3, recall_items=3)
    neighbours.u2u[:] = torch.randint(2, USERS, neighbours.u2u.shape)
    neighbours.i2i[:] = torch.randint(2, ITEMS, neighbours.i2i.shape)
    co_interaction = CoInteraction(SIZE, SIZE, tower_size=8, output_size=SIZE)
    return RarRanker(EvidenceRanker(FieldRanker(fields, ctr), None), neighbours, co_interaction)


def query(size: int = 6) -> tuple[Query, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    user, history = torch.arange(2, 2 + size), torch.randint(2, ITEMS, (size, 4), generator=generator)
    return Query(user, user, history, user), torch.randint(2, ITEMS, (size, 5), generator=generator)


@torch.no_grad()
def answers(ranker: RarRanker) -> torch.Tensor:
    """Logits from tables, if there are any."""
    found: torch.Tensor = ranker(*query())
    return found


def step(ranker: RarRanker) -> None:
    """One training step, the ranker told nothing of modes."""
    optimizer = RowWiseAdam(ranker, learning_rate=0.1)
    ranker(*query()).square().sum().backward()
    optimizer.step()


def plain_step(ranker: RarRanker) -> None:
    """The same by an optimiser that counts no writes."""
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=0.1, fused=True)
    ranker(*query()).square().sum().backward()
    optimizer.step()


def load(ranker: RarRanker, *, assign: bool = False) -> None:
    torch.manual_seed(5)
    other = {
        name: torch.randn_like(one) if one.is_floating_point() else one for name, one in ranker.state_dict().items()
    }
    ranker.load_state_dict(other, assign=assign)


def one_row(ranker: RarRanker) -> None:
    with torch.no_grad():
        ranker.ranker.fields.users.id.weight[2:] += 1.0  # type: ignore[union-attr]


def new_memory(ranker: RarRanker) -> None:
    ranker.co_interaction.item_tower.output.weight.data = torch.randn(8, 8)


def new_parameter(ranker: RarRanker) -> None:
    ranker.co_interaction.user_tower.hidden.weight = nn.Parameter(torch.randn(8, SIZE))


def new_module(ranker: RarRanker) -> None:
    ranker.co_interaction.item_tower = Tower(SIZE, 8)


def cold(ranker: RarRanker) -> None:
    with torch.no_grad():
        ranker.ranker.fields.users.id.weight[1] = 3.0  # type: ignore[union-attr]
        ranker.ranker.fields.catalogue.id.weight[1] = -2.0  # type: ignore[union-attr]
    share_unknown(ranker, torch.arange(USERS) % 2 == 0, torch.arange(ITEMS) % 2 == 0)


@pytest.mark.parametrize(
    "change",
    [
        step,
        plain_step,
        load,
        lambda ranker: load(ranker, assign=True),
        one_row,
        new_memory,
        new_parameter,
        new_module,
        cold,
        lambda ranker: ranker.neighbours.i2i.random_(2, ITEMS),
        lambda ranker: ranker.neighbours.u2u.random_(2, USERS),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_whatever_changes_weights_changes_the_answers(change: Change, sparse: bool) -> None:
    if sparse and change is plain_step:
        pytest.skip("AdamW takes no sparse gradients")
    ranker = make(sparse).eval()
    ranker.precompute()
    before = answers(ranker)
    change(ranker)
    after = answers(ranker)
    assert not torch.allclose(before, after, atol=1e-4)
    # A copy begins without tables; with gradient none are used.
    torch.testing.assert_close(after, answers(copy.deepcopy(ranker)))
    torch.testing.assert_close(after, ranker(*query()).detach())


def test_writes_in_inference_mode_are_seen() -> None:
    ranker = make().eval()
    ranker.precompute()
    before = answers(ranker)
    with torch.inference_mode():
        ranker.co_interaction.item_tower.output.weight.add_(1.0)
    after = answers(ranker)
    assert not torch.allclose(before, after, atol=1e-4)
    torch.testing.assert_close(after, answers(copy.deepcopy(ranker)))


def test_training_and_forget_drop_the_tables() -> None:
    """Also where torch counts no write, through ``data``."""
    for drop in (RarRanker.forget, lambda ranker: ranker.train().eval()):
        ranker = make().eval()
        ranker.precompute()
        answers(ranker)
        ranker.co_interaction.item_tower.output.weight.data.add_(1.0)
        drop(ranker)
        torch.testing.assert_close(answers(ranker), answers(copy.deepcopy(ranker)))


def test_another_type_makes_other_tables() -> None:
    ranker = make().eval()
    ranker.precompute()
    answers(ranker)
    ranker.double()
    assert answers(ranker).dtype == torch.float64
    torch.testing.assert_close(answers(ranker), answers(copy.deepcopy(ranker)))


def test_autocast_makes_other_tables() -> None:
    ranker = make().eval()
    ranker.precompute()
    plain = answers(ranker)
    with torch.autocast("cpu", torch.bfloat16):
        ranker.precompute()
        answers(ranker)
    assert torch.equal(answers(ranker), plain)


def test_answers_from_tables_are_the_same_and_leave_gradients_alone() -> None:
    ranker = make().eval().double()
    without = answers(ranker)
    ranker.precompute()
    torch.testing.assert_close(answers(ranker), without)
    ranker(*query()).sum().backward()
    assert ranker.co_interaction.item_tower.output.weight.grad is not None


class Counted:
    """Counts the rows that were computed."""

    def __init__(self) -> None:
        self.layer, self.rows = nn.Linear(1, 3), 0

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor]:
        self.rows += len(rows)
        return (self.layer(rows[:, None].float()),)

    def ask(self, kept: KeptRows, asked: int) -> tuple[torch.Tensor, ...] | None:
        return kept.of((self.layer,), 100, asked, self)


def test_tables_are_made_once_enough_was_asked_for() -> None:
    make, kept = Counted(), KeptRows(10**6)
    assert make.ask(kept, 60) is None
    found = make.ask(kept, 60)
    assert found is not None
    assert found[0].shape == (100, 3)
    assert make.rows == 101  # one of them to learn their size
    again = make.ask(kept, 60)
    assert again is not None
    assert again[0] is found[0]


def test_nothing_is_made_while_weights_change_or_beyond_the_limit() -> None:
    make, kept = Counted(), KeptRows(10**6)
    for _ in range(5):
        assert make.ask(kept, 60) is None
        with torch.no_grad():
            make.layer.weight.add_(1.0)
    make, kept = Counted(), KeptRows(100 * 3 * 4 - 1)
    assert all(make.ask(kept, 60) is None for _ in range(5))
    assert make.rows == 1
    kept.keep((make.layer,), 100, make)
    assert make.ask(kept, 60) is not None


def test_weights_that_tell_nobody_are_not_kept() -> None:
    with torch.inference_mode():
        make = Counted()
    kept = KeptRows(10**6)
    assert all(make.ask(kept, 100) is None for _ in range(3))
    with pytest.raises(ValueError, match="inference mode"):
        kept.keep((make.layer,), 100, make)
