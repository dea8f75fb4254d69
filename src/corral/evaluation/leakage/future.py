"""Future corruption: everything after a cut is made wrong, and no input of what lies before it may change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.evaluation.leakage.asked_rows import AskedRows
from corral.evaluation.leakage.changed_copy import corrupted
from corral.evaluation.leakage.finding import Finding, Verdict
from corral.evaluation.leakage.inputs import RowInput, TableInput, differing

CHECK = "the future"
# What is corrupted, and the parts whose inputs must then be as they were.
CUTS = (((Part.VALID, Part.TEST), Part.TRAIN), ((Part.TEST,), Part.VALID))
ROW_ADVICE = (
    "it reads events that happen later than the row: build it from train events alone, or from events strictly before "
    "the row's time"
)
TABLE_ADVICE = "it is built from validation or test events: build it from train events alone"


def check_future(
    dataset: Dataset,
    split: Split,
    row_inputs: Sequence[RowInput],
    table_inputs: Sequence[TableInput] = (),
    *,
    history_length: int,
    rows: int = 4000,
    mark: float | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Inputs of train rows with validation and test corrupted, those of validation rows with the test corrupted.

    Args:
        dataset: the events.
        split: their parts.
        row_inputs: asked for drawn rows of both parts.
        table_inputs: compared whole, with validation and test corrupted.
        history_length: L of the queries.
        rows: at most so many clicks, and as many impressions, of each part.
        mark: the value from which on an event counts as a click, if there is one.
        seed: of the drawing and the corruption.

    Returns:
        One finding an input.
    """
    changed: dict[str, list[str]] = {one.name: [] for one in row_inputs}
    seen: dict[str, list[str]] = {one.name: [] for one in row_inputs}
    drawn = [AskedRows.draw(dataset, split, before, rows, seed) for _, before in CUTS]
    # All that is made of one log together: inputs are costly to make, and most share what they are made of.
    firsts = [
        [one.values(dataset, split, asked.examples(dataset, split), history_length) for one in row_inputs]
        for asked in drawn
    ]
    tables = []
    for (parts, before), asked, first in zip(CUTS, drawn, firsts, strict=True):
        copy = corrupted(dataset, split, parts, mark=mark, seed=seed)
        there = asked.examples(copy.dataset, copy.split, copy.row)
        second = [one.values(copy.dataset, copy.split, there, history_length) for one in row_inputs]
        for one, a, b in zip(row_inputs, first, second, strict=True):
            differ = differing(a, b)
            figure = f"{int(differ.sum()) if len(asked) else 0:,} of {len(asked):,} {before.name.lower()} rows change"
            seen[one.name].append(figure)
            if len(asked) and differ.any():
                changed[one.name].append(f"{figure}, e.g. {_named(dataset, asked, int(np.argmax(differ)))}")
        if before is Part.TRAIN:
            tables = [_table(one, dataset, split, copy.dataset, copy.split) for one in table_inputs]
    return [
        Finding(CHECK, name, Verdict.LEAK, "; ".join(leaks), ROW_ADVICE)
        if (leaks := changed[name])
        else Finding(CHECK, name, Verdict.CLEAN, "; ".join(seen[name]))
        for name in changed
    ] + tables


def _table(one: TableInput, dataset: Dataset, split: Split, other: Dataset, other_split: Split) -> Finding:
    first, second = one.of(dataset, split), one.of(other, other_split)
    differ = [differing(a, b) for a, b in zip(first, second, strict=True)]
    count, places = sum(int(d.sum()) for d in differ), sum(len(d) for d in differ)
    figure = f"{count:,} of {places:,} entries change"
    if count:
        return Finding(CHECK, one.name, Verdict.LEAK, figure, TABLE_ADVICE)
    return Finding(CHECK, one.name, Verdict.CLEAN, figure)


def _named(dataset: Dataset, asked: AskedRows, at: int) -> str:
    """A row in the source's own words."""
    user, item = dataset.users.external(asked.user[[at]])[0], dataset.items.external(asked.item[[at]])[0]
    return f"user {user}, item {item}, time {int(asked.time[at])}"
