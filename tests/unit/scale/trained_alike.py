"""The same trainings by one ordinary process and by workers; run by test_world_size.py.

``python trained_alike.py FOLDER corr,two-tower 1 2`` writes FOLDER/SYSTEM-N.json, the losses of each step by N workers
(N = 0: an ordinary process), and a number of every weight after them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from forked_workers import alone, in_workers
from recipe_systems import RECIPE_SYSTEMS, judged, write_worlds
from torch import Tensor, nn

from corral.corr.multi_index_sampler import MultiIndexSampler
from corral.corr.objective import CooperativeObjective
from corral.corr.stages import Stages
from corral.data.dataset import Dataset
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, time_cut
from corral.data.targets import targets
from corral.evaluation.evaluate import evaluate
from corral.evaluation.turns import by_turns
from corral.ranking.ctr.din import DIN
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.channels import RetrieverChannel
from corral.retrieval.gru4rec import GRU4Rec
from corral.retrieval.index import ExactIndex
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.sasrec import SASRec
from corral.retrieval.two_tower import TwoTower
from corral.sampling.popularity import PopularitySampler
from corral.sampling.uniform import UniformSampler
from corral.scale import sharded_quantization
from corral.scale.scaled_objective import ScaledObjective
from corral.scale.sharded_adam import ShardedAdam
from corral.scale.sharded_embedding import shard_tables, unshard_tables, whole_tables
from corral.scale.sharded_multi_index import ShardedMultiIndexSampler
from corral.scale.sharded_softmax import ShardedSoftmax, own_items
from corral.scale.shared_batches import SharedBatches
from corral.scale.workers import Workers
from corral.training.objective import Objective
from corral.training.optimizers import RowWiseAdam
from corral.training.ranking_objectives import ClickObjective
from corral.training.retrieval_objectives import FullSoftmaxObjective, SampledSoftmaxObjective

STEPS = 6


class World:
    """A small data set, cut, and what a worker's part of the catalogue is."""

    def __init__(self, folder: Path, name: str, workers: Workers | None) -> None:
        self.data = Dataset.open(folder / name)
        self.split, self.workers = time_cut(self.data), workers
        self.catalogue = torch.from_numpy(self.split.catalogue(self.data))
        self.counts = torch.from_numpy(self.split.train_counts(self.data))[self.catalogue]
        self.items = own_items(self.catalogue, self.data.n_items, workers) if workers else self.catalogue

    def sharded(self, *models: nn.Module) -> None:
        for model in models:
            if self.workers:
                shard_tables(model, self.workers)

    def sasrec(self, sparse: bool) -> nn.Module:
        model = SASRec(self.data.n_items, size=8, max_length=6, blocks=1, dropout=0.3, sparse=sparse)
        self.sharded(model)
        return model

    def ranker(self, num_extra: int = 0) -> FieldRanker:
        fields = Fields(
            self.data.n_users,
            self.data.n_items,
            self.data.user_features,
            self.data.item_features,
            field_size=4,
            id_dropout=0.2,
            sparse=True,
        )
        din = DIN(4, fields.num_context_fields, fields.num_item_fields, hidden=(5,), dropout=0.2, num_extra=num_extra)
        model = FieldRanker(fields, din, embedding_dropout=0.2, history_length=4)
        self.sharded(model)
        return model

    def midx(self) -> Any:
        if self.workers:
            return ShardedMultiIndexSampler(self.catalogue, self.workers, size=8, num_codewords=3, seed=1)
        return MultiIndexSampler(self.catalogue, size=8, num_codewords=3, seed=1)

    def softmax(self) -> Any:
        if self.workers is None:
            return None
        return ShardedSoftmax(self.catalogue, self.items, self.workers, chunk=7, label_smoothing=0.1)

    def sequences(self) -> Any:
        # The last batch has one row: fewer than there are workers.
        return SequenceLoader(self.data, self.split, length=6, batch_size=17, seed=2)

    def events(self, batch_size: int = 60) -> Any:
        examples = Examples.of(self.data, self.split, Part.TRAIN)
        return EventLoader(examples, history_length=4, batch_size=batch_size, seed=2)


def full_softmax(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    world = World(folder, "markov", workers)
    model = world.sasrec(sparse=False)
    objective = FullSoftmaxObjective(model, world.items, chunk=7, label_smoothing=0.1, softmax=world.softmax())
    return objective, world.sequences()


def sampled_softmax(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    world = World(folder, "markov", workers)
    sampler = UniformSampler(world.catalogue)
    return SampledSoftmaxObjective(world.sasrec(True), world.items, sampler, num_negatives=5, seed=3), world.sequences()


def gru(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    """Its states lie in memory step by step, not row by row: so do the numbers of its dropout."""
    world = World(folder, "markov", workers)
    model = GRU4Rec(world.data.n_items, size=8, hidden=6, dropout=0.3, max_length=6, sparse=True)
    world.sharded(model)
    sampler = world.midx()
    return SampledSoftmaxObjective(model, world.items, sampler, num_negatives=5, seed=3), world.sequences()


def two_tower(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    """Small feature tables with sparse gradients are copied, not cut."""
    world = World(folder, "checkerboard", workers)
    data = world.data
    model = TwoTower(
        data.n_users, data.n_items, data.user_features, data.item_features, size=6, hidden=(5,), sparse=True
    )
    world.sharded(model)
    sampler = PopularitySampler(world.catalogue, world.counts)
    return SampledSoftmaxObjective(model, world.items, sampler, num_negatives=5, seed=3), world.events()


def corr(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    """CoRR over sequences; the ranker at two positions of each, the others drawn for apart."""
    world = World(folder, "markov", workers)
    retriever, ranker = world.sasrec(True), world.ranker()
    stages = Stages(retriever, ranker, world.items, positions=2, history_length=4, seed=4)
    return CooperativeObjective(stages, world.midx(), num_negatives=5, clean_teacher=True, seed=3), world.sequences()


def corr_large(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    """As ``corr``, with a catalogue that is too large to be shown to all workers."""
    sharded_quantization.SHOWN = 2
    return corr(folder, workers)


def corr_events(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    """CoRR over events, L_re over the whole catalogue."""
    world = World(folder, "checkerboard", workers)
    retriever = MatrixFactorization(world.data.n_users, world.data.n_items, size=8, user_dropout=0.2, sparse=False)
    world.sharded(retriever)
    stages = Stages(retriever, world.ranker(), world.items)
    softmax = world.softmax()
    if softmax is not None:
        softmax.label_smoothing = 0.0
    return CooperativeObjective(
        stages, world.midx(), num_negatives=5, full_softmax=True, softmax=softmax, seed=3
    ), world.events()


def clicks_score(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
    """A click ranker that reads the score of SASRec, which encodes 64 histories at once: two workers have 64 and 65."""
    world = World(folder, "markov", workers)
    ranker = EvidenceRanker(world.ranker(num_extra=1), None, score=True)
    retriever: Any = world.sasrec(False).eval()
    ranker.connect(retriever)
    return ClickObjective(ranker), world.events(batch_size=129)


SYSTEMS: dict[str, Callable[[Path, Workers | None], tuple[nn.Module, Any]]] = {
    "full-softmax": full_softmax,
    "sampled-softmax": sampled_softmax,
    "gru": gru,
    "two-tower": two_tower,
    "corr": corr,
    "corr-large": corr_large,
    "corr-events": corr_events,
    "clicks-score": clicks_score,
    **RECIPE_SYSTEMS,
}


def train(name: str, folder: Path, workers: Workers | None) -> None:
    """The first batches and the last, smaller one; a refresh every three steps."""
    # In float32 Adam makes whole steps of the rounding of gradients that are 0: a bias that shifts every logit alike.
    torch.set_default_dtype(torch.float64)
    sharded_quantization.SHOWN = 256
    torch.manual_seed(5)
    objective, loader = SYSTEMS[name](folder, workers)
    last = list(loader.epoch(0))[-1:] or []
    given = {"learning_rate": 0.02, "weight_decay": 0.01, "max_norm": 0.5}
    optimizer: RowWiseAdam
    if workers is None:
        optimizer = RowWiseAdam(objective, **given)
    else:
        objective = ScaledObjective(objective, workers)
        optimizer = ShardedAdam(objective, workers, **given)
        loader = SharedBatches(loader, workers)
        last = list(loader.epoch(0))[-1:]
    torch.manual_seed(6)
    batches = [batch for batch, _ in zip(loader.epoch(0), range(STEPS), strict=False)] + last
    losses: list[dict[str, float]] = []
    for step, batch in enumerate(batches):
        if step % 3 == 0:
            refreshed: Any = objective
            refreshed.refresh()
        objective.train()
        values: dict[str, Tensor] = objective(batch)
        optimizer.zero_grad()
        values["total"].backward()
        norm = optimizer.step()
        losses.append({"norm": float(norm), **{key: float(value.detach()) for key, value in values.items()}})
    inner = objective.objective if isinstance(objective, ScaledObjective) else objective
    unshard_tables(inner)
    # A number a weight that knows where each value stands.
    sums = {
        key: float((value.double().flatten() * torch.arange(1.0, value.numel() + 1).cos()).sum())
        for key, value in inner.state_dict().items()
        if value.is_floating_point()
    }
    draws = {key: value.get_state().sum().item() for key, value in inner_generators(inner).items()}
    if workers is None or workers.first:
        size = 0 if workers is None else workers.size
        found = {"losses": losses, "weights": sums, "generators": draws, "torch": float(torch.rand(()))}
        (folder / f"{name}-{size}.json").write_text(json.dumps(found))


def judge(folder: Path, workers: Workers | None) -> None:
    """Metrics of an untrained funnel: queries that neither the batches nor the workers divide."""
    torch.manual_seed(5)
    world = World(folder, "markov", workers)
    retriever, ranker = world.sasrec(False), world.ranker()
    asked = targets(world.data, world.split, Part.VALID, history_length=6, repeats=True)
    with ExitStack() as stack:
        if workers:
            for part in (whole_tables(retriever), whole_tables(ranker), by_turns(workers)):
                stack.enter_context(part)
        retriever.eval()
        with torch.no_grad():
            index = ExactIndex(retriever.encode_items(world.catalogue).float(), world.catalogue)  # type: ignore[operator]
        channel = RetrieverChannel(retriever, index)  # type: ignore[arg-type]
        counts = world.split.train_counts(world.data)
        found = evaluate(asked, channel, ranker=ranker, num_candidates=5, batch_size=7, item_counts=counts)
    size = 0 if workers is None else workers.size
    written = {
        "recipe": judged(folder, workers),
        "queries": len(asked),
        "events": found.queries["event"].tolist(),
        "metrics": found.metrics,
        "per_query": {name: values.tobytes().hex() for name, values in found.per_query.items()},
    }
    if workers is None or workers.first:
        (folder / f"judged-{size}.json").write_text(json.dumps(written))


def inner_generators(objective: Any) -> Any:
    given: Objective = objective
    return given.generators()


def main() -> None:
    folder, names, sizes = Path(sys.argv[1]), sys.argv[2].split(","), [int(word) for word in sys.argv[3:]]

    def everything(workers: Workers | None) -> None:
        judge(folder, workers)
        for name in names:
            train(name, folder, workers)

    alone(lambda: write_worlds(folder))
    alone(lambda: everything(None))
    for size in sizes:
        in_workers(size, folder, everything)


if __name__ == "__main__":
    main()
