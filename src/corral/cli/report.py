"""corral report: one page from a run, or several runs compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from corral.cli.experiment import Experiment
    from corral.evaluation.result import Evaluation
    from corral.report.run_report import ClickResults, RunReport
    from corral.serving.recommender import TwoStageRecommender

PAGE, COMPARISON = "report.html", "comparison.html"
STAGES = ("retriever", "ranker", "together")


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories; several are compared with the first.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file to write; if not given, RUN/report.html, or comparison.html.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Users shown with their lists, at most.")] = 6,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the page's path, the metrics and the comparison as JSON.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Write one HTML page about a run: it opens offline, everywhere, and needs nothing else.

    Data, learning curves, the funnel with its ceiling, what each stage loses, slices, real users with their
    lists, protocol, settings, times. Several runs are compared by paired bootstrap, runs that differ by their
    seed alone as one system, and loudly not compared where they were judged by different rules.

    Examples:

        corral report runs/demo-0

        corral report runs/ml-1m-sasrec-0 runs/ml-1m-gru4rec-0 -o compared.html
    """
    import json

    from corral.cli.show import comparison_values, metric_values
    from corral.evaluation.comparison import compare_with_first
    from corral.report.run_report import by_system

    where = out or (runs[0] / PAGE if len(runs) == 1 else Path(COMPARISON))
    found = gather(runs, examples=examples, quiet=quiet)
    page = write_report(found, where)
    if as_json:
        metrics = [
            {"run": str(run), "system": one.system, "metrics": metric_values(one.evaluation.metrics)}
            for run, one in zip(runs, found, strict=True)
        ]
        systems = {name: [one.evaluation for one in seeds] for name, seeds in by_system(found).items()}
        compared = comparison_values(compare_with_first(systems))
        print(json.dumps({"page": str(page), "runs": metrics, **compared}, indent=1))
        return
    print(page)


def gather(runs: Sequence[Path], *, examples: int = 6, quiet: bool = False) -> list[RunReport]:
    """All that a page says of some finished runs.

    Raises:
        ModuleNotFoundError: altair or vl-convert-python is not installed.
        ValueError: a run is not there or not finished, or is given twice.
    """
    from corral.cli.compare import find_systems
    from corral.cli.run_files import run_names
    from corral.report.charts import require_altair

    require_altair()
    systems = {run: system.name for system in find_systems(runs) for run in system.runs}
    return [_gather(run, name, systems[run], examples, quiet) for run, name in zip(runs, run_names(runs), strict=True)]


def write_report(found: Sequence[RunReport], out: Path) -> Path:
    """Writes the page of a run, or of several compared, to ``out`` and returns its path."""
    from corral import __version__
    from corral.report.page import report_page, write_page

    return write_page(report_page(found, f"Made by corral {__version__}. This page makes no network request."), out)


def _gather(run: Path, name: str, system: str, examples: int, quiet: bool) -> RunReport:
    """Reads a finished run, and asks its trained models for examples; nothing is trained."""
    from corral.cli.experiment import Experiment
    from corral.cli.progress import progress
    from corral.cli.run import open_recommender
    from corral.cli.run_files import (
        BUNDLE,
        CORRECTION_FILE,
        EPOCHS_FILE,
        EVALUATION,
        MANIFEST_FILE,
        SETTINGS_FILE,
        check_finished,
        read_log,
    )
    from corral.data.json_file import read_json
    from corral.data.split import Part
    from corral.evaluation.result import Evaluation
    from corral.report.data_summary import data_summary
    from corral.report.example_lists import example_lists
    from corral.report.run_report import RunReport
    from corral.report.stage_probe import stage_probe

    experiment = Experiment.open(run, quiet=quiet)
    check_finished(run, BUNDLE, EVALUATION, MANIFEST_FILE)
    evaluation = Evaluation.open(run / EVALUATION)
    manifest = read_json(run / MANIFEST_FILE)
    with progress(f"Report on {name}", quiet=quiet):
        # The bundle holds the weights and the mixture that were judged: no phase is done again.
        recommender = open_recommender(run)
        lists = example_lists(
            experiment.dataset,
            experiment.targets(Part.TEST),
            evaluation,
            recommender.channel,
            recommender.ranker,
            recommender.mixture,
            n=examples,
            device=recommender.device,
        )
        probe = None
        if recommender.ranker is not None:
            probe = stage_probe(
                experiment.targets(Part.TEST),
                recommender.channel,
                recommender.ranker,
                recommender.mixture,
                evaluation.served,
                evaluation.num_candidates,
                device=recommender.device,
            )
        logs = {stage: read_log(run / stage) for stage in STAGES if (run / stage).is_dir()}
        settings = experiment.settings
        return RunReport(
            name=name,
            system=system,
            evaluation=evaluation,
            data=data_summary(experiment.dataset, experiment.split),
            description=settings.description,
            logs=logs,
            watched={
                "retriever": settings.retriever_training.metric,
                "ranker": settings.ranker_training.metric,
                **({} if settings.together is None else {"together": settings.together.metric}),
            },
            epochs=_facts(run / EPOCHS_FILE),
            examples=lists,
            probe=probe,
            correction=_facts(run / CORRECTION_FILE),
            clicks=_clicks(experiment, recommender),
            settings=settings.model_dump(mode="json"),
            settings_text=(run / SETTINGS_FILE).read_text(encoding="utf-8"),
            versions=manifest.get("versions", {}),
            seconds=_seconds(logs, manifest.get("seconds", {}), evaluation),
            written=str(manifest.get("time", "")),
        )


def _clicks(experiment: Experiment, recommender: TwoStageRecommender) -> ClickResults | None:
    """The ranker's logits of the test part's labels, where there are any."""
    from typing import Any, cast

    from corral.cli.ranker_stage import click_logits
    from corral.data.split import Part
    from corral.report.run_report import ClickResults

    if recommender.ranker is None or not experiment.has_clicks:
        return None
    logits, labels, _ = click_logits(experiment, cast(Any, recommender.ranker), Part.TEST)
    return ClickResults(labels, logits, recommender.calibration)


def _facts(path: Path) -> dict[str, float]:
    """What a run noted in a small file; empty where it did not."""
    from corral.data.json_file import read_json

    return read_json(path) if path.exists() else {}


def _seconds(
    logs: Mapping[str, Sequence[Mapping[str, float]]], phases: Mapping[str, float], evaluation: Evaluation
) -> dict[str, float]:
    """Where the time went, in the order of the work."""
    found = {stage: sum(record["seconds"] for record in records) for stage, records in logs.items()}
    found |= {name: float(value) for name, value in phases.items() if name != "evaluate"}
    found |= {name: value for name, value in evaluation.seconds.items() if name != "total"}
    found["evaluate"] = evaluation.seconds.get("total", float("nan"))
    return found
