"""Panel: runs side by side, with paired bootstrap; what was judged otherwise is flagged, not compared."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from corral.evaluation.comparison import Comparison, compare_with_first, mean_and_deviation
from corral.report import charts
from corral.report.blocks import Block, Chart, Heading, Mark, Panel, Paragraph, Row, Table
from corral.report.number_text import NOTHING, decimal, mean_and_sd, p_value, plain, signed
from corral.report.run_report import RunReport, by_system
from corral.report.sensitivity_panel import leaves

METRICS = ("ndcg@10", "recall@10", "mrr@10", "ndcg@20", "recall@20")
LISTS = ("coverage@10", "gini@10", "novelty@10", "popularity_bias@10")


def comparison_panel(runs: Sequence[RunReport]) -> Panel:
    """The first system against each of the others; runs of one system are its seeds.

    Args:
        runs: at least two; names should differ.
    """
    blocks: list[Block] = []
    systems = by_system(runs)
    found = compare_with_first({name: [run.evaluation for run in seeds] for name, seeds in systems.items()})
    strange = {run.name for name in found.strange for run in systems[name]}
    if found.strange:
        blocks += _flagged(runs, found)
    if len(systems) < len(runs):
        blocks.append(_means(systems, found.strange))
    blocks.append(_table(runs, strange))
    if found.differences:
        blocks += _differences(found)
    blocks += _settings(runs)
    return Panel("comparison", "Comparison", blocks)


def _flagged(runs: Sequence[RunReport], found: Comparison) -> list[Block]:
    names = sorted({rule for rules in found.strange.values() for rule in rules})
    rows = [
        Row(
            (rule.replace("_", " "), *(plain(run.evaluation.protocol.get(rule)) for run in runs)),
            Mark.WARNING,
        )
        for rule in names
    ]
    columns = ("rule", *(run.name for run in runs))
    return [Paragraph(found.warning, Mark.WARNING), Table("Rules that differ", columns, rows, frozenset(columns))]


def _means(systems: Mapping[str, Sequence[RunReport]], strange: Collection[str]) -> Table:
    metrics = _of_any([run for seeds in systems.values() for run in seeds], METRICS)
    rows = []
    for name, seeds in systems.items():
        of_seeds = [[run.evaluation.metrics.get(metric, math.nan) for run in seeds] for metric in metrics]
        cells = [mean_and_sd(*mean_and_deviation(values)) for values in of_seeds]
        known = ", ".join(plain(run.settings.get("seed")) for run in seeds)
        said = name + (" (other rules)" if name in strange else "")
        rows.append(Row((said, known, *cells), Mark.WARNING if name in strange else Mark.NONE))
    caption = "The systems, served lists on the test part: mean ± standard deviation over seeds"
    return Table(caption, ("system", "seeds", *metrics), rows, frozenset({"seeds"}))


def _of_any(runs: Sequence[RunReport], names: Sequence[str]) -> list[str]:
    """Those of the metrics that at least one run has."""
    return [name for name in names if any(name in run.evaluation.metrics for run in runs)]


def _table(runs: Sequence[RunReport], strange: Collection[str]) -> Table:
    metrics, lists = _of_any(runs, METRICS), _of_any(runs, LISTS)
    rows = []
    for run in runs:
        found, n = run.evaluation.metrics, run.evaluation.num_candidates
        rows.append(
            Row(
                (
                    run.name + (" (other rules)" if run.name in strange else ""),
                    run.evaluation.served.value,
                    *(decimal(found.get(name)) for name in metrics),
                    f"{decimal(found.get(f'retriever/recall@{n}'))} @{n}",
                    *(decimal(found.get(name)) for name in lists),
                ),
                Mark.WARNING if run.name in strange else Mark.NONE,
            )
        )
    columns = ("run", "serves", *metrics, "ceiling, recall", *lists)
    return Table("The runs, served lists on the test part", columns, rows, frozenset({"serves"}))


def _differences(comparison: Comparison) -> list[Block]:
    import altair

    first, found = comparison.first, comparison.differences
    one = next(iter(found.values()))
    rows, points = [], []
    for (name, metric), pair in found.items():
        cells = (
            name,
            metric,
            decimal(pair.first),
            decimal(pair.second),
            signed(pair.difference),
            f"{signed(pair.low)} to {signed(pair.high)}",
            p_value(pair.p),
            pair.verdict,
        )
        rows.append(Row(cells, Mark.STRONG if pair.excludes_zero else Mark.NONE))
        points.append(
            {"system": name, "metric": metric, "difference": pair.difference, "low": pair.low, "high": pair.high}
        )
    names, metrics = (
        list(dict.fromkeys(name for name, _ in found)),
        list(dict.fromkeys(metric for _, metric in found)),
    )
    label = f"Difference to {first} with {one.level:.0%} intervals. " + " ".join(
        f"{name}, {metric}: {signed(pair.difference)} ({signed(pair.low)} to {signed(pair.high)})."
        for (name, metric), pair in found.items()
    )
    base = altair.Chart(charts.inline(points)).encode(
        altair.Y("system", type="nominal", title=None, sort=names, axis=altair.Axis(labelLimit=150)),
        altair.YOffset("metric", type="nominal", sort=metrics),
        altair.Color("metric", type="nominal", title=None, sort=metrics),
        tooltip=[
            altair.Tooltip("system", type="nominal"),
            altair.Tooltip("metric", type="nominal"),
            *(altair.Tooltip(key, type="quantitative", format="+.4f") for key in ("difference", "low", "high")),
        ],
    )
    low = altair.X("low", type="quantitative", title=f"difference to {first}")
    zero = altair.Chart(charts.inline([{"low": 0.0}])).mark_rule(style=charts.REFERENCE).encode(low)
    layers = (
        zero,
        base.mark_rule(size=2).encode(low, altair.X2("high")),
        base.mark_point(filled=True, size=70, opacity=1).encode(altair.X("difference", type="quantitative")),
    )
    spec = charts.specification(altair.layer(*layers), label, max(80, 50 * len(names)))
    columns = (
        "system",
        "metric",
        first,
        "system's value",
        "difference",
        f"{one.level:.0%} interval",
        "p",
        "verdict",
    )
    note = (
        f"Paired bootstrap over {one.n_clusters:,} users, {one.n_resamples:,} resamples, of the means over seeds: what "
        "other users would say. It does not speak of other seeds; p values are not corrected for looking at several."
    )
    return [
        Heading(f"Differences to {first}"),
        Chart(
            "differences",
            f"Difference to {first}; an interval that does not touch 0 tells the systems apart",
            label,
            spec,
        ),
        Table(f"Differences to {first}", columns, rows, frozenset({"metric", "verdict"})),
        Paragraph(note, Mark.NOTE),
    ]


def _settings(runs: Sequence[RunReport]) -> list[Block]:
    used = [_used(run.settings) for run in runs]
    flat = [{name: plain(value) for name, value in leaves(settings).items()} for settings in used]
    rows = []
    for part in dict.fromkeys(name for settings in used for name in settings if name != "description"):
        inside = f"{part}."
        having = [isinstance(settings.get(part), Mapping) for settings in used]
        if any(having) and not all(having):
            # A part that some runs do without is one row; its settings are told apart among those that have it.
            counts = [sum(name.startswith(inside) for name in each) for each in flat]
            rows.append(Row((part, *(f"settings: {count}" if count else NOTHING for count in counts))))
        who = [each for each, has in zip(flat, having, strict=True) if has or not any(having)]
        for name in dict.fromkeys(name for each in who for name in each if name == part or name.startswith(inside)):
            if len({each.get(name, NOTHING) for each in who}) > 1:
                rows.append(Row((name, *(each.get(name, NOTHING) for each in flat))))
    if not rows:
        return [Paragraph("The runs have the same settings.", Mark.NOTE)]
    columns = ("setting", *(run.name for run in runs))
    return [Heading("Settings that differ"), Table("Settings that differ", columns, rows, frozenset(columns))]


def _used(settings: Mapping[str, object]) -> dict[str, object]:
    """Without trainings that did not take place: a joint one stands for those of the stages, but for a warm start."""
    together = settings.get("together")
    idle = set()
    if together is not None or settings.get("ranker") is None:
        idle.add("ranker_training")
    if isinstance(together, Mapping) and not together.get("warm_start"):
        idle.add("retriever_training")
    return {name: value for name, value in settings.items() if name not in idle}
