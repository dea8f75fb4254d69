"""corral recommend: lists for users, from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from corral.serving.recommendations import Recommendations


def _nobody(users: Any) -> Any:
    """An id that no user has: ids are sorted, so one past the last."""
    last = users.ids[-1].as_py() if len(users.ids) else 0
    return last + 1 if users.id_type == "int64" else f"{last}+"


def recommend(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run directory that holds one.")],
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", help="User id; may be given again.", show_default=False)
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            help="Item ids, oldest first, separated by commas: in place of the stored history.", show_default=False
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Length of the list.")] = 10,
    seen: Annotated[
        bool | None,
        typer.Option(
            "--seen/--no-seen",
            help="Also recommend items that the user had before, or never [default: as the run was judged].",
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        str | None, typer.Option(help="Only these item ids, separated by commas.", show_default=False)
    ] = None,
    deny: Annotated[
        str | None, typer.Option(help="Never these item ids, separated by commas.", show_default=False)
    ] = None,
    explain: Annotated[bool, typer.Option(help="Show both stages' scores, and whose the final one is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, one a list entry.")] = False,
) -> None:
    """Recommend items to users: raw ids in, raw ids out.

    A user the data does not know gets popular items, or, with --history, a list of their own.
    """
    from rich.console import Console

    from corral.cli.run import open_recommender
    from corral.cli.show import show_list

    recommender = open_recommender(bundle)
    users, items = recommender.tables.users, recommender.tables.items
    names = user or ([] if history is None else ["new"])
    if not names:
        raise ValueError("say for whom: --user ID, or --history ID,ID for somebody new")
    if user is None:
        # The models then see the unknown user, with the given history.
        wanted: list[Any] = [_nobody(users)]
    else:
        wanted = [users.parse(name, "user") for name in names]

    def several(text: str | None) -> list[Any] | None:
        return None if text is None else [items.parse(part, "item") for part in text.split(",") if part]

    given = several(history)
    found = recommender.recommend(
        wanted,
        k,
        filter_seen=None if seen is None else not seen,
        allow=several(allow),
        deny=several(deny),
        history=None if given is None else [given] * len(wanted),
        explain=explain,
    )
    if as_json:
        print(found.to_frame().write_ndjson(), end="")
        return
    console, titles = Console(), item_titles(recommender)
    for place, name in enumerate(names):
        note = " (nothing known of this user: popular items)" if found.fallback[place] else ""
        columns = score_columns(found, place) if explain else {"score": found.scores[place].tolist()}
        show_list(f"User {name}{note}", found.item_ids[place], columns, titles, console)
        if found.counts[place] < k:
            console.print(f"{found.counts[place]} of {k}: no more items pass the filters")


def score_columns(found: Recommendations, place: int) -> dict[str, list[float]]:
    """The scores of one list by name: both stages', then the final one, which says whose it is."""
    stages = {"retriever score": found.retriever_scores, "ranker logit": found.ranker_logits}
    columns = {name: scores[place].tolist() for name, scores in stages.items() if scores is not None}
    final = "train events" if found.fallback[place] else found.served_by
    return {**columns, f"score: {final}": found.scores[place].tolist()}


def item_titles(recommender: Any) -> dict[Any, str]:
    """The first text feature of every item, by external id; empty where there is none."""
    from corral.data.vocabulary import FIRST_ROW

    tables = recommender.tables
    titles = tables.item_features.titles
    if titles is None:
        return {}
    return dict(zip(tables.items.ids.to_pylist(), titles.to_pylist()[FIRST_ROW:], strict=True))
