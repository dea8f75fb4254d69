"""corral tune: search a recipe's settings on validation, and name the best as a corral train command"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe, or the path of a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the recipe to change first: key.key=value.", show_default=False),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="The budget of this call; a trial ends with its epoch.")] = 30,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of the study in all; none: no bound.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the study goes; if not given, runs/tune-RECIPE.", show_default=False)
    ] = None,
    search: Annotated[
        Path | None, typer.Option(help="A YAML file: what to search; else see below.", show_default=False)
    ] = None,
    show_search: Annotated[
        bool, typer.Option("--show-search", help="Print what is searched, as such a file, and leave.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Search the settings of a recipe with Optuna; the test part is not looked at.

    The first trial is the recipe as it stands. Every trial is a run under OUT/trials; it is worth its best epoch on
    validation, by the metric that its last training watches, and ends early where it falls below the median of the
    earlier ones. Interrupted, or with minutes left to give: the same command goes on, also within a trial.

    Searched without a file: learning rates, dropout, negatives of what the recipe trains; weight decay where it learns
    from clicks; together.distillation of CoRR; alpha and numbers of neighbours of RAR. A file says, a line each:
    ranker.dropout: [0.0, 0.2, 0.4] or together.learning_rate: {low: 1e-4, high: 1e-2, log: true}

    Leaves best.yaml (the whole best recipe), tuning.json (all trials) and summary.txt.

    Examples:

        corral tune demo --minutes 60 --out runs/tuned

        corral tune ml-1m-sasrec seed=1 --search mine.yaml --trials 30
    """
    import json

    from rich.console import Console
    from rich.markup import escape

    from corral.cli.default_search import default_search
    from corral.cli.recipes import read_recipe
    from corral.cli.search_space import dump_search, read_search
    from corral.strict_yaml import read_yaml_text

    given = tuple(overrides or ())
    settings = read_recipe(recipe, given)
    if search is None:
        space = default_search(settings)
    else:
        space = read_search(read_yaml_text(search), str(search), settings)
    if show_search:
        print(dump_search(space), end="")
        return
    from optuna.trial import FrozenTrial

    from corral.cli.open_data import open_data
    from corral.cli.progress import progress
    from corral.cli.study import Study
    from corral.cli.tuning_files import show_tuning, trial_state, write_tuning

    console = Console(quiet=as_json)
    with progress("Data", quiet=quiet):
        data_hash = open_data(settings.data).hash
    study = Study.open(settings, space, out or Path("runs") / f"tune-{Path(recipe).stem}", data_hash)

    def said(trial: FrozenTrial) -> None:
        best, value = study.best(), "" if trial.value is None else f" {trial.value:.4f}"
        beside = "" if best is None else f", best {best.values[0]:.4f} (trial {best.number})"
        changes = " ".join(study.overrides(trial))
        console.print(f"Trial {trial.number} {trial_state(trial)}{value}{beside}  {escape(changes)}", style="dim")
        write_tuning(study, recipe, given)

    try:
        study.run(seconds=60 * minutes, trials=trials, on_trial=said, quiet=quiet)
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on from here.")
        raise
    finally:
        found = write_tuning(study, recipe, given)
        show_tuning(found, console)
    if as_json:
        print(json.dumps(found, indent=1))
