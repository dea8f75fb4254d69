"""Paired bootstrap: a known interval, clusters, seeds, and runs that must not be compared."""

from __future__ import annotations

import numpy as np
import pytest

from corral.evaluation.evaluate import evaluate
from corral.evaluation.significance import compare, paired_difference, user_clusters


def test_interval_is_the_normal_one_for_many_queries() -> None:
    generator = np.random.default_rng(0)
    first = generator.random(4000)
    second = first + 0.01 + 0.2 * generator.standard_normal(4000)
    got = paired_difference(first, second)
    error = (second - first).std() / np.sqrt(4000)
    assert got.difference == pytest.approx((second - first).mean())
    assert got.low == pytest.approx(got.difference - 1.96 * error, abs=3e-4)
    assert got.high == pytest.approx(got.difference + 1.96 * error, abs=3e-4)
    assert got == paired_difference(first, second)
    assert got != paired_difference(first, second, seed=1)


def test_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        difference = generator.standard_normal(200) + 0.3
        got = paired_difference(np.zeros(200), difference, n_resamples=500, seed=seed)
        covered += got.low <= 0.3 <= got.high
    assert 178 <= covered <= 199


def test_clusters_widen_the_interval_of_repeated_users() -> None:
    generator = np.random.default_rng(2)
    users = np.repeat(np.arange(2, 102), 20)
    second = np.repeat(generator.standard_normal(100), 20)
    alone = paired_difference(np.zeros(2000), second)
    grouped = paired_difference(np.zeros(2000), second, users)
    assert grouped.n_clusters == 100
    assert (grouped.high - grouped.low) > 3.5 * (alone.high - alone.low)
    # Unequal clusters: the mean stays the mean over queries.
    uneven = np.where(np.arange(2000) < 1500, 2, users)
    assert paired_difference(np.zeros(2000), second, uneven).difference == pytest.approx(second.mean())


def test_unknown_users_stand_alone() -> None:
    assert len(np.unique(user_clusters(np.array([1, 1, 2, 2, 0])))) == 4


def test_no_difference_has_p_one_and_a_sure_one_is_never_zero() -> None:
    same = paired_difference(np.ones(10), np.ones(10))
    assert (same.p, same.low, same.high, same.excludes_zero) == (1.0, 0.0, 0.0, False)
    sure = paired_difference(np.zeros(10), np.ones(10), n_resamples=999)
    assert sure.p == pytest.approx(0.002)
    assert sure.excludes_zero


def test_nan_leaves_the_pair_out() -> None:
    got = paired_difference(np.array([0.0, np.nan, 0.0, 0.0]), np.array([1.0, 1.0, np.nan, 3.0]))
    assert (got.n_queries, got.difference) == (2, 2.0)
    with pytest.raises(ValueError, match="at least 2"):
        paired_difference(np.array([np.nan, 0.0]), np.array([0.0, 0.0]))
    with pytest.raises(ValueError, match="same queries"):
        paired_difference(np.zeros(3), np.zeros(4))


def test_runs_are_compared_only_if_judged_alike(world) -> None:
    targets, channel, ranker = world.random()
    rules = {"split": "time cut", "seeds": [1]}
    retriever = evaluate(targets, channel, protocol=rules)
    both = evaluate(targets, channel, ranker=ranker, num_candidates=20, protocol=rules | {"seeds": [2]})
    got = compare([retriever], [both], "ndcg@10", n_resamples=2000)
    assert got.difference == pytest.approx(both.metrics["ndcg@10"] - retriever.metrics["ndcg@10"], abs=1e-6)
    assert got.n_clusters == len(np.unique(targets.user))
    assert compare([retriever, retriever], [both, both], n_resamples=2000) == got
    other = evaluate(targets, channel, protocol={"split": "leave last out"})
    with pytest.raises(ValueError, match="split: 'time cut' != 'leave last out'"):
        compare([retriever], [other])
    targets.target_lists[0] = [30, 31, 33]
    with pytest.raises(ValueError, match="queries_hash"):
        compare([retriever], [evaluate(targets, channel, protocol=rules)])
    with pytest.raises(ValueError, match="no per-query 'accuracy'"):
        compare([retriever], [both], "accuracy")
    with pytest.raises(ValueError, match="at least one run"):
        compare([], [both])
