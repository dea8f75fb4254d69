"""corral forget: remove a user from a data set, runs, live events and logs, and prove that no file holds the id."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corral.cli.data_roots import DEFAULT_ROOT, RootOption, dataset_path


def forget(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    dataset: Annotated[str, typer.Option(help="Directory of the data set, or its name under --root.")],
    run: Annotated[
        list[Path] | None, typer.Option(help="A run on it; may be given again for others.", show_default=False)
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(help="Live events of corral serve: a file, or redis://HOST:PORT/NUMBER.", show_default=False),
    ] = None,
    impressions: Annotated[
        Path | None, typer.Option(help="Served lists of corral serve: a directory.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Remove nothing: say which files hold the id.")] = False,
    root: RootOption = DEFAULT_ROOT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Forget a user: events, features, live events, logged lists, and every row and key in the runs that are named.

    At the end all files of these places are searched for the id, and it is said how; the exit code is 1 where one
    still holds it. What was learned from the user stays in the weights of items and of the rest until the next training
    from scratch.

    Examples:

    corral forget u17 --dataset shop --run runs/shop --events runs/shop.events.sqlite --impressions served

    corral forget u17 --dataset shop --run runs/shop --check
    """
    from rich.console import Console

    from corral.cli.forget_run import forget_in_run, knows_user
    from corral.cli.progress import steps
    from corral.cli.serve import event_store
    from corral.cli.traces import traces
    from corral.data.dataset import Dataset
    from corral.data.forget import forget_user
    from corral.data.served_lists import forget_lists

    console = Console(soft_wrap=True, highlight=False)
    path, runs = dataset_path(dataset, root), run or []
    known = Dataset.open(path).users.parse(user, "user")
    # Asked before anything is removed: a run that is not there would be found out too late.
    holding = [one for one in runs if knows_user(one, known)]
    in_redis = events is not None and events.startswith(("redis://", "rediss://"))
    if events is not None and not in_redis and not Path(events).is_file():
        raise ValueError(f"{events}: no live events there")
    if not check:
        with steps("Data", quiet=quiet) as report:
            had = forget_user(path, known, progress=report)
        told = f"{had.events:,} events, {had.impressions:,} impressions, {int(had.features)} rows of features"
        console.print(f"{path}: {told} removed", markup=False)
        for one in runs:
            if one in holding:
                forget_in_run(one, path, quiet=quiet)
            console.print(f"{one}: {'made again without the user' if one in holding else 'no such user'}", markup=False)
        if impressions is not None:
            console.print(f"{impressions}: {forget_lists(impressions, known):,} lists removed", markup=False)
        if events is not None:
            store = event_store(events, path, 5.0)
            try:
                console.print(f"{events}: {store.forget(known):,} live events removed", markup=False)
            finally:
                store.close()
    places = [
        path,
        *runs,
        *([impressions] if impressions else []),
        *([Path(events)] if events and not in_redis else []),
    ]
    search = traces(known, places)
    for line in search.found:
        console.print(line, markup=False)
    verdict = f"{len(search.found)} traces" if search.found else "No file holds the id"
    console.print(
        f"{verdict}: {search.files:,} files, {search.bytes_searched:,} bytes; searched: {search.where}.", markup=False
    )
    if search.found:
        raise typer.Exit(1)
