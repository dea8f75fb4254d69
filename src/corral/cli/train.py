"""corral train: a recipe becomes a trained, measured, usable recommender."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from corral.evaluation.result import Evaluation
    from corral.settings import Settings


def train(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe (see --list) or the path of a YAML file.", show_default=False)
    ] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change: key.key=value, for example retriever.size=128.", show_default=False),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run directory (default: runs/RECIPE-SEED).", show_default=False)
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--from", help="Instead of a recipe: continue from this finished run.", show_default=False),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="With --from: epochs of every training.")] = 1,
    list_recipes: Annotated[bool, typer.Option("--list", help="Print the shipped recipes and leave.")] = False,
    print_settings: Annotated[bool, typer.Option("--settings", help="Print all settings and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Train both stages, tune their mixture, save a bundle, judge the funnel on the test part.

    A run that was interrupted goes on where it was when the same command is given again, and gives the same
    result as without the interruption. The run directory holds settings.yaml (all settings), manifest.json
    (versions, data hash, protocol), a log and checkpoints of each stage, the bundle and the evaluation.

    Examples:

        corral train demo

        corral train ml-1m-sasrec seed=1 retriever.size=128 --run runs/wide

    With --from, the settings are those of the run, and its models go on learning on its data set, as grown by
    corral data append: tables grow, old rows keep what they learned. What changed is printed and kept in
    continuation.json.

        corral train --from runs/shop --run runs/shop-monday --epochs 2
    """
    from rich.console import Console

    from corral.cli.recipes import read_recipe, recipe_names
    from corral.settings import dump_settings

    if list_recipes:
        for name in recipe_names():
            print(f"{name:28} {read_recipe(name).description}")
        return
    if earlier is not None:
        from corral.cli.continued_settings import continued_settings

        settings = continued_settings(earlier, epochs, [*([recipe] if recipe else []), *(overrides or ())])
    elif not recipe:
        raise ValueError("say which recipe: corral train RECIPE (corral train --list shows them)")
    else:
        settings = read_recipe(recipe, overrides or ())
    if print_settings:
        print(dump_settings(settings), end="")
        return
    from corral.cli.show import evaluation_json, show_evaluation

    if earlier is not None and run is None:
        raise ValueError("--from: say where the new run goes: --run DIRECTORY; the earlier one stays as it is")
    directory = run or Path("runs") / f"{Path(recipe).stem}-{settings.seed}"
    result = _trained(settings, directory, recipe, overrides or [], as_json, quiet)
    if result is None:
        return
    if as_json:
        print(evaluation_json(result))
        return
    console = Console()
    show_evaluation(result, console)
    if earlier is not None:
        from corral.cli.continuation import show_continuation
        from corral.cli.run_files import CONTINUATION_FILE
        from corral.data.json_file import read_json

        show_continuation(read_json(directory / CONTINUATION_FILE), console)
    console.print(f"Run: {directory}. Next: corral report {directory}; corral recommend {directory} --user ID")


def _trained(
    settings: Settings, directory: Path, recipe: str, overrides: list[str], as_json: bool, quiet: bool
) -> Evaluation | None:
    """The run, by this process or with the other workers; None: others did it, or another one tells."""
    from corral.cli.experiment import Experiment
    from corral.cli.run import train_run
    from corral.cli.run_files import only_trainer
    from corral.cli.scaled_training import check_scalable
    from corral.scale.workers import joined_workers, launched, restarts

    if launched():
        check_scalable(settings)
        from corral.cli.build import choose_device

        device, patience = choose_device(settings.device), settings.scale.timeout_seconds
        with joined_workers(device, timeout_seconds=patience) as workers:
            if settings.scale.workers not in (0, workers.size):
                raise ValueError(f"scale.workers={settings.scale.workers}, but torchrun started {workers.size}")
            if workers.first and restarts():
                print(f"corral: start {restarts() + 1}: goes on from the last checkpoint", file=sys.stderr)
            result = train_run(Experiment.start(settings, directory, quiet=quiet, workers=workers))
            return result if workers.first else None
    if settings.scale.workers:
        from corral.scale.launch import run_workers

        check_scalable(settings)
        Experiment.start(settings, directory, quiet=quiet)  # what is wrong with the data is said once, not by each
        with only_trainer(directory):
            if settings.scale.engine == "ray":
                return _trained_by_ray(settings, directory)
            words = ["-m", "corral", "train", recipe, *overrides, "--run", str(directory)]
            words += ["--json"] * as_json + ["--quiet"] * quiet
            run_workers(words, workers=settings.scale.workers, max_restarts=settings.scale.max_restarts)
            return None
    return train_run(Experiment.start(settings, directory, quiet=quiet))


def _trained_by_ray(settings: Settings, directory: Path) -> Evaluation:
    """The run, by workers of Ray."""
    from corral.cli.build import choose_device
    from corral.cli.experiment import Experiment
    from corral.cli.run import train_run
    from corral.cli.run_files import EVALUATION
    from corral.evaluation.result import Evaluation
    from corral.scale.local_ray import local_ray
    from corral.scale.ray_train import ray_train
    from corral.scale.workers import Workers

    place = directory.resolve()

    def train_share(workers: Workers) -> None:
        train_run(Experiment.start(settings, place, quiet=True, workers=workers))

    scale, cuda = settings.scale, choose_device(settings.device).type == "cuda"
    with local_ray(scale.workers):
        ray_train(
            train_share,
            place,
            workers=scale.workers,
            max_restarts=scale.max_restarts,
            timeout_seconds=scale.timeout_seconds,
            cuda=cuda,
        )
    return Evaluation.open(directory / EVALUATION)
