"""What the recall stage knows, as ranker inputs: columns by hand, no leak, and the retriever's score as a residual."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.interactions import Interactions
from corral.data.split import Part, Split, leave_last_two_out, time_cut
from corral.ranking.ctr.din import DIN
from corral.ranking.ctr.lr import LR
from corral.ranking.evidence import CoVisitationEvidence, EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.co_visitation import CoVisitation, count_pairs

USERS, ITEMS = 6, 9
Sequences = list[list[int]]


def query(users: list[int], histories: list[list[int]]) -> Query:
    count = len(users)
    history = torch.tensor(histories, dtype=torch.int64).reshape(count, -1)
    return Query(torch.tensor(users), torch.full((count,), -1), history, torch.zeros(count, dtype=torch.int64))


def table(sequences: Sequences, *, window: int = 2, items: int = ITEMS) -> CoVisitation:
    """Counts of the users' item rows; users 0 and 1, the reserved rows, come first and have none."""
    flat = np.concatenate([np.array(one, dtype=np.int64) for one in sequences])
    lengths = [len(one) for one in sequences]
    key, weight = count_pairs(flat, np.repeat(np.arange(len(sequences)), lengths), items, window)
    parts = (key // items, key % items, weight, flat, np.concatenate([[0], np.cumsum(lengths)]))
    return CoVisitation(*(torch.from_numpy(part) for part in parts), num_items=items, window=window)


# 2->3 twice, 3->2 once, 2->4 and 2->5 half each, 3->4 and 3->5 once.
TINY: Sequences = [[], [], [2, 3, 4], [2, 3, 5], [3, 2]]


def test_columns_by_hand() -> None:
    evidence = CoVisitationEvidence(table(TINY), recent=3, decay=0.5)
    assert evidence.size == 11
    # A user without train events, who had item 2 and then item 3.
    found = evidence(query([1], [[0, 2, 3]]), torch.tensor([[4, 2]]))
    assert found.shape == (1, 2, 11)

    def log(weight: float) -> float:
        return math.log(1 + 4 * weight)

    four = [0, log(0.5), log(1), 0, 0, 0, log(0.25 + 1), 5 / math.sqrt(2), 2 / 3, math.log(2) / 4, log(1)]
    # Backward w(2 -> 3) = 2; an item is no neighbour of itself; 2 occurs three times.
    two = [0, 0, log(1), 0, 0, log(2), log(3), 12 / math.sqrt(4), 1 / 3, math.log(4) / 4, log(3)]
    torch.testing.assert_close(found[0], torch.tensor([four, two]))


def test_a_short_history_and_none() -> None:
    evidence = CoVisitationEvidence(table(TINY), recent=3, decay=0.5)
    items = torch.tensor([[4, 2, 5]])
    padded = evidence(query([1], [[0, 0, 3]]), items)
    for histories in ([[3]], [[0, 0, 0, 0, 3]], [[9, 9, 0, 0, 3]]):
        # Only the latest ``recent`` items are read, whatever the history's width.
        torch.testing.assert_close(evidence(query([1], histories), items), padded, rtol=0, atol=0)
    for histories in ([[0, 0, 0]], [[]]):
        nothing = evidence(query([1], histories), items)[0]
        count = nothing[:, -2].clone()
        nothing[:, -2] = 0
        assert float(nothing.abs().sum()) == 0.0
        torch.testing.assert_close(count, torch.tensor([2.0, 4.0, 2.0]).log() / 4)


def test_training_in_low_precision_reads_the_numbers_that_are_served() -> None:
    evidence = CoVisitationEvidence(table(TINY), recent=3)
    asked, items = query([1, 3], [[0, 2, 3], [0, 0, 2]]), torch.tensor([[4, 2, 5], [3, 4, 8]])
    with torch.autocast("cpu", torch.bfloat16):
        low = evidence(asked, items)
    torch.testing.assert_close(low, evidence(asked, items), rtol=0, atol=0)


def test_an_own_pair_gives_nothing() -> None:
    """Only user 2 ever went from 2 and 3 to 4: asked for user 2, that never happened."""
    evidence = CoVisitationEvidence(table(TINY), recent=3, decay=0.5)
    found = evidence(query([2, 3], [[0, 2, 3]] * 2), torch.tensor([[4], [4]]))
    assert float(found[0].abs().sum()) == 0.0
    assert float(found[1].abs().sum()) > 0.0


def all_but(sequences: Sequences, user: int) -> Sequences:
    return [[] if number == user else one for number, one in enumerate(sequences)]


def some_sequences(seed: int, *, repeats: bool) -> Sequences:
    random = np.random.default_rng(seed)
    found: Sequences = [[], []]
    for length in random.integers(2, 7, 12):
        found.append((random.choice(np.arange(2, ITEMS), length, replace=repeats)).tolist())
    return found


def as_if_never_there(sequences: Sequences, evidence: CoVisitationEvidence) -> tuple[Tensor, Tensor]:
    """Evidence of every user's own train events, and the same from counts of all the others' events."""
    found, wanted = [], []
    for user, sequence in enumerate(sequences):
        for place, item in enumerate(sequence):
            asked = query([user], [[0] * (6 - place) + sequence[:place]])
            items = torch.tensor([[item, *range(2, ITEMS)]])
            found.append(evidence(asked, items)[0])
            wanted.append(CoVisitationEvidence(table(all_but(sequences, user)), recent=3)(asked, items)[0])
    return torch.stack(found), torch.stack(wanted)


@pytest.mark.parametrize("repeats", [False, True])
def test_a_train_event_knows_nothing_of_its_own_user(repeats: bool) -> None:
    sequences = some_sequences(2, repeats=repeats)
    found, wanted = as_if_never_there(sequences, CoVisitationEvidence(table(sequences), recent=3))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_noise_says_nothing_of_the_clicked_item() -> None:
    """Uniformly random events: the clicked item looks like any other, but not if the own events were left in."""
    random = np.random.default_rng(3)
    items = 40
    sequences: Sequences = [[], [], *(random.permutation(np.arange(2, items))[:8].tolist() for _ in range(150))]
    evidence = CoVisitationEvidence(table(sequences, window=4, items=items), recent=4)
    users = [user for user, sequence in enumerate(sequences) for _ in sequence]
    histories = [
        ([0] * 8 + sequence[:place])[-8:] for sequence in sequences for place in range(len(sequence)) if sequence
    ]
    clicked = torch.tensor([item for sequence in sequences for item in sequence])
    strays = torch.from_numpy(random.integers(2, items, len(clicked)))
    asked = torch.stack([clicked, strays], 1)

    def lead(known_user: bool) -> float:
        """How much more evidence the clicked item has, in standard errors."""
        decayed_sum = evidence(query(users if known_user else [1] * len(users), histories), asked)[..., 8]
        gap = decayed_sum[:, 0] - decayed_sum[:, 1]
        return float(gap.mean() / (gap.std() / math.sqrt(len(gap))))

    assert abs(lead(True)) < 4
    assert lead(False) > 10, "the test would not see a leak"


SPLITS = {
    "leave-last-two-out": leave_last_two_out,
    "time-cut": lambda data: time_cut(data, valid_from=60, test_from=80),
}


def everything_trains(dataset: Dataset, split: Split) -> Split:
    return Split("leaky", np.zeros(len(dataset.events), dtype=np.uint8), split.history_rule)


@pytest.mark.parametrize("rule", SPLITS)
def test_evidence_of_training_does_not_know_the_future(rule: str, tmp_path: Path) -> None:
    """Other items in validation and test: the same evidence for every train event, bit for bit."""
    random = np.random.default_rng(5)
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(30), 10),
            "item_id": np.concatenate([random.permutation(15)[:10] for _ in range(30)]),
            "timestamp": np.concatenate([np.sort(random.permutation(100)[:10]) for _ in range(30)]),
        }
    )
    dataset = Dataset.write(tmp_path / "a", Interactions.of(frame, source="a"))
    future = SPLITS[rule](dataset).part != Part.TRAIN
    assert 0.1 < future.mean() < 0.5
    other = frame.with_columns(
        item_id=pl.when(pl.Series(future)).then((pl.col("item_id") + 7) % 15).otherwise(pl.col("item_id"))
    )
    corrupted = Dataset.write(tmp_path / "b", Interactions.of(other, source="b"))
    assert corrupted.n_items == dataset.n_items

    def of(data: Dataset, counted: Split) -> Tensor:
        examples = Examples.of(data, SPLITS[rule](data), Part.TRAIN)
        batch = examples.batch(np.arange(len(examples)), 10)
        evidence = CoVisitationEvidence(CoVisitation.of(data, counted, window=3), recent=4)
        items = torch.arange(2, data.n_items).expand(len(batch), -1)
        return evidence(batch.query, items)

    first = of(dataset, SPLITS[rule](dataset))
    assert float(first.abs().sum()) > 0
    torch.testing.assert_close(of(corrupted, SPLITS[rule](corrupted)), first, rtol=0, atol=0)
    leaky = [of(data, everything_trains(data, SPLITS[rule](data))) for data in (dataset, corrupted)]
    assert not torch.equal(*leaky), "a leak would have shown"


class MeanRetriever(nn.Module):
    """Query = mean vector of the history, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ITEMS, 4)
        self.dropout = nn.Dropout(0.5)

    def encode_queries(self, query: Query) -> Tensor:
        seen = (query.history != 0).unsqueeze(2)
        return self.dropout((self.table(query.history) * seen).sum(1) / seen.sum(1).clamp(min=1))

    def encode_items(self, items: Tensor) -> Tensor:
        return self.table(items)


def din_ranker(num_extra: int) -> FieldRanker:
    fields = Fields(USERS, ITEMS, field_size=4)
    din = DIN(4, fields.num_context_fields, fields.num_item_fields, hidden=(6,), num_extra=num_extra)
    return FieldRanker(fields, din, embedding_dropout=0.2, history_length=5)


def evidence_ranker(*, counts: bool = True, score: bool = True) -> EvidenceRanker:
    known = CoVisitationEvidence(table(TINY), recent=3) if counts else None
    return EvidenceRanker(din_ranker((known.size if known else 0) + int(score)), known, score=score)


def silenced(ranker: EvidenceRanker) -> EvidenceRanker:
    """The inner ranker says 0 of everything."""
    with torch.no_grad():
        for parameter in ranker.ranker.parameters():
            parameter.zero_()
    return ranker


ASKED = query([2, 3, 1, 1], [[0, 2, 3], [0, 0, 2], [4, 5, 6], [0, 0, 0]])
CANDIDATES = torch.tensor([[4, 5, 6, 2], [3, 8, 7, 2], [2, 3, 0, 1], [4, 5, 6, 7]])


@pytest.mark.parametrize("counts", [True, False])
def test_the_score_is_a_residual(counts: bool) -> None:
    """A ranker that has learned nothing hands on the retriever's order, with one learned factor."""
    ranker = silenced(evidence_ranker(counts=counts)).eval()
    scores = torch.randn(4, 4)
    assert ranker.factor is not None
    assert float(ranker.factor.detach()) == 1.0
    torch.testing.assert_close(ranker(ASKED, CANDIDATES, scores), scores)
    ranker.factor.data.fill_(0.3)
    torch.testing.assert_close(ranker(ASKED, CANDIDATES, scores), 0.3 * scores)


def test_all_inputs_reach_the_logit() -> None:
    """With a linear CTR model whose fields say nothing: weights times evidence, + weight times score / 8, + score."""
    known = CoVisitationEvidence(table(TINY), recent=3)
    fields = Fields(USERS, ITEMS, field_size=1)
    linear = LR(1, fields.num_context_fields, fields.num_item_fields, num_extra=known.size + 1)
    ranker = silenced(EvidenceRanker(FieldRanker(fields, linear), known, score=True)).eval()
    weights = torch.linspace(-1, 1, known.size + 1)
    assert linear.extra is not None
    linear.extra.weight.data[0] = weights
    scores = torch.randn(4, 4)
    wanted = known(ASKED, CANDIDATES) @ weights[:-1] + (weights[-1] / 8 + 1) * scores
    torch.testing.assert_close(ranker(ASKED, CANDIDATES, scores), wanted)


def test_without_score_it_is_the_inner_ranker_with_evidence() -> None:
    ranker = evidence_ranker(score=False).eval()
    assert ranker.factor is None
    known = cast(CoVisitationEvidence, ranker.evidence)
    wanted = ranker.ranker(ASKED, CANDIDATES, known(ASKED, CANDIDATES))
    torch.testing.assert_close(ranker(ASKED, CANDIDATES), wanted, rtol=0, atol=0)
    # Scores that nobody asked for change nothing.
    torch.testing.assert_close(ranker(ASKED, CANDIDATES, torch.randn(4, 4)), wanted, rtol=0, atol=0)


def test_scores_given_are_those_it_would_ask_for() -> None:
    retriever, ranker = MeanRetriever().eval(), evidence_ranker().eval()
    ranker.connect(retriever)
    scores = torch.einsum("bd,bnd->bn", retriever.encode_queries(ASKED), retriever.encode_items(CANDIDATES))
    torch.testing.assert_close(ranker(ASKED, CANDIDATES), ranker(ASKED, CANDIDATES, scores), rtol=0, atol=0)
    # Scores that are given win: training passes those of its own pass.
    assert not torch.equal(ranker(ASKED, CANDIDATES), ranker(ASKED, CANDIDATES, scores + 1))


def test_no_gradient_reaches_the_retriever() -> None:
    retriever, ranker = MeanRetriever(), evidence_ranker()
    ranker.connect(retriever)
    ranker(ASKED, CANDIDATES).square().sum().backward()
    assert all(parameter.grad is None for parameter in retriever.parameters())
    assert ranker.factor is not None
    assert ranker.factor.grad is not None
    assert float(ranker.factor.grad.abs()) > 0
    scores = torch.randn(4, 4, requires_grad=True)
    ranker(ASKED, CANDIDATES, scores).sum().backward()
    assert scores.grad is None


def test_it_must_be_connected() -> None:
    ranker = evidence_ranker()
    with pytest.raises(ValueError, match=r"connect\(retriever\) first, or pass scores"):
        ranker(ASKED, CANDIDATES)
    assert ranker(ASKED, CANDIDATES, torch.zeros(4, 4)).shape == (4, 4)
    assert evidence_ranker(score=False)(ASKED, CANDIDATES).shape == (4, 4)


def test_the_retriever_is_no_part_of_it() -> None:
    """Neither saved, trained, moved nor switched with the ranker."""
    retriever, ranker = MeanRetriever(), evidence_ranker()
    before = set(ranker.state_dict()), len(list(ranker.parameters())), len(list(ranker.modules()))
    ranker.connect(retriever)
    assert before == (set(ranker.state_dict()), len(list(ranker.parameters())), len(list(ranker.modules())))
    ranker.eval()
    assert retriever.training


def test_a_query_is_encoded_once_for_several_lists() -> None:
    retriever, ranker = MeanRetriever().eval(), evidence_ranker().eval()
    ranker.connect(retriever)
    encoded = ranker.encode(ASKED)
    pieces = [ranker.logits(encoded, ASKED, some) for some in CANDIDATES.split(2, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), ranker(ASKED, CANDIDATES))


def test_a_logit_does_not_depend_on_the_other_items() -> None:
    retriever, ranker = MeanRetriever().eval(), evidence_ranker().eval()
    ranker.connect(retriever)
    alone = torch.cat([ranker(ASKED, one) for one in CANDIDATES.split(1, dim=1)], 1)
    torch.testing.assert_close(alone, ranker(ASKED, CANDIDATES))


def test_histories_without_a_column() -> None:
    """A batch of first events: every history is empty, and the tensor has no columns."""
    ranker = evidence_ranker()
    nobody = query([2, 3], [[], []])
    logits = ranker(nobody, CANDIDATES[:2], torch.randn(2, 4))
    assert bool(logits.isfinite().all())
    ranker.eval()
    torch.testing.assert_close(
        ranker(nobody, CANDIDATES[:2], torch.zeros(2, 4)),
        ranker(query([2, 3], [[0, 0]] * 2), CANDIDATES[:2], torch.zeros(2, 4)),
    )
