"""The ranker trained beside a finished retriever: what stands still, what is noisy, and the losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from corral.corr.stages import Scored, Stages
from corral.corr.two_stage import TwoStageObjective
from corral.data.batches import SequenceBatch
from corral.data.dataset import Dataset
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Split, leave_last_two_out
from corral.data.synthetic import markov_world
from corral.ranking.ctr.din import DIN
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.sasrec import SASRec
from corral.sampling.popularity import PopularitySampler
from corral.sampling.top_k import TopKRandomSampler
from corral.training.fit import fit
from corral.training.losses import binary_loss
from corral.training.optimizers import RowWiseAdam

SIZE, N = 8, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Split]:
    events = markov_world(users=24, items=12, length=8).interactions
    dataset = Dataset.write(tmp_path_factory.mktemp("two-stage") / "data", events)
    return dataset, leave_last_two_out(dataset)


def make_stages(world: tuple[Dataset, Split], *, score: bool = False) -> Stages:
    """SASRec with much dropout, and a DIN without any; with ``score`` it reads the retriever's."""
    dataset, split = world
    torch.manual_seed(0)
    retriever = SASRec(dataset.n_items, size=SIZE, blocks=1, dropout=0.5, max_length=8)
    fields = Fields(dataset.n_users, dataset.n_items, field_size=4, user_id=False)
    din = DIN(4, fields.num_context_fields, fields.num_item_fields, hidden=(6,), num_extra=int(score))
    ranker = FieldRanker(fields, din, history_length=6)
    catalogue = torch.from_numpy(split.catalogue(dataset))
    both = EvidenceRanker(ranker, None, score=True) if score else ranker
    return Stages(retriever, both, catalogue, positions=2, history_length=6)


def batches(world: tuple[Dataset, Split]) -> SequenceLoader:
    return SequenceLoader(*world, length=8, batch_size=8, seed=0)


def batch(world: tuple[Dataset, Split]) -> SequenceBatch:
    return next(batches(world).epoch(0))


def top_k(stages: Stages) -> TopKRandomSampler:
    return TopKRandomSampler(stages.catalogue, size=SIZE, k=6)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_retriever_does_not_move(world: tuple[Dataset, Split], noisy: bool) -> None:
    stages = make_stages(world, score=True)
    objective = TwoStageObjective(stages, top_k(stages), num_negatives=N, noisy_scores=noisy)
    assert not any(parameter.requires_grad for parameter in stages.retriever.parameters())
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    fit(objective, batches(world), RowWiseAdam(objective, learning_rate=0.05, weight_decay=0.1), epochs=2)
    for name, value in objective.state_dict().items():
        if name.startswith("stages.retriever"):
            torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=name)
    moved = [name for name, value in stages.ranker.state_dict().items() if "stages.ranker." + name in before]
    assert any(not torch.equal(stages.ranker.state_dict()[name], before["stages.ranker." + name]) for name in moved)


@pytest.mark.parametrize("noisy", [False, True])
def test_noisy_scores_are_the_retrievers_dropout(world: tuple[Dataset, Split], noisy: bool) -> None:
    stages = make_stages(world, score=True)
    objective = TwoStageObjective(stages, top_k(stages), num_negatives=N, noisy_scores=noisy)
    objective.refresh()
    some = batch(world)
    everything = stages.catalogue.expand(int(some.target_mask.sum()), -1)
    stages.positions = 0

    def scores() -> Tensor:
        return stages.score(stages.encode(some), everything)[0]

    objective.train()
    assert objective.training
    assert stages.ranker.training
    assert stages.retriever.training is noisy
    assert torch.equal(scores(), scores()) is not noisy
    objective.eval()
    assert not stages.ranker.training
    assert not stages.retriever.training
    clean = scores()
    assert torch.equal(clean, scores())
    # Without noise training sees the scores that will be served.
    objective.train()
    assert torch.equal(clean, scores()) is not noisy


def drawn(objective: TwoStageObjective, some: SequenceBatch) -> Scored:
    """The sample that the objective's next forward pass will see; its generators are left where they were."""
    states = {name: generator.get_state() for name, generator in objective.generators().items()}
    with torch.no_grad():
        both = objective.stages.sample(objective.stages.encode(some), objective.sampler, N, objective.generator)
    for name, generator in objective.generators().items():
        generator.set_state(states[name])
    return both


def popular(world: tuple[Dataset, Split], stages: Stages) -> PopularitySampler:
    dataset, split = world
    counts = torch.from_numpy(split.train_counts(dataset))
    return PopularitySampler(stages.catalogue, counts[stages.catalogue], power=2.0)


def test_binary_loss_by_hand(world: tuple[Dataset, Split]) -> None:
    stages = make_stages(world)
    objective = TwoStageObjective(stages, popular(world, stages), num_negatives=N, binary=True)
    some = batch(world)
    both = drawn(objective, some)
    assert bool(both.hit.any()), "a draw that is the clicked item must be left out"
    terms = []
    for logits, hit in zip(both.logits.tolist(), both.hit.tolist(), strict=True):
        terms.append(math.log1p(math.exp(-logits[0])))
        terms += [math.log1p(math.exp(logit)) for logit, same in zip(logits[1:], hit, strict=True) if not same]
    assert float(objective(some)["total"].detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_binary_loss_of_half_precision_is_that_of_these_very_numbers() -> None:
    """Pairs are counted exactly: bfloat16 would round 5107 of them to 5120."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(256, 21, generator=generator).bfloat16()
    hit = torch.zeros(256, 20, dtype=torch.bool)
    hit.view(-1)[:269] = True
    torch.testing.assert_close(binary_loss(logits, hit), binary_loss(logits.float(), hit), rtol=0, atol=0)


@pytest.mark.parametrize("certain", [False, True])
def test_softmax_loss_by_hand(world: tuple[Dataset, Split], certain: bool) -> None:
    stages = make_stages(world)
    objective = TwoStageObjective(stages, popular(world, stages), num_negatives=N, certain=certain)
    some = batch(world)
    both = drawn(objective, some)
    losses = []
    for logits, log_q, hit in zip(both.logits.tolist(), both.log_q.tolist(), both.hit.tolist(), strict=True):
        own = logits[0] - (-math.log(N) if certain else log_q[0])
        others = [logits[1 + n] - log_q[1 + n] for n in range(N) if not hit[n]]
        losses.append(math.log(math.exp(own) + sum(map(math.exp, others))) - own)
    assert float(objective(some)["total"].detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_certain_form_needs_a_normalised_log_q(world: tuple[Dataset, Split]) -> None:
    stages = make_stages(world)
    with pytest.raises(ValueError, match="certain: needs a normalised log Q, and TopKRandomSampler has no"):
        TwoStageObjective(stages, top_k(stages), num_negatives=N, certain=True)


def test_negatives_come_from_the_frozen_retrievers_best(world: tuple[Dataset, Split]) -> None:
    stages = make_stages(world)
    objective = TwoStageObjective(stages, top_k(stages), num_negatives=40).train()
    objective.refresh()
    some = batch(world)
    encoded = stages.encode(some)
    both = stages.sample(encoded, objective.sampler, 40, objective.generator)
    # By score: before the first item all of them tie.
    bar = (encoded.queries @ stages.item_vectors().T).topk(6, dim=1).values[:, -1:]
    assert bool((both.scores[:, 1:] >= bar - 1e-5).all())
    assert bool((both.items[:, 1:] != both.items[:, 1:2]).any())
    assert torch.equal(both.log_q, torch.zeros_like(both.log_q))


def test_the_same_seed_gives_the_same_loss(world: tuple[Dataset, Split]) -> None:
    some, found = batch(world), []
    for seed in (3, 3, 4):
        stages = make_stages(world)
        objective = TwoStageObjective(stages, popular(world, stages), num_negatives=N, seed=seed).train()
        found.append(float(objective(some)["total"].detach()))
    assert found[0] == found[1] != found[2]
