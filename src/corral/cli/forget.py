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
        typer.Option(
            help="Live events of corral serve: a file, or redis://HOST:PORT/NUMBER; those in their default place "
            "beside a run are found without it.",
            show_default=False,
        ),
    ] = None,
    impressions: Annotated[
        Path | None, typer.Option(help="Served lists of corral serve: a directory.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Remove nothing: say which files hold the id.")] = False,
    root: RootOption = DEFAULT_ROOT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Forget a user: events, features, live events, logged lists, and every row and key in the runs that are named.

    A run that cannot be made again without the user is named and left as it is; the others are. At the end all files of
    these places are searched for the id, and it is said how; the exit code is 1 where one
    still holds it. What was learned from the user stays in the weights of items and of the rest until the next training
    from scratch.

    Examples:

    corral forget u17 --dataset shop --run runs/shop --events runs/shop.events.sqlite --impressions served

    corral forget u17 --dataset shop --run runs/shop --check
    """
    from rich.console import Console

    from corral.cli.forget_run import forget_in_run, items_not_of, knows_user
    from corral.cli.progress import steps
    from corral.cli.serve import event_store
    from corral.cli.traces import traces
    from corral.data.dataset import Dataset
    from corral.data.forget import forget_user
    from corral.data.served_lists import forget_lists

    console = Console(soft_wrap=True, highlight=False)
    path, runs = dataset_path(dataset, root), run or []
    data = Dataset.open(path)
    known = data.users.parse(user, "user")
    # Asked before anything is removed: a run that is not there would be found out too late.
    holding = [one for one in runs if knows_user(one, known)]
    in_redis = events is not None and events.startswith(("redis://", "rediss://"))
    if events is not None and not in_redis and not Path(events).is_file():
        raise ValueError(f"{events}: no live events there")
    stores = [*([] if events is None else [events]), *(str(file) for one in runs for file in _beside(one))]
    failed: list[str] = []
    if not check:
        added = {one: items_not_of(one, data) for one in holding}
        with steps("Data", quiet=quiet) as report:
            had = forget_user(path, known, progress=report)
        told = f"{had.events:,} events, {had.impressions:,} impressions, {int(had.features)} rows of features"
        console.print(f"{path}: {told} removed", markup=False)
        for one in runs:
            if one not in holding:
                console.print(f"{one}: no such user", markup=False)
                continue
            try:
                forget_in_run(one, path, quiet=quiet)
            except ValueError as error:
                failed.append(str(error))
                continue
            console.print(f"{one}: made again without the user", markup=False)
            if added[one]:
                some = ", ".join(map(str, added[one][:5])) + (" ..." if len(added[one]) > 5 else "")
                console.print(
                    f"{one}: {len(added[one])} items that were added to its bundle later are not in it any more "
                    f"({some}): add them again",
                    markup=False,
                )
        if impressions is not None:
            console.print(f"{impressions}: {forget_lists(impressions, known):,} lists removed", markup=False)
        for place in dict.fromkeys(stores):
            store = event_store(place, path, 5.0)
            try:
                console.print(f"{place}: {store.forget(known):,} live events removed", markup=False)
            finally:
                store.close()
    places = [
        path,
        *runs,
        *([impressions] if impressions else []),
        *(Path(place) for place in dict.fromkeys(stores) if not (in_redis and place == events)),
    ]
    search = traces(known, places)
    for line in search.found:
        console.print(line, markup=False)
    verdict = f"{len(search.found)} traces" if search.found else "No file holds the id"
    console.print(
        f"{verdict}: {search.files:,} files, {search.bytes_searched:,} bytes; searched: {search.where}.", markup=False
    )
    for line in failed:
        console.print(line, style="red", markup=False)
    if search.found or failed:
        raise typer.Exit(1)


def _beside(run: Path) -> list[Path]:
    """Live events where ``corral serve`` keeps them unless it is told otherwise: beside a run, or beside its bundle."""
    from corral.cli.run_files import BUNDLE
    from corral.cli.serve import default_events

    return [file for bundle in (run, run / BUNDLE) if (file := default_events(bundle)).is_file()]
