"""Panel: how much one setting matters, where runs differ by nothing but that number (and the seed)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corral.evaluation.result import differing_rules
from corral.report import charts
from corral.report.blocks import Block, Chart, Heading, Mark, Panel, Paragraph, Row, Table
from corral.report.number_text import decimal, plain
from corral.report.run_report import RunReport

METRIC = "ndcg@10"
# What two runs of one sweep may differ by besides the number that is swept.
FREE = frozenset({"seed", "description"})


@dataclass(frozen=True)
class Sweep:
    """A setting, and what the served list was worth at each of its values, all else alike.

    Attributes:
        setting: its dotted name.
        values: by the setting's value, ascending: the metric of each seed's run.
    """

    setting: str
    values: Mapping[float, Sequence[float]]


def leaves(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings by dotted names; lists whole."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def sweeps(runs: Sequence[RunReport], metric: str = METRIC) -> list[Sweep]:
    """The settings of which the runs hold at least two numbers, all else alike.

    Runs that were judged by other rules than the first of their sweep are left out of it.
    """
    flat = [leaves(run.settings) for run in runs]
    found = []
    for name in dict.fromkeys(name for one in flat for name, value in one.items() if _is_number(value)):
        if name in FREE:
            continue
        alike: dict[str, list[tuple[float, RunReport]]] = {}
        for run, one in zip(runs, flat, strict=True):
            if _is_number(value := one.get(name)):
                rest = {key: other for key, other in one.items() if key != name and key not in FREE}
                group = alike.setdefault(json.dumps(rest, sort_keys=True, default=str), [])
                if not group or not differing_rules(group[0][1].evaluation.protocol, run.evaluation.protocol):
                    group.append((float(str(value)), run))
        for group in alike.values():
            points: dict[float, list[float]] = {}
            for number, run in sorted(group, key=lambda pair: pair[0]):
                points.setdefault(number, []).append(run.evaluation.metrics[metric])
            if len(points) > 1:
                found.append(Sweep(name, points))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sensitivity_panel(runs: Sequence[RunReport]) -> Panel | None:
    """One curve a swept setting; None where the runs hold no sweep."""
    found = sweeps(runs)
    if not found:
        return None
    blocks: list[Block] = [
        Paragraph(
            "Runs that differ by one number alone, and by their seeds. A setting was chosen well if its curve is flat "
            "around the choice; choose it on validation, not here.",
            Mark.NOTE,
        )
    ]
    for place, sweep in enumerate(found, 1):
        blocks += _curve(sweep, place)
    return Panel("sensitivity", "Sensitivity", blocks)


def _curve(sweep: Sweep, place: int) -> list[Block]:
    rows, points = [], []
    for value, metrics in sweep.values.items():
        deviation = statistics.stdev(metrics) if len(metrics) > 1 else float("nan")
        rows.append(Row((plain(value), str(len(metrics)), decimal(statistics.mean(metrics)), decimal(deviation))))
        points.append({"value": value, "metric": statistics.mean(metrics)})
    best = max(sweep.values, key=lambda value: statistics.mean(sweep.values[value]))
    label = f"{METRIC} of the served list against {sweep.setting}: best, {decimal(max(p['metric'] for p in points))}, "
    label += f"at {plain(best)}."
    numbers = list(sweep.values)
    spec = charts.lines(
        points,
        "value",
        "metric",
        label=label,
        x_title=sweep.setting,
        y_title=f"{METRIC}, served",
        whole_x=all(number.is_integer() for number in numbers),
        log_x=min(numbers) > 0 and max(numbers) / min(numbers) >= 10,
    )
    columns = (sweep.setting, "seeds", f"{METRIC}, mean", "standard deviation")
    return [
        Heading(sweep.setting),
        Chart(f"sensitivity-{place}", f"{METRIC} of the served list against {sweep.setting}", label, spec),
        Table(f"Runs by {sweep.setting}", columns, rows),
    ]
