"""corral compare: finished runs as systems, mean and standard deviation over seeds, paired bootstrap"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from corral.evaluation.comparison import Comparison
    from corral.evaluation.result import Evaluation
    from corral.settings import Settings


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories; all are held against the first's system.", show_default=False)
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare, once for each; if not given, ndcg@10 and recall@10 of the served list.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare finished runs: mean ± standard deviation over seeds, and a paired bootstrap over users.

    Runs with the same settings but for the seed are one system. Differences are the first system's to each of the
    others, with 95 % intervals that speak of other users. Systems that were judged by different rules are shown, the
    rules that differ named, and not compared.

    Examples:

        corral compare runs/two-stage-0 runs/corr-0

        corral compare runs/two-stage-[0-4] runs/corr-[0-4] --metric ndcg@10 --metric retriever/recall@100
    """
    import json

    from rich.console import Console

    from corral.cli.show import comparison_values
    from corral.evaluation.comparison import COMPARED, compare_with_first

    systems = find_systems(runs)
    metrics = tuple(metric or COMPARED)
    _check_metrics(systems, metrics)
    found = compare_with_first({system.name: system.evaluations for system in systems}, metrics)
    if as_json:
        shown = [
            {
                "system": system.name,
                "runs": [str(run) for run in system.runs],
                "seeds": system.seeds,
                "metrics": {name: _mean_and_deviation(system, name) for name in metrics},
            }
            for system in systems
        ]
        print(json.dumps({"systems": shown, **comparison_values(found)}, indent=1))
        return
    _show(systems, metrics, found, Console())


@dataclass(frozen=True)
class System:
    """Runs that differ by their seed alone, and were judged alike.

    Attributes:
        name: of the first run's folder, without the seed where there are several.
        settings: of the first run.
        runs: their directories.
        seeds: of the runs.
        evaluations: of the runs, on the test part.
    """

    name: str
    settings: Settings
    runs: list[Path] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)


def find_systems(runs: Sequence[Path]) -> list[System]:
    """The systems of some finished runs, in the order of their first runs.

    A run joins the first system of the same settings and rules of judging that has no run of its seed yet: the same
    seeds again, as of two versions of the program, are another system, and so are runs on data that grew.

    Raises:
        ValueError: a directory holds no run, or one that is not finished, or is given twice.
    """
    from dataclasses import replace

    from corral.cli.run_files import EVALUATION, check_finished, read_settings, run_names
    from corral.evaluation.result import Evaluation, differing_rules

    found: list[System] = []
    for run, name in zip(runs, run_names(runs), strict=True):
        check_finished(run, EVALUATION)
        settings = read_settings(run)
        # Seeds of a continued run were continued from a run each.
        continued = None if settings.continues is None else Path("one of the same seed")
        alike = settings.model_copy(update={"seed": 0, "description": "", "continues": continued})
        evaluation = Evaluation.open(run / EVALUATION)
        joined = next(
            (
                one
                for one in found
                if one.settings == alike
                and settings.seed not in one.seeds
                and not differing_rules(one.evaluations[0].protocol, evaluation.protocol)
            ),
            None,
        )
        if joined is None:
            joined = System(name, alike)
            found.append(joined)
        joined.runs.append(run)
        joined.seeds.append(settings.seed)
        joined.evaluations.append(evaluation)
    short = [one.name.removesuffix(f"-{one.seeds[0]}") if len(one.runs) > 1 else one.name for one in found]
    if len(set(short)) < len(short):
        return found
    return [replace(one, name=name) for one, name in zip(found, short, strict=True)]


def _check_metrics(systems: Sequence[System], metrics: Sequence[str]) -> None:
    """Raises where a run was not judged by a metric."""
    import difflib

    for system in systems:
        for run, evaluation in zip(system.runs, system.evaluations, strict=True):
            for name in metrics:
                if name not in evaluation.metrics:
                    close = difflib.get_close_matches(name, evaluation.metrics, n=1)
                    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(evaluation.metrics)}"
                    raise ValueError(f"{run}: no metric {name!r}; {hint}")


def _mean_and_deviation(system: System, metric: str) -> dict[str, float | None]:
    from corral.evaluation.comparison import mean_and_deviation

    # NaN, where the data have nothing that a metric speaks of, is null in JSON.
    mean, sd = mean_and_deviation([evaluation.metrics[metric] for evaluation in system.evaluations])
    return {"mean": mean, "sd": sd}


def _show(systems: Sequence[System], metrics: Sequence[str], found: Comparison, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from corral.report.number_text import mean_and_sd, plain

    if found.warning:
        console.print(f"[bold red]{escape(found.warning)}[/]", highlight=False)
        first, *others = systems
        for other in others:
            for rule in found.strange.get(other.name, ()):
                theirs = {plain(run.protocol.get(rule)) for run in other.evaluations}
                line = f"  {rule}: {first.name} {plain(first.evaluations[0].protocol.get(rule))}; {other.name} "
                console.print(f"[red]{escape(line + ' and '.join(sorted(theirs)))}[/]", highlight=False)
    table = Table(title="Served lists on the test part: mean ± standard deviation over seeds", title_justify="left")
    table.add_column("system", overflow="fold")
    table.add_column("seeds", overflow="fold")
    for name in metrics:
        table.add_column(name, justify="right", overflow="fold")
    for system in systems:
        cells = [mean_and_sd(**_mean_and_deviation(system, name)) for name in metrics]
        strange = system.name in found.strange
        name = escape(system.name) + (" (other rules)" if strange else "")
        table.add_row(name, ", ".join(map(str, system.seeds)), *cells, style="red" if strange else None)
    console.print(table)
    if found.differences:
        _show_differences(found, len(systems[0].evaluations[0].queries["user"]), console)
    compared = [system for system in systems[1:] if system.name not in found.strange]
    whole = [metric for metric in metrics if metric not in {known for _, known in found.differences}]
    if compared and whole:
        console.print(f"{', '.join(whole)}: known of whole runs alone, so without an interval.", style="dim")


def _show_differences(found: Comparison, queries: int, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from corral.report.number_text import decimal, p_value, signed

    one = next(iter(found.differences.values()))
    table = Table(title=f"Differences to {escape(found.first)}", title_justify="left")
    for heading in ("system", "metric", "difference", f"{one.level:.0%} interval", "p", "verdict"):
        table.add_column(heading, justify="right" if heading in ("difference", "p") else "left")
    for (name, metric), pair in found.differences.items():
        interval = f"{signed(pair.low)} to {signed(pair.high)}"
        said = (signed(pair.difference), interval, p_value(pair.p), pair.verdict)
        table.add_row(escape(name), metric, *said, style="bold" if pair.excludes_zero else None)
    console.print(table)
    users = max(pair.n_clusters for pair in found.differences.values())
    console.print(
        f"Paired bootstrap over {users:,} users, {one.n_resamples:,} resamples, of the means over seeds: what other "
        "users would say, not other seeds. p values are not corrected for looking at several.",
        style="dim",
    )
    for (name, metric), pair in found.differences.items():
        if pair.n_queries < queries:
            console.print(
                f"{escape(name)}, {metric}: over the {pair.n_queries:,} of {queries:,} queries, of "
                f"{pair.n_clusters:,} users, that have a value in every run ({decimal(pair.first)} and "
                f"{decimal(pair.second)}), so not the difference of the means above.",
                style="dim",
            )
