"""Ranking metrics: hand cases, a reference written the slow way, scikit-learn, and properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from corral.evaluation.metrics import (
    list_auc,
    list_metrics,
    ordinals,
    rank_agreement,
    ranked,
    ranks_by_score,
    recall,
    relevant_counts,
    target_ranks,
)

CUTOFFS = [1, 2, 3, 5, 10, 20]


def reference(order: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """One query, from the definitions."""
    hits = [1 if item in relevant else 0 for item in order[:k]]
    gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
    return {
        "ndcg": gain / ideal,
        "recall": sum(hits) / len(relevant),
        "hit": float(any(hits)),
        "mrr": next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0),
        "map": sum(precisions) / min(k, len(relevant)),
    }


@st.composite
def lists(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """Lists of distinct item rows with padding, coarse scores (ties), and baskets that may be missed."""
    seed, queries = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 6))
    width, catalogue = draw(st.integers(1, 25)), draw(st.integers(25, 40))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    generator = np.random.default_rng(seed)
    items = np.stack([generator.permutation(np.arange(2, catalogue + 2))[:width] for _ in range(queries)])
    for row in items:
        row[width - generator.integers(0, width + 1) :] = 0
    scores = generator.integers(0, levels, items.shape).astype(np.float32)
    baskets = [
        generator.choice(np.arange(2, catalogue + 2), generator.integers(1, 7), replace=False).tolist()
        for _ in range(queries)
    ]
    return torch.from_numpy(items), torch.from_numpy(scores), baskets


def flat(baskets: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.tensor([item for basket in baskets for item in basket], dtype=torch.int64)
    owner = torch.tensor([q for q, basket in enumerate(baskets) for _ in basket], dtype=torch.int64)
    return target, owner


@settings(max_examples=150, deadline=None)
@given(lists())
def test_equal_to_the_slow_reference(case: tuple[torch.Tensor, torch.Tensor, list[list[int]]]) -> None:
    items, scores, baskets = case
    target, owner = flat(baskets)
    order = ranked(items, scores)
    rank = target_ranks(order.items, target, owner)
    assert torch.equal(rank, ranks_by_score(items, scores, target, owner))
    got = list_metrics(rank, owner, relevant_counts(owner, len(items)), CUTOFFS)
    for query, basket in enumerate(baskets):
        pairs = [(-s, i) for s, i in zip(scores[query].tolist(), items[query].tolist(), strict=True) if i]
        expected_order = [item for _, item in sorted(pairs)]
        assert [i for i in order.items[query].tolist() if i] == expected_order
        for k in CUTOFFS:
            for name, value in reference(expected_order, set(basket), k).items():
                assert got[f"{name}@{k}"][query].item() == pytest.approx(value, abs=1e-12), (name, k)


@settings(max_examples=100, deadline=None)
@given(lists())
def test_bounds_monotone_in_k_and_blind_to_the_scale(
    case: tuple[torch.Tensor, torch.Tensor, list[list[int]]],
) -> None:
    items, scores, baskets = case
    target, owner = flat(baskets)
    n_relevant = relevant_counts(owner, len(items))
    rank = ranks_by_score(items, scores, target, owner)
    got = list_metrics(rank, owner, n_relevant, CUTOFFS)
    for value in got.values():
        assert bool(((value >= 0) & (value <= 1)).all())
    for name in ("recall", "hit", "mrr"):
        for smaller, larger in itertools.pairwise(CUTOFFS):
            assert bool((got[f"{name}@{smaller}"] <= got[f"{name}@{larger}"]).all())
    for k in CUTOFFS:
        assert torch.equal(recall(rank, owner, n_relevant, k), got[f"recall@{k}"])
    stretched = torch.expm1(scores.double() / 100) * 7 - 3
    assert torch.equal(rank, ranks_by_score(items, stretched, target, owner))


@settings(max_examples=60, deadline=None)
@given(lists())
def test_list_auc_is_that_of_scikit_learn(
    case: tuple[torch.Tensor, torch.Tensor, list[list[int]]],
) -> None:
    items, scores, baskets = case
    got = list_auc(items, scores, *flat(baskets))
    for query, basket in enumerate(baskets):
        real = items[query] != 0
        labels = np.isin(items[query][real].numpy(), basket)
        if labels.all() or not labels.any():
            assert math.isnan(got[query])
        else:
            assert got[query].item() == pytest.approx(roc_auc_score(labels, scores[query][real].numpy()))


def test_ndcg_and_average_precision_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    queries, width = 30, 50
    scores = generator.permuted(np.tile(np.arange(width, dtype=np.float64), (queries, 1)), axis=1)
    labels = (generator.random((queries, width)) < 0.1).astype(int)
    labels[np.arange(queries), generator.integers(0, width, queries)] = 1
    items = torch.arange(2, width + 2).repeat(queries, 1)
    owner, column = (torch.from_numpy(part) for part in labels.nonzero())
    rank = ranks_by_score(items, torch.from_numpy(scores), column + 2, owner)
    got = list_metrics(rank, owner, relevant_counts(owner, queries), [5, 10, width])
    for k in (5, 10, width):
        assert got[f"ndcg@{k}"].mean().item() == pytest.approx(ndcg_score(labels, scores, k=k), abs=1e-12)
    average = [average_precision_score(labels[q], scores[q]) for q in range(queries)]
    np.testing.assert_allclose(got[f"map@{width}"], average, atol=1e-12)


def test_by_hand() -> None:
    # Two targets of three found, at ranks 2 and 4.
    rank, owner = torch.tensor([4, 0, 2]), torch.tensor([0, 0, 0])
    got = list_metrics(rank, owner, torch.tensor([3]), [2, 5])
    assert got["recall@2"].item() == pytest.approx(1 / 3)
    assert got["recall@5"].item() == pytest.approx(2 / 3)
    assert got["mrr@5"].item() == 0.5
    assert got["map@5"].item() == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert got["map@2"].item() == pytest.approx((1 / 2) / 2)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert got["ndcg@5"].item() == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)


def test_ordinals_count_within_each_query() -> None:
    got = ordinals(torch.tensor([9, 0, 2, 5, 1]), torch.tensor([0, 0, 0, 1, 1]), 3)
    assert got.tolist() == [2, 0, 1, 2, 1]
    assert ordinals(torch.tensor([0, 0]), torch.tensor([0, 1]), 2).tolist() == [0, 0]


def test_ties_go_to_the_smaller_row_and_padding_comes_last() -> None:
    items = torch.tensor([[9, 4, 0, 7, 5]])
    scores = torch.tensor([[1.0, 1.0, 99.0, 2.0, -torch.inf]])
    got = ranked(items, scores)
    assert got.items.tolist() == [[7, 4, 9, 5, 0]]
    assert got.scores.tolist() == [[2.0, 1.0, 1.0, -math.inf, -math.inf]]
    assert ranks_by_score(items, scores, torch.tensor([9, 5]), torch.tensor([0, 0])).tolist() == [3, 4]


def test_reserved_rows_are_never_found() -> None:
    items = torch.tensor([[3, 0, 0]])
    assert target_ranks(items, torch.tensor([0, 1, 3]), torch.tensor([0, 0, 0])).tolist() == [0, 0, 1]


def test_empty_lists_are_misses() -> None:
    items, target, owner = torch.zeros(2, 0, dtype=torch.int64), torch.tensor([5, 6]), torch.tensor([0, 1])
    assert target_ranks(items, target, owner).tolist() == [0, 0]
    assert ranks_by_score(items, torch.zeros(2, 0), target, owner).tolist() == [0, 0]


def test_refuses_nan_scores_and_queries_without_targets() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranked(torch.tensor([[2, 3]]), torch.tensor([[0.0, torch.nan]]))
    assert ranked(torch.tensor([[2, 0]]), torch.tensor([[0.0, torch.nan]])).items.tolist() == [[2, 0]]
    with pytest.raises(ValueError, match="1 queries have no target"):
        relevant_counts(torch.tensor([0, 2]), 3)


def test_rank_agreement_is_spearmans() -> None:
    generator = torch.Generator().manual_seed(1)
    items = torch.stack([torch.randperm(30, generator=generator) + 2 for _ in range(8)])
    items[3, 20:] = 0
    items[4, 1:] = 0
    scores = torch.randn(8, 30, generator=generator)
    got = rank_agreement(items, scores)
    for query in range(8):
        n = int((items[query] != 0).sum())
        if n < 2:
            assert math.isnan(got[query])
        else:
            expected = spearmanr(-np.arange(n), scores[query, :n].numpy()).statistic
            assert got[query].item() == pytest.approx(expected)
