from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("altair")

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.split import Part, time_cut
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage
from corral.report.blocks import Block, Chart, Mark, Paragraph, Table
from corral.report.comparison_panel import comparison_panel
from corral.report.data_summary import data_summary
from corral.report.example_lists import choose, example_lists
from corral.report.examples_panel import examples_panel
from corral.report.funnel_panel import losses_panel, recall_curve
from corral.report.learning_panel import learning_panel
from corral.report.run_report import RunReport
from corral.report.sensitivity_panel import leaves, sensitivity_panel, sweeps
from corral.report.stage_probe import stage_probe
from corral.report.stages_panel import stages_panel


def tables(blocks: Any) -> list[Table]:
    found = []
    for block in blocks:
        found += [block] if isinstance(block, Table) else tables(getattr(block, "blocks", ()))
    return found


def words(blocks: list[Block]) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Paragraph))


def test_the_recall_curve_is_the_recall_that_was_measured(full: RunReport) -> None:
    curve = recall_curve(full.evaluation)
    assert len(curve) == 100, "the longest list that was judged"
    assert (np.diff(curve) >= 0).all()
    for k in (10, 15, 30, 100):
        assert curve[k - 1] == pytest.approx(full.evaluation.metrics[f"retriever/recall@{k}"], abs=1e-9)


def test_each_target_has_one_fate(full: RunReport) -> None:
    (table,) = tables(losses_panel(full.evaluation).blocks)
    for row in table.rows:
        number, *parts = (int(str(cell).split()[0].replace(",", "")) for cell in row.cells[1:])
        assert sum(parts) == number
    assert table.rows[0].cells[1] == f"{len(full.evaluation.targets['item']):,}"


def test_parts_of_the_split_by_hand(dataset: Dataset) -> None:
    split = time_cut(dataset)
    summary = data_summary(dataset, split)
    events = dataset.events
    train = set(events.item[split.rows(Part.TRAIN)].tolist())
    rows = split.rows(Part.TEST)
    part = summary.parts[Part.TEST]
    cold = [item not in train for item in events.item[rows].tolist()]
    assert part.events == len(rows)
    assert part.cold_item_events == sum(cold)
    assert part.items == len(set(events.item[rows].tolist()))
    assert summary.dates
    assert sum(int(str(row["events"])) for row in summary.timeline) == len(events)
    assert summary.popularity[0]["events"] == split.train_counts(dataset).max()
    assert summary.popularity[-1]["rank"] == len(train)


def test_examples_are_the_judged_queries(system: Any) -> None:
    evaluation = system.evaluation
    from_rule = choose(evaluation, 6)
    assert from_rule == choose(evaluation, 6)
    assert 3 <= len(from_rule) <= 6
    ranker = type("Order", (), {"__call__": lambda self, query, items: -items.float()})()
    examples = example_lists(system.dataset, system.targets, evaluation, system.channel, ranker, None, n=6, shown=15)
    events = system.dataset.events
    for (query, _), example in zip(from_rule, examples, strict=True):
        event = int(evaluation.queries["event"][query])
        user = int(events.user[event])
        start = int(events.offsets[user])
        before = system.dataset.items.external(events.item[start:event][-6:])
        assert [item.id for item in example.history] == before, "history as of the event"
        hits = {entry.item.id: entry.place for entry in example.served if entry.hit}
        recalled = {entry.item.id: entry.place for entry in example.candidates}
        for target in example.targets:
            assert hits.get(target.item.id, 0) == target.served_place
            assert recalled.get(target.item.id, 0) == target.retriever_place
        for entry in example.served:
            assert recalled[entry.item.id] == entry.retriever_place
        scores = [entry.final_score for entry in example.served]
        assert scores == sorted(scores, reverse=True)


def test_examples_of_another_evaluation_are_refused(system: Any) -> None:
    other = replace(system.targets, event=system.targets.event + 1)
    with pytest.raises(ValueError, match="not of this data"):
        example_lists(system.dataset, other, system.evaluation, system.channel, None, None)


def test_items_without_a_title_show_their_id(full: RunReport) -> None:
    cells = [row.cells[0] for table in tables(examples_panel(full.examples, True).blocks) for row in table.rows]
    assert any(isinstance(cell, str) and cell.startswith("i") for cell in cells)
    assert any(isinstance(cell, tuple) and cell[1].startswith("i") for cell in cells)


def test_the_chosen_epoch_is_marked() -> None:
    log = [
        {"epoch": e, "step": e, "seconds": 1.0, "loss/total": 1.0, "ndcg@10": v} for e, v in enumerate((0.1, 0.3, 0.2))
    ]
    (table,) = tables(learning_panel({"retriever": log}, {"retriever": "ndcg@10"}).blocks)
    assert [row.mark for row in table.rows] == [Mark.NONE, Mark.STRONG, Mark.NONE]
    assert table.rows[1].cells[0] == "2 (chosen)"
    unjudged = [{"epoch": 0, "step": 1, "seconds": 1.0, "loss/total": 1.0}]
    assert tables(learning_panel({"ranker": unjudged}, {"ranker": "auc"}).blocks)[0].rows[0].mark is Mark.NONE


def test_runs_judged_alike_are_compared(full: RunReport, bare: RunReport) -> None:
    panel = comparison_panel([full, bare])
    captions = [table.caption for table in tables(panel.blocks)]
    assert f"Differences to {full.name}" in captions
    assert "NOT COMPARABLE" not in words(panel.blocks)


def test_seeds_of_a_system_are_no_rivals(full: RunReport, bare: RunReport) -> None:
    def seed(run: RunReport, system: str, number: int) -> RunReport:
        return replace(run, name=f"{system}-{number}", system=system, settings={"seed": number})

    panel = comparison_panel([seed(full, "two", 0), seed(full, "two", 1), seed(bare, "one", 0)])
    means, each, differences = tables(panel.blocks)[:3]
    ndcg = f"{full.evaluation.metrics['ndcg@10']:.4f}"
    assert next(row.cells[:3] for row in means.rows) == ("two", "0, 1", f"{ndcg} ± 0.0000")
    assert [row.cells[0] for row in means.rows] == ["two", "one"]
    assert [row.cells[0] for row in each.rows] == ["two-0", "two-1", "one-0"]
    assert differences.caption == "Differences to two"
    assert {row.cells[0] for row in differences.rows} == {"one"}


def test_runs_judged_by_other_rules_are_flagged_and_not_compared(full: RunReport, bare: RunReport) -> None:
    rules = {**bare.evaluation.protocol, "split": "leave-last-two-out"}
    strange = replace(bare, evaluation=replace(bare.evaluation, protocol=rules))
    panel = comparison_panel([full, strange])
    loud = [block for block in panel.blocks if isinstance(block, Paragraph) and block.mark is Mark.WARNING]
    assert "NOT COMPARABLE: bare" in loud[0].text
    differing = tables(panel.blocks)[0]
    assert [row.cells for row in differing.rows] == [("split", "time-cut", "leave-last-two-out")]
    assert not [table for table in tables(panel.blocks) if table.caption.startswith("Differences")]


def test_trainings_that_did_not_take_place_are_no_difference(full: RunReport) -> None:
    def joint(name: str, warm_start: bool, epochs: int) -> RunReport:
        trainings = {"retriever_training": {"epochs": epochs}, "ranker_training": {"epochs": epochs}}
        settings = {"ranker": {"kind": "din"}, **trainings, "together": {"warm_start": warm_start}}
        return replace(full, name=name, settings=settings)

    def differing(*runs: RunReport) -> list[str]:
        return [row.cells[0] for table in tables(comparison_panel(runs).blocks)[-1:] for row in table.rows]

    warm = [joint("one", True, 6), joint("two", True, 8)]
    assert differing(*warm) == ["retriever_training.epochs"]
    cold = [joint("one", False, 6), joint("two", False, 8)]
    assert "The runs have the same settings." in words(comparison_panel(cold).blocks)


def test_a_part_that_some_runs_do_without_is_one_row(full: RunReport) -> None:
    joint = [{"together": {"epochs": epochs, "depth": 9}, "seed": 1} for epochs in (6, 8)]
    settings = [*joint, {"together": None, "ranker_training": {"epochs": 4}, "ranker": {"kind": "din"}, "seed": 2}]
    runs = [replace(full, name=f"run {place}", settings=each) for place, each in enumerate(settings)]
    table = tables(comparison_panel(runs).blocks)[-1]
    assert [row.cells for row in table.rows] == [
        ("together", "settings: 2", "settings: 2", "–"),
        ("together.epochs", "6", "8", "–"),
        ("seed", "1", "1", "2"),
        ("ranker_training", "–", "–", "settings: 1"),
        ("ranker", "–", "–", "settings: 1"),
    ]


def test_nested_settings_become_dotted_names() -> None:
    assert leaves({"a": {"b": {"c": 1}}, "d": None, "e": [1]}) == {"a.b.c": 1, "d": None, "e": [1]}


def at(run: RunReport, name: str, value: float, seed: int, ndcg: float) -> RunReport:
    """The run as if one setting had been another and the served list been worth so much."""
    evaluation = replace(run.evaluation, metrics={**run.evaluation.metrics, "ndcg@10": ndcg})
    settings = {"sampler": {"k": 8, "n": 20, name: value}, "seed": seed, "description": f"{name} = {value}"}
    return replace(run, settings=settings, evaluation=evaluation)


def test_a_sweep_is_runs_that_differ_by_one_number_and_seeds(full: RunReport) -> None:
    runs = [at(full, "k", 32, 0, 0.3), at(full, "k", 8, 0, 0.1), at(full, "k", 8, 1, 0.2), at(full, "n", 100, 0, 0.4)]
    found = {sweep.setting: dict(sweep.values) for sweep in sweeps(runs)}
    assert found == {"sampler.k": {8.0: [0.1, 0.2], 32.0: [0.3]}, "sampler.n": {20.0: [0.1, 0.2], 100.0: [0.4]}}
    panel = sensitivity_panel(runs)
    assert panel is not None
    assert [row.cells for row in tables(panel.blocks)[0].rows] == [
        ("8", "2", "0.1500", "0.0707"),
        ("32", "1", "0.3000", "–"),
    ]


def test_runs_of_one_value_or_of_other_rules_are_no_sweep(full: RunReport) -> None:
    first, second = at(full, "k", 8, 0, 0.1), at(full, "k", 32, 0, 0.2)
    rules = {**second.evaluation.protocol, "split": "leave-last-two-out"}
    strange = replace(second, evaluation=replace(second.evaluation, protocol=rules))
    assert sensitivity_panel([first, at(full, "k", 8, 1, 0.3)]) is None
    assert sensitivity_panel([first, strange]) is None


@pytest.mark.parametrize(("used", "said"), [(True, "Used; logits count 0.75 times."), (False, "Not used")])
def test_the_correction_is_shown_where_one_was_fitted(full: RunReport, used: bool, said: str) -> None:
    fitted = {"before": 0.1, "after, cross-validated": 0.125, "used": used, "scale": 0.75}
    panel = stages_panel(full.evaluation, full.probe, fitted)
    assert [row.cells[1:] for row in tables(panel.blocks)[-1].rows] == [("0.1000", ""), ("0.1250", "+0.0250")]
    assert said in words(panel.blocks)
    assert "likelier" not in words(panel.blocks)
    decided = stages_panel(full.evaluation, full.probe, {**fitted, "likelier, nats": -0.0312})
    assert "likelier by -0.031 nats" in words(decided.blocks)
    assert tables(decided.blocks)[-1].columns[1] == "nDCG@10"
    of_clicks = stages_panel(full.evaluation, full.probe, {**fitted, "metric": "auc"})
    assert tables(of_clicks.blocks)[-1].columns[1] == "AUC"
    assert "correction" not in words(stages_panel(full.evaluation, full.probe, {}).blocks)


def test_a_joint_training_shows_every_loss_and_every_stage() -> None:
    """A loss that comes in later has its column and its line; the retriever's metric is not the served list's."""
    records = [
        {"epoch": e, "step": 5 * e, "seconds": 1.0, "loss/total": 2.0, "loss/ranker": 1.0, **late}
        | {"ndcg@10": 0.3, "retriever/ndcg@10": 0.1 + e / 10, "ranker/ndcg@10": 0.2}
        for e, late in enumerate(({}, {"loss/distillation": 0.5}))
    ]
    panel = learning_panel({"together": records}, {"together": "ndcg@10"})
    (table,) = tables(panel.blocks)
    assert {"loss/distillation", "retriever/ndcg@10", "ranker/ndcg@10"} <= set(table.columns)
    charts = [chart for block in panel.blocks for chart in getattr(block, "blocks", ()) if isinstance(chart, Chart)]
    assert "distillation: from 0.5" in charts[0].label
    assert "retriever/ndcg@10: from 0.1" in charts[1].label
    assert "last epoch" not in words(panel.blocks)
    tried = {"best epoch": 0.25, "retriever of the last": 0.375, "used": True}
    later = learning_panel({"together": records}, {"together": "ndcg@10"}, tried)
    assert "weights of the last epoch it is 0.3750, not 0.2500. It kept them." in words(later.blocks)


class Order(nn.Module):
    """A ranker: items with small rows first, or stage 1's order, or that turned round."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, query: Query, items: Tensor) -> Tensor:
        if self.kind == "rows":
            return -items.float() / 10.0
        places = torch.arange(items.shape[1]).expand(items.shape).float()
        return -places if self.kind == "same" else places


@pytest.mark.parametrize("served", [Stage.RANKER, Stage.FUSED])
def test_the_probe_measures_what_evaluation_does(judge: Any, served: Stage) -> None:
    """Asked about all queries, with longer lists: at the served number of candidates, the same numbers."""
    ranker: Any = Order("rows")
    system = judge(ranker, served)
    metrics, n = system.evaluation.metrics, system.evaluation.num_candidates
    mixture = Mixture(0.5) if served is Stage.FUSED else None
    found = stage_probe(system.targets, system.channel, ranker, mixture, served, n, queries=10**6, batch_size=7)
    here = found.counts.index(n)
    assert found.num_queries == len(system.targets)
    assert found.values[here] == pytest.approx(metrics["ndcg@10"])
    assert found.ceilings[found.counts.index(10)] == pytest.approx(metrics["retriever/recall@10"])
    assert np.nanmean(found.spearman) == pytest.approx(metrics["agreement/spearman"])
    assert list(found.ceilings) == sorted(found.ceilings)
    assert found.places.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "sign"), [("same", 1.0), ("reverse", -1.0)])
def test_places_are_on_the_diagonal_only_where_the_stages_agree(judge: Any, kind: str, sign: float) -> None:
    ranker: Any = Order(kind)
    system = judge(ranker, Stage.RANKER)
    # 10 candidates: one to each tenth.
    found = stage_probe(system.targets, system.channel, ranker, None, Stage.RANKER, 10)
    np.testing.assert_allclose(found.places, np.eye(10)[:: int(sign)] / 10)
    assert np.nanmean(found.spearman) == pytest.approx(sign)


@pytest.mark.parametrize("n", [5, 10, 15])
def test_shares_of_the_heat_map_are_of_its_own_rows(full: RunReport, judge: Any, n: int) -> None:
    """Lists whose length is no multiple of ten fill the tenths unevenly."""
    ranker: Any = Order("reverse")
    system = judge(ranker, Stage.RANKER)
    found = stage_probe(system.targets, system.channel, ranker, None, Stage.RANKER, n)
    at_n = replace(full.evaluation, system={**full.evaluation.system, "num_candidates": n})
    found = replace(found, counts=(n,), values=(0.1,), ceilings=(0.2,))
    panel = stages_panel(at_n, found, {})
    (heat,) = [
        block
        for group in panel.blocks
        for block in (group, *getattr(group, "blocks", ()))
        if isinstance(block, Chart) and "Places of candidates" in block.caption
    ]
    assert "100.0 % of stage 2's first tenth come from the lower half" in heat.label.replace("100 %", "100.0 %")
    by_row: dict[str, float] = {}
    (cells,) = heat.spec["datasets"].values()
    for cell in cells:
        by_row[cell["stage 1"]] = by_row.get(cell["stage 1"], 0.0) + cell["share"]
    assert {round(share, 9) for share in by_row.values()} <= {0.0, 1.0}
