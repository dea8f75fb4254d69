"""corral recommend: lists for users, from a bundle: a few to look at, or everybody's in a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.engines import Engine, all_lists

if TYPE_CHECKING:
    from corral.serving.recommendations import Recommendations
    from corral.serving.recommender import TwoStageRecommender
    from corral.serving.slate_rules import SlateRules


def _nobody(users: Any) -> Any:
    """An id that no user has: ids are sorted, so one past the last."""
    last = users.ids[-1].as_py() if len(users.ids) else 0
    return last + 1 if users.id_type == "int64" else f"{last}+"


def _answer(
    recommender: TwoStageRecommender,
    users: list[Any],
    history: list[Any] | None = None,
    *,
    k: int,
    filter_seen: bool | None,
    allow: list[Any] | None,
    deny: list[Any] | None,
    slate: SlateRules | None,
    explain: bool,
) -> Recommendations:
    """As the recommender would say it; a function that Ray can send to its workers."""
    return recommender.recommend(
        users, k, filter_seen=filter_seen, allow=allow, deny=deny, history=history, slate=slate, explain=explain
    )


def recommend(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run directory that holds one.")],
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", help="User id; may be given again.", show_default=False)
    ] = None,
    users: Annotated[
        str | None, typer.Option(help="'all': everybody whom the bundle knows; needs --out.", show_default=False)
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
            help="Also recommend items that the user had before, or never (default: as the run was judged).",
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        str | None,
        typer.Option(help="Only these item ids (what is in stock): separated by commas, or @FILE.", show_default=False),
    ] = None,
    deny: Annotated[
        str | None, typer.Option(help="Never these item ids: separated by commas, or @FILE.", show_default=False)
    ] = None,
    diversity: Annotated[
        float,
        typer.Option(help="Lambda of MMR, 0 to 1: how much unlikeness to the items above counts beside the score."),
    ] = 0.0,
    at_most: Annotated[
        str | None,
        typer.Option(
            metavar="FEATURE=N", help="At most N items of one value of a categorical item feature.", show_default=False
        ),
    ] = None,
    min_new: Annotated[int, typer.Option(help="At least so many new items in each list.")] = 0,
    new: Annotated[
        str | None,
        typer.Option(
            help="The new items: ids separated by commas, or @FILE (default: those without a train event).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the lists to a file: .parquet, .csv or .jsonl by its ending.", show_default=False),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="What makes everybody's lists: this process, or Ray (corral\\[scale]) in parallel.")
    ] = Engine.LOCAL,
    explain: Annotated[bool, typer.Option(help="Show both stages' scores, and whose the final one is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, one a list entry.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Recommend items to users: raw ids in, raw ids out.

    A user the data does not know gets popular items, or, with --history, a list of their own. Files of ids hold one a
    line. No filter makes a list shorter while items are left that pass it.

    Examples:

    corral recommend runs/demo --user 17850 -k 5 --explain

    corral recommend runs/demo --users all --out lists.parquet --allow @stock.txt --diversity 0.3
    """
    from rich.console import Console

    from corral.cli.given_ids import given_ids
    from corral.cli.run import open_recommender
    from corral.cli.show import show_list
    from corral.cli.table_writer import check_kind
    from corral.serving.slate_rules import SlateRules

    if out is not None:
        check_kind(out)
    everybody = users == "all" and out is not None and not user and history is None
    if (users is not None or out is not None) and not everybody:
        raise ValueError("--users all and --out FILE go together, without --user and --history: everybody's lists")
    if engine is Engine.RAY and not everybody:
        raise ValueError("--engine ray makes everybody's lists: --users all --out FILE")
    recommender = open_recommender(bundle)
    vocabulary = recommender.tables.items

    def several(text: str | None, option: str) -> list[Any] | None:
        return None if text is None else given_ids(text, vocabulary, "item", option)

    only, never, given = several(allow, "--allow"), several(deny, "--deny"), several(history, "--history")
    rules = None
    if diversity or at_most is not None or min_new:
        rules = SlateRules(diversity, _bound(at_most), min_new, several(new, "--new"))
    elif new is not None:
        raise ValueError("--new says which items are new: say with --min-new how many of them a list needs")

    answer = partial(
        _answer,
        k=k,
        filter_seen=None if seen is None else not seen,
        allow=only,
        deny=never,
        slate=rules,
        explain=explain,
    )
    if out is not None:
        from corral.cli.write_lists import BATCH, lists_schema, write_lists

        ids, schema = recommender.tables.users.ids, lists_schema(recommender, explain)
        with all_lists(engine, ids, recommender, partial(open_recommender, bundle), answer, schema, BATCH) as frames:
            short = write_lists(out, schema, frames, users=len(ids), k=k, quiet=quiet)
        said = f"{out}: {len(ids):,} lists, {short:,} of them shorter than {k}"
        Console(soft_wrap=True, highlight=False).print(said, markup=False)
        return
    names = user or ([] if history is None else ["new"])
    if not names:
        raise ValueError("say for whom: --user ID, or --history ID,ID for somebody new")
    # The models then see the unknown user, with the given history.
    wanted = [_nobody(recommender.tables.users)]
    if user is not None:
        wanted = [recommender.tables.users.parse(name, "user") for name in names]
    found = answer(recommender, wanted, history=None if given is None else [given] * len(wanted))
    if as_json:
        frame = found.to_frame()
        if user is None:  # with a history alone it is nobody's list
            frame = frame.with_columns(user_id=None)
        print(frame.write_ndjson(), end="")
        return
    console, titles = Console(), item_titles(recommender)
    for place, name in enumerate(names):
        note = " (nothing known of this user: popular items)" if found.fallback[place] else ""
        columns = score_columns(found, place) if explain else {"score": found.scores[place].tolist()}
        show_list(f"User {name}{note}", found.item_ids[place], columns, titles, console)
        if found.ignored_history[place]:
            unknown = f"{found.ignored_history[place]} of {len(given or [])}"
            console.print(f"{unknown} items of --history are unknown and left out")
        if found.counts[place] < k:
            console.print(f"{found.counts[place]} of {k}: no more items pass the filters")


def _bound(text: str | None) -> tuple[str, int] | None:
    """FEATURE=N as typed."""
    if text is None:
        return None
    feature, equals, number = text.rpartition("=")
    if not equals or not number.isdecimal():
        raise ValueError(f"--at-most {text!r}: write FEATURE=N, such as brand=2")
    return feature, int(number)


def score_columns(found: Recommendations, place: int) -> dict[str, list[float]]:
    """The scores of one list by name: both stages', then the final one, which says whose it is."""
    first = "train events" if found.fallback[place] else "retriever score"
    stages = {first: found.retriever_scores, "ranker logit": found.ranker_logits}
    columns = {name: scores[place].tolist() for name, scores in stages.items() if scores is not None}
    final = first if found.served_by == "retriever" and found.fallback[place] else found.served_by
    return {**columns, f"score: {final}": found.scores[place].tolist()}


def item_titles(recommender: Any) -> dict[Any, str]:
    """The first text feature of every item, by external id; empty where there is none."""
    from corral.data.vocabulary import FIRST_ROW

    tables = recommender.tables
    titles = tables.item_features.titles
    if titles is None:
        return {}
    return dict(zip(tables.items.ids.to_pylist(), titles.to_pylist()[FIRST_ROW:], strict=True))
