"""The classical second stage: LightGBM lambdarank over the retriever's candidates, with the evidence all have.

    features: all evidence columns, the retriever's score, its distance to the list's best and mean, the rank by it,
    the history's length.

It is trained on lists of train events, with the clicked item added where the retriever missed it; or on lists of
validation queries, which the retriever was not trained on either: validation, then by halves, says which is better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import lightgbm
import numpy as np
import torch
from torch import Tensor, nn

from corral.cli.experiment import Experiment
from corral.cli.retriever_stage import item_index, served_channel
from corral.data.batches import Query
from corral.data.examples import Examples
from corral.data.split import Part
from corral.data.targets import Targets
from corral.evaluation.mixture import Mixture, tune_mixture
from corral.ranking.evidence import CoVisitationEvidence
from corral.ranking.joined_evidence import JoinedEvidence
from corral.ranking.linear_evidence import LinearEvidence
from corral.retrieval.channels import RecallChannel, RetrieverChannel
from corral.retrieval.co_visitation import CoVisitation
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.linear_items import LinearItems

# Feature rows [n, E + 5] of lists, which was clicked [n], and how many rows each list has.
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


class ListFeatures:
    """What the trees read of candidate lists; validation lists are judged a dozen times, and may be remembered.

    Args:
        retriever: frozen.
        evidence: as the other systems have it.
    """

    def __init__(self, retriever: Any, evidence: nn.Module) -> None:
        self.retriever, self.evidence = retriever, evidence
        self.known: dict[bytes, Tensor] | None = None

    def of(self, query: Query, items: Tensor) -> Tensor:
        """[B, N, E + 5] of candidate lists [B, N], 0-padded."""
        if self.known is None:
            return self._made(query, items)
        key = hashlib.blake2b(query.user.numpy().tobytes() + items.numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self._made(query, items)
        return self.known[key]

    @torch.no_grad()
    def _made(self, query: Query, items: Tensor) -> Tensor:
        scores = torch.einsum("bd,bnd->bn", self.retriever.encode_queries(query), self.retriever.encode_items(items))
        there = items != 0
        scores = scores.masked_fill(~there, -torch.inf)
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1).float()
        best = scores.amax(1, keepdim=True)
        mean = scores.masked_fill(~there, 0).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
        length = (query.history != 0).sum(1, keepdim=True).float().expand(items.shape)
        listwise = torch.stack([scores, scores - best, scores - mean, rank, length], -1)
        return torch.cat([self.evidence(query, items), listwise], -1).nan_to_num(neginf=-1e6)

    def rows(self, lists: Iterable[tuple[Query, Tensor, Tensor]], *, noisy: bool = False) -> Rows:
        """What to learn from (query, candidates [B, n], which one was clicked [B, n]).

        Args:
            lists: made while they are read.
            noisy: the retriever keeps its dropout meanwhile: it scores what it was trained on better than it ever will
                again, and dropout hides some of that.
        """
        rows, labels, groups = [], [], []
        with evaluation_mode(self.retriever):
            self.retriever.train(noisy)
            for query, items, clicked in lists:
                there = items != 0
                rows.append(self._made(query, items)[there].numpy())
                labels.append(clicked[there].numpy())
                groups.append(there.sum(1).numpy())
        return np.concatenate(rows), np.concatenate(labels).astype(np.int32), np.concatenate(groups)


class GbdtRanker:
    """A ``Ranker`` made of trees; features that depend on the list are made from the list that it is given.

    Args:
        features: of lists.
        leaves: of a tree.
        rounds: trees.
    """

    def __init__(self, features: ListFeatures, *, leaves: int, rounds: int = 300) -> None:
        self.features, self.leaves, self.rounds = features, leaves, rounds
        self.booster: lightgbm.Booster | None = None

    def fit(self, rows: Rows) -> GbdtRanker:
        """Trains; returns itself."""
        values, labels, groups = rows
        parameters = {
            "objective": "lambdarank",
            "lambdarank_truncation_level": 20,
            "verbosity": -1,
            "num_threads": 1,
            "deterministic": True,
            "num_leaves": self.leaves,
            "learning_rate": 0.05,
            "min_data_in_leaf": 50,
        }
        self.booster = lightgbm.train(
            parameters, lightgbm.Dataset(values, labels, group=groups), num_boost_round=self.rounds
        )
        return self

    def __call__(self, query: Query, items: Tensor) -> Tensor:
        """Logits [B, N]."""
        assert self.booster is not None, "fit first"
        values = self.features.of(query, items)
        scores = np.asarray(
            self.booster.predict(values.flatten(0, 1).numpy(), num_iteration=self.rounds, num_threads=1)
        )
        return torch.from_numpy(scores).float().view(items.shape)


def train_lists(
    examples: Examples, at: np.ndarray, channel: RecallChannel, n: int, history_length: int
) -> Iterator[tuple[Query, Tensor, Tensor]]:
    """(query, candidates [B, n], which one was clicked [B, n]) of train events; items of the past left out."""
    for start in range(0, len(at), 512):
        batch = examples.batch(at[start : start + 512], history_length)
        found = channel.recall(batch.query, n, batch.query.history).items
        missed = ~(found == batch.item[:, None]).any(1)
        found[missed, -1] = batch.item[missed]
        yield batch.query, found, found == batch.item[:, None]


def held_out_lists(targets: Targets, channel: RecallChannel, n: int) -> Iterator[tuple[Query, Tensor, Tensor]]:
    """The same of validation queries, as they are served."""
    for batch in targets.batches(512):
        found = channel.recall(batch.query, n, batch.exclude).items
        hit = (found[batch.owner] == batch.item[:, None]).int()
        clicked = torch.zeros(found.shape, dtype=torch.int32).index_add_(0, batch.owner, hit) > 0
        yield batch.query, found, clicked


LEAVES = (15, 31)
LAST_EVENTS = 2  # train lists are made for so many latest train events of each user


def best_gbdt(experiment: Experiment, retriever: Any) -> tuple[GbdtRanker, Mixture, dict[str, float]]:
    """The trees that are best on validation, their mixture with the retriever, what they reached, and settings."""
    dataset, split = experiment.dataset, experiment.split
    evidence = JoinedEvidence(
        [
            CoVisitationEvidence(CoVisitation.of(dataset, split), recent=10),
            LinearEvidence(LinearItems.of(dataset, split)),
        ]
    )
    examples = Examples.of(dataset, split, Part.TRAIN)
    last = np.append(np.flatnonzero(np.diff(examples.user)), len(examples) - 1)
    at = np.unique(np.concatenate([np.maximum(last - back, 0) for back in range(LAST_EVENTS)]))
    at = at[examples.batch(at, 1).query.history[:, -1].numpy() != 0]
    channel = RetrieverChannel(retriever, item_index(experiment, retriever))
    served, valid, n = served_channel(experiment, retriever), experiment.validation, experiment.settings.evaluation
    halves = [valid.only(np.arange(start, len(valid), 2)) for start in (0, 1)]
    features = ListFeatures(retriever, evidence)
    features.known = {}

    found: list[tuple[float, float, int, GbdtRanker, str]] = []  # value, mixture weight, rounds, trees, trained on
    for kind in ("train", "noisy"):
        torch.manual_seed(experiment.settings.seed)
        rows = features.rows(
            train_lists(examples, at, channel, n.num_candidates, experiment.history_length), noisy=kind == "noisy"
        )
        for leaves in LEAVES:
            ranker = GbdtRanker(features, leaves=leaves).fit(rows)
            for rounds in (50, 100, 300):
                ranker.rounds = rounds
                tuning = tune_mixture(valid, served, ranker)
                found.append((tuning.fused_value, tuning.mixture.weight, rounds, ranker, kind))
    # On validation queries: judged on the half that it has not seen.
    parts = [features.rows(held_out_lists(half, channel, n.num_candidates)) for half in halves]
    for leaves in LEAVES:
        rankers = [GbdtRanker(features, leaves=leaves).fit(part) for part in parts]
        for rounds in (25, 50, 100):
            value = weight = 0.0
            for ranker, other in zip(rankers, halves[::-1], strict=True):
                ranker.rounds = rounds
                tuning, share = tune_mixture(other, served, ranker), len(other) / len(valid)
                value, weight = value + share * tuning.fused_value, weight + share * tuning.mixture.weight
            found.append((value, weight, rounds, rankers[0], "held out"))
    value, weight, rounds, best, kind = max(found, key=lambda one: one[0])
    features.known = None
    if kind == "held out":
        best = GbdtRanker(features, leaves=best.leaves).fit(
            features.rows(held_out_lists(valid, channel, n.num_candidates))
        )
    best.rounds = rounds
    facts = {
        "valid/ndcg@10": value,
        "mixture_weight": weight,
        "rounds": rounds,
        "leaves": best.leaves,
        "noisy": float(kind == "noisy"),
        "held_out": float(kind == "held out"),
    }
    return best, Mixture(min(weight, 1.0)), facts
