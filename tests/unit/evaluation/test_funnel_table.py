"""The table has every stage that was measured, the ceiling beside what is served, and no other."""

from __future__ import annotations

from corral.evaluation.evaluate import evaluate
from corral.evaluation.funnel_table import funnel_columns, funnel_table
from corral.evaluation.mixture import Mixture


def test_rows_and_columns(world) -> None:
    targets, channel, ranker = world.random()
    got = evaluate(targets, channel, ranker=ranker, num_candidates=15, mixture=Mixture(0.5))
    rows = {row.name: row for row in funnel_table(got)}
    names = ["retriever", "ranker", "fused", "served", "ceiling", "oracle ranker", "oracle retriever"]
    assert list(rows) == names
    columns = funnel_columns(got)
    assert columns[:4] == ["ndcg@10", "recall@10", "mrr@10", "map@10"]
    assert all(list(row.values) == columns for row in rows.values())
    assert rows["served"].values["ndcg@10"] == got.metrics["ndcg@10"]
    assert rows["retriever"].values["recall@500"] == got.metrics["retriever/recall@500"]
    assert rows["ranker"].values["recall@500"] is None
    assert rows["oracle ranker"].values["mrr@10"] is None


def test_the_ceiling_is_always_a_column(world) -> None:
    targets, channel, ranker = world.random()
    for n in (3, 10, 15, 100):
        got = evaluate(targets, channel, ranker=ranker, num_candidates=n)
        ceiling = next(row for row in funnel_table(got) if row.name == "ceiling")
        assert ceiling.values[f"recall@{n}"] == got.metrics[f"retriever/recall@{n}"]
        assert list(ceiling.values) == funnel_columns(got)


def test_stage_one_alone(world) -> None:
    targets, channel, _ = world.random()
    assert [row.name for row in funnel_table(evaluate(targets, channel))] == [
        "retriever",
        "served",
        "ceiling",
        "oracle ranker",
    ]
