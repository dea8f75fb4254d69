"""An example of weight 2 is that example twice: in every loss, its gradients, and in the objectives of both stages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from corral.corr.objective import CooperativeObjective
from corral.corr.schedule import Ramp
from corral.corr.stages import Stages
from corral.corr.two_stage import TwoStageObjective
from corral.data.batches import Batch, Query, SequenceBatch
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.sasrec import SASRec
from corral.sampling.sampler import Sample
from corral.training.losses import binary_loss, click_loss, full_softmax, sampled_softmax, weighted_mean
from corral.training.ranking_objectives import ClickObjective
from corral.training.retrieval_objectives import FullSoftmaxObjective, InBatchObjective, SampledSoftmaxObjective

ITEMS, D = 7, 4
CATALOGUE = torch.arange(2, ITEMS)
TWICE = torch.tensor([0, 0, 1, 2])
WEIGHT = torch.tensor([2.0, 1.0, 1.0])

Loss = Callable[[Tensor, Tensor | None], Tensor]
random = torch.Generator().manual_seed(0)
_items = torch.randn(5, D, generator=random)
_log_q = torch.rand(3, 5, generator=random).log()
_hit = torch.rand(3, 5, generator=random) < 0.3
_target = torch.tensor([0, 3, 3])
_label = torch.tensor([1.0, 0.0, 1.0])


def _of(rows: Tensor) -> Tensor:
    """Which of the three examples each row is."""
    return TWICE if len(rows) == 4 else torch.arange(3)


LOSSES: dict[str, Loss] = {
    "full": lambda q, w: full_softmax(q, _items, _target[_of(q)], weight=w),
    "full, smoothed, in chunks": lambda q, w: full_softmax(
        q, _items, _target[_of(q)], chunk=2, label_smoothing=0.2, weight=w
    ),
    "sampled": lambda q, w: sampled_softmax(
        q[:, 0], q @ _items.T, _log_q[_of(q), 0], _log_q[_of(q)], _hit[_of(q)], weight=w
    ),
    "binary": lambda q, w: binary_loss(torch.cat([q[:, :1], q @ _items.T], 1), _hit[_of(q)], weight=w),
    "click": lambda q, w: click_loss(q.sum(1), _label[_of(q)], w),
    "mean": lambda q, w: weighted_mean(q.square().sum(1), w),
}


@pytest.mark.parametrize("name", LOSSES)
def test_weight_two_is_the_row_twice(name: str) -> None:
    queries = torch.randn(3, D, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = LOSSES[name]
    for weighted, plain in (
        (loss(queries, WEIGHT), loss(queries[TWICE], None)),
        (loss(queries, 0.5 * WEIGHT), loss(queries[TWICE], None)),  # only ratios count
        (loss(queries, torch.ones(3)), loss(queries, None)),
    ):
        torch.testing.assert_close(weighted, plain)
        torch.testing.assert_close(*(torch.autograd.grad(value, queries)[0] for value in (weighted, plain)))
    assert float(loss(queries, torch.zeros(3)).detach()) == 0.0


class Everything(nn.Module):
    """Draws the whole catalogue for everybody, so that repeated rows have equal draws."""

    normalised = True

    def refresh(self, item_vectors: Tensor) -> None:
        pass

    def observe(self, items: Tensor) -> None:
        pass

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        items = CATALOGUE.expand(len(query_vectors), -1)
        return Sample(items, self.log_q(query_vectors, items))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        return torch.full(items.shape, -1.5)


class Product(nn.Module):
    """A ranker."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(9, D), nn.Embedding(ITEMS, D)

    def forward(self, query: Query, items: Tensor) -> Tensor:
        return torch.einsum("bd,bnd->bn", self.users(query.user), self.items(items))


def batch(rows: Tensor, weight: Tensor | None) -> Batch:
    user, item = torch.tensor([2, 5, 3])[rows], torch.tensor([4, 2, 6])[rows]
    query = Query(user, user, torch.zeros(len(rows), 0, dtype=torch.int64), user)
    return Batch(query, item, torch.tensor([1.0, 0.0, 1.0])[rows], weight)


def stages() -> Stages:
    torch.manual_seed(3)
    return Stages(MatrixFactorization(9, ITEMS, size=D, user_dropout=0.0), Product(), CATALOGUE)


def retriever() -> nn.Module:
    return stages().retriever


OBJECTIVES: dict[str, Callable[[], nn.Module]] = {
    "full softmax": lambda: FullSoftmaxObjective(retriever(), CATALOGUE, label_smoothing=0.1),
    "sampled softmax": lambda: SampledSoftmaxObjective(retriever(), CATALOGUE, Everything(), num_negatives=5),
    "bce": lambda: SampledSoftmaxObjective(retriever(), CATALOGUE, Everything(), num_negatives=5, binary=True),
    "clicks": lambda: ClickObjective(stages().ranker),
    "two stages": lambda: TwoStageObjective(stages(), Everything(), num_negatives=5),
    "two stages, bce": lambda: TwoStageObjective(stages(), Everything(), num_negatives=5, binary=True),
    "corr": lambda: CooperativeObjective(stages(), Everything(), num_negatives=5, distillation=Ramp(0.7)),
    "corr, full softmax": lambda: CooperativeObjective(stages(), Everything(), num_negatives=5, full_softmax=True),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_weigh_their_examples(name: str) -> None:
    found = []
    for asked in (batch(torch.arange(3), WEIGHT), batch(TWICE, None)):
        objective = OBJECTIVES[name]()
        losses = objective(asked)
        losses["total"].backward()
        found.append((losses, [p.grad for p in objective.parameters() if p.grad is not None]))
    (weighted, gradients), (plain, others) = found
    assert weighted.keys() == plain.keys()
    for key, value in weighted.items():
        torch.testing.assert_close(value, plain[key], msg=key)
    assert gradients
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other)


def test_in_batch_softmax_weighs_positives() -> None:
    shares = torch.ones(ITEMS)
    losses = []
    for weight in (torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0]), None):
        losses.append(
            float(InBatchObjective(retriever(), CATALOGUE, shares)(batch(torch.arange(3), weight))["total"].detach())
        )
    assert losses[0] / 3 + 2 * losses[1] / 3 == pytest.approx(losses[2])


@pytest.mark.parametrize("positions", [0, 1])
def test_weights_of_positions_of_sequences(positions: int) -> None:
    """Two windows of one user's events: weights follow their events, padding has none; chosen positions keep theirs."""
    items, real = torch.tensor([[0, 3, 4], [2, 5, 6]]), torch.tensor([[False, True, True], [True, True, True]])
    at = torch.arange(3).expand(2, 3)
    weight = torch.tensor([[0.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    sequence = SequenceBatch(torch.tensor([2, 3]), items, at, at, at, real, weight)
    model = Stages(SASRec(ITEMS, size=D, blocks=1, max_length=4), Product(), CATALOGUE, positions=positions)
    encoded = model.encode(sequence.to("cpu"))
    wanted = dict(zip(items[real].tolist(), weight[real].tolist(), strict=True))
    assert encoded.weight is not None
    assert encoded.every_weight is not None
    assert encoded.weight.tolist() == [wanted[item] for item in encoded.target.tolist()]
    assert encoded.every_weight.tolist() == [wanted[item] for item in encoded.every_target.tolist()]
    assert len(encoded.target) == (5 if positions == 0 else 2)
