"""corral demo: the main job, from the purchases that ship with the package to recommendations and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    run: Annotated[
        Path, typer.Option(help="Where the run goes; what is there from an earlier demo is replaced.")
    ] = Path("runs/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Train both stages together on real purchases, judge them beside the same stages trained apart, recommend.

    Takes five to ten minutes on a laptop and writes a report. The run trained apart lies beside the other one, as
    RUN-independent. The data: 396,244 purchases of a gift shop (UCI Online Retail, CC BY 4.0).
    """
    import shutil
    import time
    from importlib.util import find_spec

    from rich.console import Console

    from corral.cli.experiment import Experiment
    from corral.cli.recipes import read_recipe
    from corral.cli.recommend import item_titles
    from corral.cli.run import open_recommender, train_run
    from corral.cli.run_files import SETTINGS_FILE
    from corral.cli.show import evaluation_json, show_evaluation, show_list

    began = time.perf_counter()
    apart = run.with_name(f"{run.name}-independent")
    for folder in (run, apart):
        if folder.exists():
            if not (folder / SETTINGS_FILE).is_file():
                raise ValueError(f"{folder}: exists and is no run; choose another directory with --run")
            shutil.rmtree(folder)
    console = Console(quiet=as_json)
    experiment = Experiment.start(read_recipe("demo"), run, quiet=quiet)
    events = experiment.dataset.events
    console.print(f"{experiment.dataset.name}: {len(events):,} purchases. {experiment.dataset.header.licence}")
    result = train_run(experiment)
    show_evaluation(result, console)
    console.print("The same two stages with the same inputs, trained apart, for comparison:")
    beside = train_run(Experiment.start(read_recipe("demo-independent"), apart, quiet=quiet))
    console.print(
        f"nDCG@10 of the served list, one seed: together {result.metrics['ndcg@10']:.4f}, "
        f"apart {beside.metrics['ndcg@10']:.4f}."
    )
    recommender = open_recommender(run)
    titles = item_titles(recommender)
    # Three customers of the test weeks, with short, middling and long histories.
    counts = result.queries["history"]
    order = counts.argsort(kind="stable")
    chosen = [int(result.queries["user"][order[int(len(order) * share)]]) for share in (0.25, 0.5, 0.9)]
    users = experiment.dataset.users.external(chosen)
    found = recommender.recommend(users, 5)
    for place, user in enumerate(users):
        last = recommender.tables.histories.gather(experiment.dataset.users.rows([user]).astype("int64"), 3)[0]
        bought = [titles.get(item, str(item)) for item in experiment.dataset.items.external(last) if item is not None]
        show_list(
            f"Customer {user}, who last bought {'; '.join(bought)}",
            found.item_ids[place],
            {"score": found.scores[place].tolist()},
            titles,
            console,
        )
    if find_spec("altair") is None:
        console.print(f"For the page: pip install 'corral\\[report]', then corral report {run} {apart}")
    else:
        from corral.cli.report import PAGE, gather, write_report

        console.print(f"The page to look at: {write_report(gather([run, apart], quiet=quiet), run / PAGE)}")
    if as_json:
        print(evaluation_json(result))
    console.print(f"Done in {time.perf_counter() - began:.0f} s. The runs are in {run} and {apart}.")
