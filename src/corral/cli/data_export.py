"""corral data export: a data set's split, and a run's results for every query, as files that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from corral.cli.data_roots import DEFAULT_ROOT, RootOption, dataset_path


def export(
    source: Annotated[str, typer.Argument(help="A run, a data set's directory, or its name under --root.")],
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    form: Annotated[
        Literal["parquet", "atomic"], typer.Option("--format", help="Plain Parquet, or RecBole's atomic files.")
    ] = "parquet",
    rule: Annotated[
        Literal["time-cut", "leave-last-two-out", "random", "given"] | None,
        typer.Option(help="Which split (default: time-cut); a run has its own.", show_default=False),
    ] = None,
    valid_fraction: Annotated[float | None, typer.Option(help="time-cut, random.", show_default="0.1")] = None,
    test_fraction: Annotated[float | None, typer.Option(help="time-cut, random.", show_default="0.1")] = None,
    seed: Annotated[int | None, typer.Option(help="random: of the lots.", show_default="0")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there.")] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for a machine instead of text.")] = False,
) -> None:
    """Write the events of each part, with the ids they came with, and the features; of a run also its results.

    A run's results are queries.parquet (each metric of each query) and targets.parquet (the rank of every target in
    each list): what a test of significance elsewhere needs.

    Examples:

    corral data export shop shop-split --rule leave-last-two-out --format atomic

    corral data export runs/demo demo-split
    """
    from rich.console import Console

    from corral.cli.build import make_split
    from corral.cli.open_data import open_data
    from corral.cli.progress import progress
    from corral.cli.run_files import EVALUATION, SETTINGS_FILE, read_settings
    from corral.data.dataset import Dataset
    from corral.data.split_export import export_split
    from corral.evaluation.result import Evaluation
    from corral.evaluation.result_table import query_table, target_table
    from corral.settings import SplitSettings

    given: dict[str, Any] = {
        "rule": rule,
        "valid_fraction": valid_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    run = Path(source) if (Path(source) / SETTINGS_FILE).is_file() else None
    if run is not None and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{source} is a run, which has its split already: leave {options} out")
    with progress("Export", quiet=as_json):
        if run is not None:
            settings = read_settings(run)
            dataset, chosen = open_data(settings.data), settings.split
        else:
            dataset, chosen = Dataset.open(dataset_path(source, root)), SplitSettings(**given)
        split, more = make_split(dataset, chosen), {}
        if run is not None and (run / EVALUATION).is_dir():
            evaluation = Evaluation.open(run / EVALUATION)
            more["queries"] = query_table(evaluation, dataset.users)
            more["targets"] = target_table(evaluation, dataset.users, dataset.items)
        out.parent.mkdir(parents=True, exist_ok=True)
        export_split(out, dataset, split, atomic=form == "atomic", more=more, overwrite=overwrite)
    files = sorted(path.name for path in out.iterdir())
    if as_json:
        print(json.dumps({"path": str(out), "files": files}, indent=1))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{out}: {', '.join(files)}", markup=False)
    if split.warning:
        Console(stderr=True, soft_wrap=True).print(f"Note: {split.warning}", style="yellow")
