"""corral rerank: the candidates of any system, in the order of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corral.cli.text_options import EncodingOption, SeparatorOption


def rerank(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run directory that holds one.")],
    candidates: Annotated[
        Path, typer.Option(help="Lists of any system: user_id, item_id and, if you like, score (CSV, TSV, Parquet).")
    ],
    out: Annotated[Path, typer.Option(help="The file to write: .parquet, .csv or .jsonl by its ending.")],
    k: Annotated[
        int | None, typer.Option("--k", "-k", min=1, help="Length of the lists (default: all candidates).")
    ] = None,
    separator: SeparatorOption = None,
    encoding: EncodingOption = "utf-8",
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Drop, count and list bad rows instead of stopping.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Put the candidates of any system in the order in which the bundle would serve them: raw ids in and out.

    Stage 1 scores the given items instead of searching; the ranker and the mixture are the bundle's own. Users it
    does not know are served as in corral recommend (fallback: true); items it does not know stand last, in the order
    given, without a score. Nothing is filtered.

    Examples:

    corral rerank runs/demo --candidates theirs.csv --out reranked.parquet

    corral rerank runs/demo --candidates theirs.parquet --out top.csv -k 10
    """
    from rich.console import Console

    from corral.cli.run import open_recommender
    from corral.cli.table_writer import check_kind
    from corral.cli.write_lists import BATCH, lists_schema, write_lists
    from corral.data.given_lists import read_lists
    from corral.data.vocabulary import UNKNOWN

    check_kind(out)
    recommender = open_recommender(bundle)
    users, items = recommender.tables.users, recommender.tables.items
    lists = read_lists(candidates, users, items, separator=separator, encoding=encoding, skip_bad_rows=skip_bad_rows)
    wanted = k or int(lists.items.list.len().max() or 1)  # type: ignore[arg-type]
    answers = (
        recommender.rerank(
            lists.users[start : start + BATCH].to_list(), lists.items[start : start + BATCH].to_list(), wanted
        )
        for start in range(0, len(lists), BATCH)
    )
    frames = (answer.to_frame() for answer in answers)
    write_lists(out, lists_schema(recommender), frames, users=len(lists), k=wanted, quiet=quiet)
    strange = int((users.rows(lists.users) == UNKNOWN).sum())
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{out}: {len(lists):,} lists, {strange:,} of them of users the bundle does not know", markup=False)
    if lists.skipped.count:
        console.print(str(lists.skipped), style="yellow", markup=False)
