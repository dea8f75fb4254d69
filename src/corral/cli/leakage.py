"""corral leakage: do the inputs of training know what they should not?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from corral.cli.experiment import Experiment
    from corral.evaluation.leakage.finding import Finding
    from corral.settings import Settings

SplitRule = Literal["time-cut", "leave-last-two-out", "random", "given"]
# What a ranker on data without a recipe would read.
RANKER = {"evidence": {}, "linear": {"late": False}, "as_of": {}}


def leakage(
    target: Annotated[
        str,
        typer.Argument(
            help="A run directory, a Dataset directory, a data set under --root, or a name that recipes use.",
            metavar="RUN|DATA",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="For DATA, settings as in corral train: split.seed=1, ranker.evidence.window=5.", show_default=False
        ),
    ] = None,
    split: Annotated[
        SplitRule | None, typer.Option(help="For DATA: the split rule (default: time-cut).", show_default=False)
    ] = None,
    label_at_least: Annotated[
        float | None,
        typer.Option(help="For DATA: the value from which on an event counts as a click.", show_default=False),
    ] = None,
    root: Annotated[Path, typer.Option(help="Directory that holds your data sets.")] = Path("data"),
    too_good: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="AUC of a single column above which it is a leak.")
    ] = 0.95,
    apart: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fall of that AUC from train to test above which it is one.")
    ] = 0.2,
    events: Annotated[
        int, typer.Option(min=1000, help="Inputs are computed for users drawn from --seed, with so many events.")
    ] = 100_000,
    altered: Annotated[int, typer.Option(min=1, help="Train events that are altered one at a time.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of all drawing.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Look for leaks: inputs that know the future or their own label, and parts that know each other.

    Five questions are asked of a run's data, split and inputs, or of a data set with the default inputs:

    the future: events after the cut are permuted, flipped and removed in a copy; may anything before it change?

    the row itself: one event after another is altered; may its own inputs change?

    the label in an input: how well does each feature or evidence column alone tell clicks apart, on train and test?

    overlap of the parts: rows that lie in two of them, what the test knows from train, impressions clicked later.

    the split: does training end before the test begins; what does the rule leak by itself?

    The exit code is 1 if a leak was found. What is "told" is no fault, but to be known when figures are read.

    Examples:

        corral leakage runs/demo-0

        corral leakage data/clicks --split leave-last-two-out

        corral leakage ml-1m --label-at-least 4 --json
    """
    from corral.cli.experiment import Experiment
    from corral.cli.run_files import SETTINGS_FILE
    from corral.evaluation.leakage.finding import Verdict

    if (Path(target) / SETTINGS_FILE).is_file():
        if overrides or split is not None or label_at_least is not None:
            raise ValueError(f"{target} is a run: its own settings say split and labels; leave the others out")
        experiment = Experiment.open(Path(target), quiet=True)
    else:
        experiment = _of_data(_data_tree(target, root), target, split, label_at_least, overrides or [])
    findings = _check(experiment, too_good, apart, events, altered, seed, quiet)
    if as_json:
        _print_json(target, experiment, findings)
    else:
        _print(experiment, findings, events)
    raise typer.Exit(int(any(finding.verdict is Verdict.LEAK for finding in findings)))


def _data_tree(target: str, root: Path) -> dict[str, str]:
    """The settings' ``data`` of a directory, of a data set under ``root``, or of a name."""
    from corral.data.dataset_header import HEADER_FILE

    for path in (Path(target), root / target):
        if (path / HEADER_FILE).is_file():
            return {"path": str(path)}
    if Path(target).exists():
        raise ValueError(f"{target}: neither a run nor a Dataset directory; make one with corral data add")
    return {"name": target}


def _of_data(
    data: dict[str, str], source: str, split: str | None, label_at_least: float | None, overrides: list[str]
) -> Experiment:
    """A data set with the default inputs; with click labels where it has any."""
    import yaml

    from corral.cli import build
    from corral.cli.experiment import Experiment
    from corral.cli.open_data import open_data
    from corral.settings import load_settings

    def settings(clicks: bool) -> Settings:
        tree: dict[str, Any] = {"data": data, "ranker": dict(RANKER), "ranker_training": {}}
        if clicks:
            tree["ranker_training"] = {"loss": "clicks"}
        if label_at_least is not None:
            tree["ranker_training"]["label_at_least"] = label_at_least
        if split is not None:
            tree["split"] = {"rule": split}
        return load_settings(yaml.safe_dump(tree), source, tuple(overrides))

    chosen = settings(label_at_least is not None)
    dataset = open_data(chosen.data)
    if dataset.impressions is not None:
        chosen = settings(True)
    experiment = Experiment(chosen, Path(), dataset, build.make_split(dataset, chosen.split), quiet=True)
    _ = experiment.has_clicks  # labels that the data cannot have are refused now
    return experiment


def _check(
    experiment: Experiment, too_good: float, apart: float, events: int, altered: int, seed: int, quiet: bool
) -> list[Finding]:
    """All findings, check by check."""
    from dataclasses import replace

    from corral.cli.leakage_inputs import row_inputs, table_inputs
    from corral.cli.progress import progress
    from corral.evaluation.leakage.changed_copy import some_users
    from corral.evaluation.leakage.future import check_future
    from corral.evaluation.leakage.overlap import check_overlap
    from corral.evaluation.leakage.self_inclusion import check_self_inclusion
    from corral.evaluation.leakage.split_order import check_split_order

    dataset, split = experiment.dataset, experiment.split
    mark, length = experiment.settings.ranker_training.label_at_least, experiment.history_length
    part = experiment
    if len(dataset.events) > events:
        copy = some_users(dataset, split, events, seed)
        part = replace(experiment, dataset=copy.dataset, split=copy.split)
    world = (part.dataset, part.split)
    rows, tables = row_inputs(part), table_inputs(part)
    with progress("Leakage", 5, quiet=quiet) as advance:
        found = check_future(*world, rows, tables, history_length=length, mark=mark, seed=seed)
        advance()
        found += check_self_inclusion(*world, rows, history_length=length, count=altered, mark=mark, seed=seed)
        found += _trained_keys(experiment)
        advance()
        found += _label_findings(part, too_good, apart, seed)
        advance()
        found += check_overlap(dataset, split)
        advance()
        time = None if dataset.header.time_unit == "order" else dataset.events.time
        found += check_split_order(split, time)
        advance()
    return found


def _trained_keys(experiment: Experiment) -> list[Finding]:
    """RAR's neighbours by keys that are learned: to compute them again would be to train again."""
    from corral.cli.leakage_inputs import KEYS_OF_DATA, NEIGHBOURS
    from corral.evaluation.leakage.finding import Finding, Verdict
    from corral.evaluation.leakage.future import CHECK

    rar = None if experiment.settings.ranker is None else experiment.settings.ranker.rar
    if rar is None or rar.keys in KEYS_OF_DATA:
        return []
    return [Finding(CHECK, NEIGHBOURS, Verdict.SKIPPED, f"keys={rar.keys} come from something trained")]


def _label_findings(experiment: Experiment, too_good: float, apart: float, seed: int) -> list[Finding]:
    """Single columns against the label, where there is one."""
    import numpy as np

    from corral.cli.leakage_inputs import input_columns, row_inputs
    from corral.data.split import Part
    from corral.evaluation.leakage.finding import Finding, Verdict
    from corral.evaluation.leakage.label_in_input import CHECK, check_columns

    if not experiment.has_clicks:
        return [
            Finding(
                CHECK,
                "all columns",
                Verdict.SKIPPED,
                "every event counts as a click",
                "say what a click is with --label-at-least VALUE, or add impressions to the data set",
            )
        ]
    train, test = (
        experiment.examples(part).sample(50_000, np.random.default_rng((seed, int(part))))
        for part in (Part.TRAIN, Part.TEST)
    )
    rows = row_inputs(experiment)
    return check_columns(
        input_columns(experiment, train, test, rows),
        train.label,
        test.label,
        computed={one.name for one in rows},
        too_good=too_good,
        apart=apart,
    )


def _print_json(target: str, experiment: Experiment, findings: list[Finding]) -> None:
    import json
    from dataclasses import asdict

    from corral.evaluation.leakage.finding import Verdict

    value = {
        "target": target,
        "dataset": experiment.dataset.name,
        "data_hash": experiment.dataset.hash,
        "split": experiment.split.name,
        "leaks": sum(finding.verdict is Verdict.LEAK for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _print(experiment: Experiment, findings: list[Finding], events: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from corral.evaluation.leakage.finding import Verdict

    colour = {Verdict.CLEAN: "green", Verdict.TOLD: "yellow", Verdict.LEAK: "bold red", Verdict.SKIPPED: "dim"}
    console, name = Console(), f"{experiment.dataset.name} ({experiment.dataset.hash}), split {experiment.split.name}"
    table = Table("check", "verdict", "figure", "what to do", title=escape(name), title_justify="left")
    last = ""
    for finding in findings:
        if finding.check != last:
            table.add_section()
            last = finding.check
            table.add_row(f"[bold]{escape(finding.check)}[/]", "", "", "")
        verdict = f"[{colour[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(f"  {escape(finding.subject)}", verdict, escape(finding.figure), escape(finding.advice))
    console.print(table)
    if (whole := len(experiment.dataset.events)) > events:
        console.print(f"Inputs were computed for users with {events:,} of {whole:,} events (--events).", style="dim")
    leaks = sum(finding.verdict is Verdict.LEAK for finding in findings)
    console.print(f"[bold red]{leaks} found.[/]" if leaks else "[green]No leak found.[/]")
