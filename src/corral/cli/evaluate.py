"""corral evaluate: judge a run's funnel again, or the lists of another system on the same targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from corral.cli.text_options import EncodingOption, SeparatorOption


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory made by corral train.")],
    part: Annotated[Literal["test", "valid"], typer.Option(help="Which part to judge on.")] = "test",
    lists: Annotated[
        Path | None,
        typer.Option(
            help="Judge these lists instead, of any system: user_id, item_id and, if you like, score (CSV, Parquet).",
            show_default=False,
        ),
    ] = None,
    separator: SeparatorOption = None,
    encoding: EncodingOption = "utf-8",
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Of --lists: drop, count and list bad rows instead of stopping.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also save it (evaluation.json and .npz) here.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Judge each stage and the whole funnel over the full catalogue, and print the protocol beside the numbers.

    Nothing is trained: a run that is not finished is refused.

    Examples:

    corral evaluate runs/demo

    corral evaluate runs/demo --lists theirs.csv --out theirs
    """
    from rich.console import Console

    from corral.cli.experiment import Experiment
    from corral.cli.judge_lists import judge_lists
    from corral.cli.run import judge, open_models
    from corral.cli.run_files import MANIFEST_FILE, check_finished
    from corral.cli.show import evaluation_json, show_evaluation
    from corral.data.split import Part

    check_finished(run, MANIFEST_FILE)
    experiment = Experiment.open(run, quiet=quiet)
    if lists is not None:
        result, note = judge_lists(
            experiment,
            lists,
            Part[part.upper()],
            separator=separator,
            encoding=encoding,
            skip_bad_rows=skip_bad_rows,
        )
        Console(stderr=True, soft_wrap=True, highlight=False).print(note, markup=False)
    elif skip_bad_rows or separator is not None or encoding != "utf-8":
        raise ValueError("--separator, --encoding and --skip-bad-rows are for --lists FILE")
    else:
        result = judge(experiment, open_models(run, experiment.settings.device), Part[part.upper()])
    if out is not None:
        result.save(out)
    if as_json:
        print(evaluation_json(result))
    else:
        show_evaluation(result, Console())
