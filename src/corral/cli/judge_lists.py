"""judge_lists: the lists of another system, judged on a run's targets by its rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from corral.cli.experiment import Experiment
from corral.cli.run import judge_channel
from corral.data.given_lists import GivenLists, read_lists
from corral.data.split import Part
from corral.data.vocabulary import UNKNOWN, Vocabulary
from corral.evaluation.result import Evaluation, Stage
from corral.retrieval.list_channel import ListChannel


def judge_lists(
    experiment: Experiment,
    path: Path,
    part: Part,
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    skip_bad_rows: bool = False,
) -> tuple[Evaluation, str]:
    """Judges the lists of a file as a stage 1 without a stage 2, and says what was judged.

    A user's list answers every query of that user. Users of the targets without a list have found nothing, and count
    as such. Where the run leaves repeats out, items that the user had by then are taken out of these lists as of its
    own. Users that the data set lacks are asked by nobody. Items that it lacks can be no target and would hold a
    place for nothing: they are bad rows.

    Args:
        experiment: a run's, or one that was only started.
        path: the file; see ``read_lists``.
        part: whose targets.
        separator, encoding, skip_bad_rows: see ``read_lists``.

    Raises:
        ValueError: naming file, line, column, value and what to do; or no user of the data set has a list.
    """
    users, items = experiment.dataset.users, experiment.dataset.items
    lists = read_lists(
        path,
        users,
        items,
        refuse_unknown_items=True,
        separator=separator,
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
    )
    rows = users.rows(lists.users)
    known = rows > UNKNOWN
    if not known.any():
        raise ValueError(
            f"{path}: none of its {len(lists)} users is in {experiment.dataset.name}, first {lists.users[0]!r}: are "
            "these the ids of another data set?"
        )
    result = judge_channel(experiment, _channel(lists, users, items), None, None, Stage.RETRIEVER, part)
    asked = np.unique(result.queries["user"])
    missing = int((~np.isin(asked, rows[known])).sum())
    facts = {
        "file": path.name,
        "users": len(lists),
        "users_not_in_data": int((~known).sum()),
        "asked_without_list": missing,
        "skipped_rows": lists.skipped.count,
        "longest_list": int(lists.items.list.len().max() or 0),  # type: ignore[arg-type]
    }
    note = (
        f"{path}: lists of {len(lists):,} users, of whom {facts['users_not_in_data']:,} are not in the data; "
        f"{missing:,} of {len(asked):,} users asked have no list, and count as misses; the longest list has "
        f"{facts['longest_list']} items."
    )
    if lists.skipped.count:
        note += f"\n{lists.skipped}"
    return replace(result, system={**result.system, "lists": facts}), note


def _channel(lists: GivenLists, users: Vocabulary, items: Vocabulary) -> ListChannel:
    """The lists by user row."""
    rows, lengths = users.rows(lists.users), lists.items.list.len().to_numpy()
    flat = items.rows(lists.items.explode())
    owner = np.repeat(rows, lengths)
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] > UNKNOWN]
    counts = np.bincount(owner[order], minlength=len(users))
    return ListChannel(flat[order], np.concatenate([[0], np.cumsum(counts)]))
