"""The funnel: known worlds, ties, bounds, refusals, and that nothing depends on the batch size."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from corral.data.candidates import Candidates
from corral.evaluation.evaluate import evaluate
from corral.evaluation.metrics import ranks_by_score
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Evaluation, Stage, differing_rules


def test_by_hand(world) -> None:
    # Items 2..7; the retriever likes small rows, two candidates; the ranker likes big ones.
    scores = torch.arange(6, 0, -1).float().repeat(3, 1)
    got = evaluate(
        world.make_targets([[3], [2, 5], [7]]),
        world.channel(scores),
        ranker=world.ranker(-scores),
        num_candidates=2,
        cutoffs=[1, 2],
        recall_cutoffs=[2, 4],
        mixture=Mixture(0.0),
    )
    m = got.metrics
    assert m["retriever/recall@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert m["retriever/recall@4"] == pytest.approx((1 + 1 + 0) / 3)
    assert m["retriever/ndcg@1"] == pytest.approx(1 / 3)
    assert m["ranker/ndcg@1"] == m["ndcg@1"] == pytest.approx(1 / 3)
    assert m["fused/ndcg@1"] == m["retriever/ndcg@1"]
    # Query 1: 3 is first. Query 2: of 2 and 5, only 2 is there. Query 3: nothing is.
    assert m["oracle-ranker/ndcg@2"] == pytest.approx((1 + 1 / (1 + 1 / math.log2(3)) + 0) / 3)
    # The ranker's order with the missed put in: query 2: 5, 3, 2; query 3: 7, 3, 2.
    both = 1 + 1 / math.log2(3)
    assert m["oracle-retriever/ndcg@2"] == pytest.approx((1 + 1 / both + 1) / 3)
    assert m["retriever-given-candidates/auc"] == pytest.approx((0 + 1) / 2)
    assert m["ranker-given-candidates/auc"] == pytest.approx((1 + 0) / 2)
    assert m["agreement/spearman"] == -1.0
    assert got.targets["retriever"].tolist() == [2, 1, 4, 6]
    assert got.targets["ranker"].tolist() == [1, 2, 0, 0]
    assert np.isnan(got.per_query["ranker-given-candidates/ndcg@1"][2])


def test_a_constant_scorer_earns_chance_not_credit(world) -> None:
    # Every item is the target once: by chance recall@k is k / M.
    items = 50
    targets = world.make_targets([[row] for row in range(2, items + 2)])
    channel = world.channel(torch.zeros(items, items))
    flat = evaluate(targets, channel, cutoffs=[5, 10], recall_cutoffs=[10, 25])
    assert flat.metrics["recall@10"] == pytest.approx(10 / items)
    assert flat.metrics["retriever/recall@25"] == pytest.approx(25 / items)
    # A constant ranker over all items: the same, whatever order the retriever had.
    right = world.channel(torch.eye(items))
    got = evaluate(targets, right, ranker=world.ranker(torch.zeros(items, items)), num_candidates=items)
    assert got.metrics["retriever/ndcg@10"] == 1.0
    assert got.metrics["recall@10"] == pytest.approx(10 / items)
    assert got.metrics["ranker-given-candidates/auc"] == 0.5


def test_equal_whatever_the_batch_size(world) -> None:
    targets, channel, ranker = world.random()
    runs = [
        evaluate(targets, channel, ranker=ranker, num_candidates=15, mixture=Mixture(0.3), batch_size=size)
        for size in (1, 7, 1000)
    ]
    for run in runs[1:]:
        assert run.per_query.keys() == runs[0].per_query.keys()
        for name, values in runs[0].per_query.items():
            np.testing.assert_array_equal(values, run.per_query[name], err_msg=name)
        assert run.metrics == pytest.approx(runs[0].metrics, nan_ok=True)
        assert not differing_rules(run.protocol, runs[0].protocol)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_bound(world, seed: int) -> None:
    targets, channel, ranker = world.random(seed)
    got = evaluate(targets, channel, ranker=ranker, num_candidates=12, mixture=Mixture(0.5))
    q = got.per_query
    for k in (5, 10, 20):
        for stage in ("ranker", "fused"):
            assert (q[f"{stage}/ndcg@{k}"] <= q[f"oracle-ranker/ndcg@{k}"] + 1e-6).all()
            assert (q[f"{stage}/recall@{k}"] <= q["retriever/recall@12"] + 1e-6).all()
    # At most 12 candidates and 4 targets: every one of them is in the first 100.
    assert (q["oracle-retriever/recall@100"] == 1.0).all()
    everything = evaluate(targets, channel, ranker=ranker, num_candidates=40)
    for k in (5, 10, 20):
        assert everything.metrics[f"oracle-ranker/ndcg@{k}"] == 1.0
        assert everything.metrics[f"oracle-retriever/ndcg@{k}"] == everything.metrics[f"ranker/ndcg@{k}"]


@pytest.mark.parametrize("stage", list(Stage))
def test_plain_names_are_the_served_list(world, stage: Stage) -> None:
    targets, channel, ranker = world.random()
    got = evaluate(
        targets, channel, ranker=ranker, num_candidates=12, mixture=Mixture(0.5), serve_by=stage, cutoffs=[5]
    )
    for name in ("ndcg@5", "recall@5", "map@5"):
        assert got.metrics[name] == got.metrics[f"{stage.value}/{name}"]
    assert got.served is stage
    fused = evaluate(targets, channel, ranker=ranker, num_candidates=12, mixture=Mixture(1.0), cutoffs=[5])
    assert fused.metrics["fused/ndcg@5"] == fused.metrics["ranker/ndcg@5"]


def test_cold_targets_are_misses_and_counted(world) -> None:
    scores = torch.arange(4, 0, -1).float().repeat(3, 1)
    counts = np.array([0, 0, 5, 3, 0, 1, 0, 0, 0])
    got = evaluate(
        world.make_targets([[2, 1], [1], [8]], user=[2, 1, 3]),
        world.channel(scores),
        ranker=world.ranker(torch.zeros(3, 7)),
        item_counts=counts,
        catalogue=np.arange(2, 6),
        user_counts=np.array([0, 0, 4, 0]),
        cutoffs=[2],
        list_cutoff=2,
    )
    assert got.per_query["retriever/recall@10"].tolist() == [0.5, 0.0, 0.0]
    assert got.per_query["hit@2"].tolist() == [1.0, 0.0, 0.0]
    assert got.protocol["targets_outside_catalogue"] == 3
    assert got.protocol["cold_targets"] == 3
    assert got.protocol["catalogue_size"] == 4
    assert got.queries["cold_user"].tolist() == [False, True, True]
    assert got.metrics["coverage@2"] == 0.5


def test_excluded_items_are_not_in_the_way(world) -> None:
    targets = world.make_targets([[4]])
    targets.exclude = torch.tensor([[2, 3, 0]])
    got = evaluate(targets, world.channel(torch.tensor([[9.0, 8.0, 7.0, 6.0]])), cutoffs=[1])
    assert got.metrics["ndcg@1"] == 1.0


def test_a_channel_whose_short_list_differs_is_asked_for_it(world) -> None:
    class Approximate(world.channel):
        def recall(self, query, k, exclude=None, allow=None) -> Candidates:
            found = super().recall(query, 6, exclude)
            # Finds the best item only if asked for many.
            items, scores = (found.items, found.scores) if k > 3 else (found.items[:, 1:], found.scores[:, 1:])
            return Candidates(items[:, :k], scores[:, :k])

    scores = torch.arange(6, 0, -1).float().repeat(4, 1)
    got = evaluate(
        world.make_targets([[2]] * 4),
        Approximate(scores),
        ranker=world.ranker(scores),
        num_candidates=3,
        batch_size=2,
    )
    # Stage 1 is judged by what it gives: the best item is in none of its lists, and would stand behind them.
    assert got.metrics["retriever/recall@3"] == got.metrics["ranker/recall@10"] == 0.0
    assert got.targets["retriever"].tolist() == [4] * 4
    assert got.metrics["retriever/recall@10"] == 1.0
    exact = world.channel(scores)
    evaluate(world.make_targets([[2]] * 4), exact, ranker=world.ranker(scores), num_candidates=3, batch_size=2)
    # Two batches; once, and twice for queries spread over all, to see that the short list is the same.
    assert exact.asked == 5


def test_models_are_judged_without_dropout_and_left_as_they_were(world) -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.noise = nn.Dropout(0.9).eval(), nn.Dropout(0.9)

        def forward(self, query, items):
            assert not torch.is_grad_enabled()
            return self.noise(items.float())

    model = Dropped()
    scores = torch.arange(6, 0, -1).float().repeat(1, 1)
    got = evaluate(world.make_targets([[7]]), world.channel(scores), ranker=model, cutoffs=[1])
    assert got.metrics["ndcg@1"] == 1.0
    assert model.training and model.noise.training and not model.frozen.training  # noqa: PT018


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        ([[2, 3, 2]], [[3.0, 2.0, 1.0]], "twice"),
        ([[2, 3, 4]], [[1.0, 2.0, 3.0]], "best first"),
        ([[2, 0, 4]], [[3.0, 2.0, 1.0]], "padding"),
        ([[2, 1, 4]], [[3.0, 2.0, 1.0]], "unknown"),
        ([[2, 3, 4]], [[3.0, 2.0, -math.inf]], "finite"),
        ([[2, 3, 4]], [[math.nan, 2.0, 1.0]], "finite"),
    ],
)
def test_lists_that_are_none_are_refused(world, items, scores, message) -> None:
    class Broken:
        name = "broken"

        def recall(self, query, k, exclude=None, allow=None) -> Candidates:
            return Candidates(torch.tensor(items), torch.tensor(scores))

    with pytest.raises(ValueError, match=f"'broken'.*{message}"):
        evaluate(world.make_targets([[2]]), Broken())


def test_ties_of_a_channel_are_put_in_order(world) -> None:
    class Unordered:
        name = "unordered"

        def recall(self, query, k, exclude=None, allow=None) -> Candidates:
            return Candidates(torch.tensor([[5, 4, 3, 2]]), torch.ones(1, 4))

    got = evaluate(world.make_targets([[5]]), Unordered(), recall_cutoffs=[10])
    assert got.targets["retriever"].tolist() == [4]


def test_refusals(world) -> None:
    targets, channel, ranker = world.random()
    with pytest.raises(ValueError, match="needs a ranker"):
        evaluate(targets, channel, serve_by=Stage.RANKER)
    with pytest.raises(ValueError, match="needs a mixture"):
        evaluate(targets, channel, ranker=ranker, serve_by=Stage.FUSED)
    with pytest.raises(ValueError, match="no targets"):
        evaluate(world.make_targets([]), channel)
    with pytest.raises(ValueError, match="cutoff 0"):
        evaluate(targets, channel, cutoffs=[0])
    with pytest.raises(ValueError, match="num_candidates"):
        evaluate(targets, channel, num_candidates=0)
    with pytest.raises(ValueError, match="NaN"):
        evaluate(targets, channel, ranker=world.ranker(torch.full_like(ranker.logits, torch.nan)))
    with pytest.raises(ValueError, match="logits"):
        evaluate(targets, channel, ranker=lambda query, items: torch.zeros(3))
    with pytest.raises(ValueError, match="catalogue rows"):
        evaluate(targets, channel, catalogue=np.array([1, 2]))


def test_targets_that_skip_a_query_are_refused(world) -> None:
    targets, channel, _ = world.random()

    class Short:
        def __len__(self) -> int:
            return len(targets) + 1

        def batches(self, size):
            return targets.batches(size)

        def batch(self, index):
            return targets.batch(index[index < len(targets)])

    with pytest.raises(ValueError, match=f"{len(targets)} of {len(targets) + 1}"):
        evaluate(Short(), channel)


def test_saved_and_opened_again(world, tmp_path: Path) -> None:
    targets, channel, ranker = world.random()
    first = evaluate(
        targets,
        channel,
        ranker=ranker,
        num_candidates=12,
        mixture=Mixture(0.25),
        serve_by=Stage.FUSED,
        item_counts=np.arange(42),
        protocol={"split": "time cut", "seeds": [1]},
    )
    first.save(tmp_path / "run")
    second = Evaluation.open(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["evaluation.json", "evaluation.npz"]
    assert second.metrics == pytest.approx(first.metrics, nan_ok=True)
    assert (second.protocol, second.system) == (first.protocol, first.system)
    for kind in ("per_query", "queries", "targets"):
        one, two = getattr(first, kind), getattr(second, kind)
        assert set(one) == set(two)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    text = (tmp_path / "run" / "evaluation.json").read_text()
    (tmp_path / "run" / "evaluation.json").write_text(text.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ValueError, match="format 9"):
        Evaluation.open(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text(text[:10])
    with pytest.raises(ValueError, match=r"evaluation\.json: damaged .*; delete it"):
        Evaluation.open(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text(text)
    arrays = tmp_path / "run" / "evaluation.npz"
    for size in (arrays.stat().st_size - 10, 100, 0):
        os.truncate(arrays, size)
        with pytest.raises(ValueError, match=r"evaluation\.npz: damaged .*; delete it"):
            Evaluation.open(tmp_path / "run")


def test_the_queries_hash_tells_other_targets_apart(world) -> None:
    targets, channel, _ = world.random()
    one = evaluate(targets, channel).protocol
    targets.target_lists[3] = [41]
    assert differing_rules(one, evaluate(targets, channel).protocol) != []


def test_to_read_an_input_or_not_is_no_other_rule_but_to_read_it_as_of_another_time_is() -> None:
    bare, blocks, folds = ({"split": "a", "seed": n} for n in range(3))
    blocks, folds = {**blocks, "rar_rule": "blocks"}, {**folds, "rar_rule": "folds"}
    assert differing_rules(bare, blocks) == differing_rules(blocks, bare) == []
    assert differing_rules(blocks, folds) == ["rar_rule"]
    fewer, more = ({**blocks, "rar_rule": f"blocks: {n} blocks of train time"} for n in (2, 8))
    assert differing_rules(fewer, more) == []  # a setting, which has its curve in the report
    assert differing_rules(bare, {**bare, "split": "b"}) == ["split"]


def test_new_users_at_first_do_not_hide_that_a_short_list_differs(world) -> None:
    """Approximate channels answer N otherwise than the begin of more; popular items, for new users, the same."""

    class Approximate:
        name = "approximate"

        def recall(self, query, k, exclude=None, allow=None):
            items = torch.arange(2, 2 + k).repeat(len(query), 1)
            moved = torch.arange(3, 3 + k) if k < 9 else torch.arange(2, 2 + k)
            items[query.event >= 4] = moved
            return Candidates(items, -items.float())

    targets = world.make_targets([[2]] * 12)
    for size in (4, 12):
        judged = evaluate(targets, Approximate(), num_candidates=3, cutoffs=(3,), recall_cutoffs=(9,), batch_size=size)
        assert judged.metrics["retriever/recall@3"] == pytest.approx(4 / 12)


def test_scores_that_are_no_numbers_are_refused_wherever_ranks_are_counted() -> None:
    items = torch.tensor([[2, 3, 4]])
    with pytest.raises(ValueError, match="NaN"):
        ranks_by_score(items, torch.tensor([[1.0, 2.0, torch.nan]]), torch.tensor([4]), torch.tensor([0]))
    padded = ranks_by_score(
        torch.tensor([[2, 3, 0]]), torch.tensor([[1.0, 2.0, torch.nan]]), torch.tensor([2]), torch.tensor([0])
    )
    assert padded.tolist() == [2]
