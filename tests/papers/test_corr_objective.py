"""CoRR's joint objective: which loss moves which stage, against the losses made one by one; resume; planted worlds."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from corral.corr.alternating import AlternatingObjective
from corral.corr.distillation import distillation_terms
from corral.corr.multi_index_sampler import MultiIndexSampler
from corral.corr.objective import CooperativeObjective
from corral.corr.schedule import Ramp
from corral.corr.stages import Stages
from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, Split, leave_last_two_out
from corral.data.synthetic import markov_world
from corral.ranking.ctr.din import DIN
from corral.ranking.evidence import CoVisitationEvidence, EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.co_visitation import CoVisitation
from corral.retrieval.sasrec import SASRec
from corral.sampling.in_batch import InBatchSampler
from corral.sampling.sampler import Sample
from corral.sampling.top_k import TopKSampler
from corral.sampling.uniform import UniformSampler
from corral.training.fit import fit
from corral.training.losses import full_softmax, sampled_softmax
from corral.training.optimizers import RowWiseAdam

SIZE, N = 16, 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Split]:
    """A world where the last item decides the next."""
    events = markov_world(users=60, items=20, length=9, noise=0.05).interactions
    dataset = Dataset.write(tmp_path_factory.mktemp("data") / "markov", events, name="markov")
    return dataset, leave_last_two_out(dataset)


def make_stages(dataset: Dataset, split: Split, *, evidence: bool = False, positions: int = 0) -> Stages:
    torch.manual_seed(0)
    retriever = SASRec(dataset.n_items, size=SIZE, blocks=1, dropout=0.1, max_length=10)
    fields = Fields(dataset.n_users, dataset.n_items, field_size=6, user_id=False)
    known = CoVisitationEvidence(CoVisitation.of(dataset, split, window=3), recent=3) if evidence else None
    din = DIN(
        6,
        fields.num_context_fields,
        fields.num_item_fields,
        hidden=(12,),
        num_extra=0 if known is None else known.size + 1,
    )
    ranker: nn.Module = FieldRanker(fields, din, history_length=8)
    if known is not None:
        ranker = EvidenceRanker(ranker, known, score=True)  # type: ignore[arg-type]
    return Stages(retriever, ranker, torch.from_numpy(split.catalogue(dataset)), positions=positions, history_length=8)


def loader(dataset: Dataset, split: Split) -> SequenceLoader:
    return SequenceLoader(dataset, split, length=10, batch_size=16, seed=0)


def moved(module: nn.Module) -> bool:
    return any(p.grad is not None and float(p.grad.to_dense().abs().sum()) > 0 for p in module.parameters())


@pytest.mark.parametrize("evidence", [False, True])
@pytest.mark.parametrize(
    ("loss", "retriever", "ranker"),
    [("ranker", False, True), ("retriever", True, False), ("distillation", True, False), ("total", True, True)],
)
def test_which_loss_moves_which_stage(
    world: tuple[Dataset, Split], evidence: bool, loss: str, retriever: bool, ranker: bool
) -> None:
    stages = make_stages(*world, evidence=evidence)
    sampler = MultiIndexSampler(stages.catalogue, size=SIZE, num_codewords=4)
    objective = CooperativeObjective(stages, sampler, num_negatives=N)
    objective.refresh()
    objective(next(loader(*world).epoch(0)))[loss].backward()
    assert moved(stages.retriever) is retriever
    assert moved(stages.ranker) is ranker


@pytest.mark.parametrize("evidence", [False, True])
def test_in_turns_one_stage_stands_still(world: tuple[Dataset, Split], evidence: bool) -> None:
    """Bit for bit, although the optimizer has momentum and weight decay; the losses are those of both together."""
    stages = make_stages(*world, evidence=evidence)
    sampler = UniformSampler(stages.catalogue)
    objective = AlternatingObjective(stages, sampler, num_negatives=N)
    objective.refresh()
    optimizer = RowWiseAdam(objective, learning_rate=0.01, weight_decay=0.1)
    for step, batch in enumerate(list(loader(*world).epoch(0))[:4]):
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        losses = objective(batch)
        whole = losses["ranker"] if step % 2 == 0 else losses["retriever"] + losses["distillation"]
        torch.testing.assert_close(losses["total"], whole)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        for stage, learns in (("ranker", step % 2 == 0), ("retriever", step % 2 == 1)):
            names = [f"stages.{stage}.{name}" for name, _ in getattr(stages, stage).named_parameters()]
            same = [torch.equal(before[name], objective.state_dict()[name]) for name in names]
            assert all(same) != learns, (step, stage)


@pytest.mark.parametrize(("certain", "temperature"), [(False, 1.0), (True, 3.0)])
def test_the_losses_are_those_of_the_paper(world: tuple[Dataset, Split], certain: bool, temperature: float) -> None:
    """One sample, three losses: made again here from what both stages say."""
    stages = make_stages(*world).eval()
    sampler = UniformSampler(stages.catalogue)
    objective = CooperativeObjective(
        stages,
        sampler,
        num_negatives=N,
        distillation=Ramp(0.5),
        temperature=temperature,
        certain_retriever=certain,
        certain_ranker=certain,
    ).eval()
    batch = next(loader(*world).epoch(0))
    found = objective(batch)
    encoded = stages.encode(batch)
    both = stages.sample(encoded, sampler, N, torch.Generator().manual_seed(0))
    own: Tensor | float = -math.log(N) if certain else both.log_q[:, 0]
    log_q = both.log_q[:, 1:]
    ranker = sampled_softmax(both.logits[:, 0], both.logits[:, 1:], own, log_q, both.hit)
    retriever = sampled_softmax(both.scores[:, 0], both.scores[:, 1:], own, log_q, both.hit)
    distillation = distillation_terms(both.scores[:, 1:], both.logits[:, 1:], log_q, temperature=temperature).mean()
    torch.testing.assert_close(found["ranker"], ranker)
    torch.testing.assert_close(found["retriever"], retriever)
    torch.testing.assert_close(found["distillation"], distillation)
    torch.testing.assert_close(found["total"], ranker + retriever + 0.5 * distillation)


def test_the_retriever_learns_from_all_positions_and_the_ranker_from_a_few(world: tuple[Dataset, Split]) -> None:
    stages = make_stages(*world, positions=2)
    batch = next(loader(*world).epoch(0))
    encoded = stages.encode(batch)
    row, _ = batch.target_mask.nonzero(as_tuple=True)
    assert len(encoded.every_query) == len(row)
    assert encoded.query.user.bincount().max() == 2
    torch.testing.assert_close(encoded.queries, encoded.every_query[encoded.chosen])
    assert encoded.target.tolist() == encoded.every_target[encoded.chosen].tolist()


def test_full_softmax_is_that_of_the_retriever_alone(world: tuple[Dataset, Split]) -> None:
    stages = make_stages(*world, positions=1).eval()
    objective = CooperativeObjective(stages, UniformSampler(stages.catalogue), num_negatives=N, full_softmax=True)
    batch = next(loader(*world).epoch(0))
    encoded = stages.encode(batch)
    place = {int(item): at for at, item in enumerate(stages.catalogue)}
    target = torch.tensor([place[int(item)] for item in encoded.every_target])
    wanted = full_softmax(encoded.every_query, stages.item_vectors(), target)
    torch.testing.assert_close(objective.eval()(batch)["retriever"], wanted)


def test_the_certain_form_converges_to_the_full_softmax(world: tuple[Dataset, Split]) -> None:
    """Many draws: L_re with -log N is the full softmax's loss; with log Q(i+) it stays below it."""
    stages = make_stages(*world).eval()
    batch = next(loader(*world).epoch(0))
    found = []
    for certain in (True, False):
        objective = CooperativeObjective(
            stages, UniformSampler(stages.catalogue), num_negatives=4000, certain_retriever=certain
        )
        with torch.no_grad():
            found.append(float(objective.eval()(batch)["retriever"]))
    full = CooperativeObjective(stages, UniformSampler(stages.catalogue), num_negatives=1, full_softmax=True)
    wanted = float(full.eval()(batch)["retriever"].detach())
    assert found[0] == pytest.approx(wanted, abs=0.02)
    assert found[1] > wanted + 1


class SixItems(UniformSampler):
    """Draws the same N items for everybody, as if some were likelier than others."""

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        items = self.catalogue.items[:n].expand(len(query_vectors), -1)
        return Sample(items, self.log_q(query_vectors, items))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        return -0.1 * items.float()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("certain", [False, True])
def test_the_sampled_retriever_loss_is_of_all_positions(
    world: tuple[Dataset, Split], certain: bool, weighted: bool
) -> None:
    """Also of those that the ranker does not train on; by hand, for draws that do not differ by position."""
    stages = make_stages(*world, positions=1).eval()
    sampler, batch = SixItems(stages.catalogue), next(loader(*world).epoch(0))
    if weighted:
        batch = replace(batch, weight=torch.rand(batch.items.shape, generator=torch.Generator().manual_seed(0)))
    objective = CooperativeObjective(stages, sampler, num_negatives=N, certain_retriever=certain).eval()
    encoded = stages.encode(batch)
    assert 0 < len(encoded.queries) < len(encoded.every_query)
    target, drawn = encoded.every_target, sampler.catalogue.items[:N]
    items = torch.cat([target[:, None], drawn.expand(len(target), -1)], 1)
    log_q = sampler.log_q(encoded.every_query, items)
    if certain:
        log_q[:, 0] = -math.log(N)
    logits = torch.einsum("ad,and->an", encoded.every_query, stages.retriever.encode_items(items)) - log_q  # type: ignore[operator]
    logits[:, 1:][drawn == target[:, None]] = -torch.inf
    losses = -logits.log_softmax(1)[:, 0]
    weight = torch.ones(len(target)) if encoded.every_weight is None else encoded.every_weight
    torch.testing.assert_close(objective(batch)["retriever"], (weight * losses).sum() / weight.sum())


def test_the_sampler_sees_the_targets_of_a_step(world: tuple[Dataset, Split]) -> None:
    """Of all positions, once, in training alone."""
    stages = make_stages(*world, positions=1)
    sampler, batch = InBatchSampler(stages.catalogue, window=500), next(loader(*world).epoch(0))
    objective = CooperativeObjective(stages, sampler, num_negatives=N)
    objective.eval()(batch)
    assert int(sampler.seen) == 0
    objective.train()(batch)
    seen = sampler.catalogue.items[sampler.events[: int(sampler.seen)]]
    assert seen.tolist() == stages.encode(batch).every_target.tolist()


@pytest.mark.parametrize("stage", ["retriever", "ranker"])
def test_the_certain_form_needs_a_normalised_log_q(world: tuple[Dataset, Split], stage: str) -> None:
    stages = make_stages(*world)
    sampler = TopKSampler(stages.catalogue, size=SIZE, k=N)
    CooperativeObjective(stages, sampler, num_negatives=N)
    with pytest.raises(ValueError, match=f"certain_{stage}: needs a normalised log Q, and TopKSampler has no"):
        CooperativeObjective(stages, sampler, num_negatives=N, **{f"certain_{stage}": True})  # type: ignore[arg-type]


def test_general_retrievers_train_on_single_events(world: tuple[Dataset, Split]) -> None:
    dataset, split = world
    stages = make_stages(dataset, split)
    examples = Examples.of(dataset, split, Part.TRAIN)
    batch = examples.batch(torch.arange(12).numpy(), 8)
    objective = CooperativeObjective(stages, UniformSampler(stages.catalogue), num_negatives=N)
    losses = objective(batch)
    assert losses["total"].isfinite()
    assert stages.encode(batch).target.tolist() == batch.item.tolist()


def test_the_teacher_that_is_worse_is_not_followed(world: tuple[Dataset, Split]) -> None:
    """A ranker that puts the clicked item last teaches nothing with ``only_better_teacher``."""
    stages = make_stages(*world)

    class Bad(nn.Module):
        def forward(self, query: object, items: Tensor) -> Tensor:
            logits = torch.zeros(items.shape)
            logits[:, 0] = -50.0
            return logits

    stages.ranker = Bad()
    batch = next(loader(*world).epoch(0))
    sampler = UniformSampler(stages.catalogue)
    careful = CooperativeObjective(stages, sampler, num_negatives=N, only_better_teacher=True)
    plain = CooperativeObjective(stages, sampler, num_negatives=N)
    assert float(careful(batch)["distillation"].detach()) == 0.0
    assert float(plain(batch)["distillation"].detach()) > 0.0


@pytest.mark.parametrize(("learning", "judged"), [(-50.0, 50.0), (50.0, -50.0)])
def test_whether_a_teacher_is_worse_is_asked_of_what_teaches(
    world: tuple[Dataset, Split], learning: float, judged: float
) -> None:
    """With ``clean_teacher`` the pass without dropout, however the other one judges the clicked item."""
    stages = make_stages(*world)

    class Moody(nn.Module):
        def forward(self, query: object, items: Tensor) -> Tensor:
            logits = torch.zeros(items.shape)
            logits[:, 0] = learning if self.training else judged
            return logits

    stages.ranker = Moody()
    batch, sampler = next(loader(*world).epoch(0)), UniformSampler(stages.catalogue)
    for clean, teacher in ((False, learning), (True, judged)):
        objective = CooperativeObjective(
            stages, sampler, num_negatives=N, clean_teacher=clean, only_better_teacher=True
        ).train()
        assert (float(objective(batch)["distillation"].detach()) > 0.0) is (teacher > 0), clean


class Dropped(nn.Module):
    """A ranker with much dropout: a logit for each item."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.logits, self.dropout = nn.Embedding(items, 1), nn.Dropout(0.5)

    def forward(self, query: object, items: Tensor) -> Tensor:
        return self.dropout(self.logits(items))[..., 0]


@pytest.mark.parametrize("clean", [False, True])
def test_a_clean_teacher_has_no_dropout(world: tuple[Dataset, Split], clean: bool) -> None:
    stages, batch = make_stages(*world), next(loader(*world).epoch(0))
    stages.ranker = Dropped(world[0].n_items)
    sampler = UniformSampler(stages.catalogue)
    objective = CooperativeObjective(stages, sampler, num_negatives=N, clean_teacher=clean).train()
    stages.retriever.eval()
    found = objective(batch)["distillation"]
    assert stages.ranker.training
    found.backward()
    assert not moved(stages.ranker)
    assert moved(stages.retriever)
    stages.ranker.eval()
    both = stages.sample(stages.encode(batch), sampler, N, torch.Generator().manual_seed(0))
    wanted = distillation_terms(both.scores[:, 1:], both.logits[:, 1:], both.log_q[:, 1:]).mean()
    assert torch.allclose(found, wanted) is clean


def test_ramp() -> None:
    ramp = Ramp(2.0, start=10, steps=4)
    assert [ramp(step) for step in (0, 9, 10, 11, 14, 99)] == [0.0, 0.0, 0.0, 0.5, 2.0, 2.0]


@pytest.mark.parametrize("evidence", [False, True])
def test_resume_in_the_middle_of_cooperation(world: tuple[Dataset, Split], tmp_path: Path, evidence: bool) -> None:
    """Stopped within an epoch and gone on: the same weights, bit for bit."""

    class Stopped(Exception):
        pass

    def train(folder: Path | None, stop_at: int = 10**9) -> CooperativeObjective:
        stages = make_stages(*world, evidence=evidence, positions=3)
        sampler = MultiIndexSampler(stages.catalogue, size=SIZE, num_codewords=3)
        objective = CooperativeObjective(stages, sampler, num_negatives=N, distillation=Ramp(1.0, steps=6))

        def watch(state: object) -> None:
            if state.step >= stop_at:  # type: ignore[attr-defined]
                raise Stopped

        torch.manual_seed(1)
        with contextlib.suppress(Stopped):
            fit(
                objective,
                loader(*world),
                RowWiseAdam(objective, learning_rate=0.01),
                epochs=3,
                directory=folder,
                checkpoint_seconds=0.0,
                on_step=watch,
            )
        return objective

    whole = train(None)
    train(tmp_path / "run", stop_at=6)
    resumed = train(tmp_path / "run")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("evidence", [False, True])
def test_both_stages_learn_a_planted_world(tmp_path: Path, evidence: bool) -> None:
    """The successor of the last item comes first in both stages' order of the whole catalogue."""
    events = markov_world(users=200, items=20, length=9, noise=0.02).interactions
    dataset = Dataset.write(tmp_path / "markov", events, name="markov")
    split = leave_last_two_out(dataset)
    stages = make_stages(dataset, split, evidence=evidence)
    sampler = MultiIndexSampler(stages.catalogue, size=SIZE, num_codewords=4)
    objective = CooperativeObjective(stages, sampler, num_negatives=N, certain_retriever=True, certain_ranker=True)
    fit(objective, loader(dataset, split), RowWiseAdam(objective, learning_rate=0.01), epochs=20)
    examples = Examples.of(dataset, split, Part.TEST)
    batch = examples.batch(torch.arange(len(examples)).numpy(), 8)
    with torch.no_grad():
        encoded = stages.encode(batch)
        everything = stages.catalogue.expand(len(batch), -1)
        scores, logits = stages.score(encoded, everything)
    for values in (scores, logits):
        first = stages.catalogue[values.argmax(1)]
        # A plain DIN sees a set of items, not their order: it can only guess which one was the last.
        assert float((first == batch.item).float().mean()) > (0.9 if evidence or values is scores else 0.4)
