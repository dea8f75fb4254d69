"""Self-inclusion: one event is altered, and its own inputs must not change: no row may be told its own answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.data.vocabulary import FIRST_ROW
from corral.evaluation.leakage.asked_rows import AskedRows
from corral.evaluation.leakage.changed_copy import altered, some_users
from corral.evaluation.leakage.finding import Finding, Verdict
from corral.evaluation.leakage.inputs import RowInput, differing

CHECK = "the row itself"
# Sums over whole histories round by more than single numbers do; in a sample of a few thousand events one that counts
# at all counts for more than this.
_ROUNDING = 5e-5
ADVICE = (
    "a row's own event is in its input (its item in its history, its label in a rate, its pair in a count): look "
    "strictly before the event, or take the user's own share out, in training and in service alike"
)


def check_self_inclusion(
    dataset: Dataset,
    split: Split,
    row_inputs: Sequence[RowInput],
    *,
    history_length: int,
    count: int = 32,
    events: int = 2000,
    mark: float | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Gives one event at a time another item and another value, and asks for the inputs of what it was before.

    Everything is built anew for each of them, so it is done on a few users.

    Args:
        dataset: the events.
        split: their parts.
        row_inputs: what is asked.
        history_length: L of the queries.
        count: events altered in train; as many impressions, where there are any; a quarter of that in the other parts.
        events: size of the sample of users, in clicks.
        mark: the value from which on an event counts as a click, if there is one.
        seed: of all drawing.

    Returns:
        One finding an input.
    """
    small = some_users(dataset, split, events, seed)
    dataset, split = small.dataset, small.split
    items = np.flatnonzero(np.bincount(dataset.events.item, minlength=dataset.n_items))
    items = items[items >= FIRST_ROW]
    random = np.random.default_rng((seed, 13))
    leaks = {one.name: 0 for one in row_inputs}
    total = 0
    for part in Part:
        asked = AskedRows.draw(dataset, split, part, count if part is Part.TRAIN else max(count // 4, 1), seed)
        here = asked.examples(dataset, split)
        before = [one.values(dataset, split, here, history_length) for one in row_inputs]
        for at in range(len(asked)):
            others = items[items != asked.item[at]]
            copy = altered(
                dataset,
                split,
                event=int(asked.event[at]),
                shown=int(asked.shown[at]),
                item=int(random.choice(others)) if len(others) else int(asked.item[at]),
                mark=mark,
            )
            row = asked.at(at)
            there = row.examples(copy.dataset, copy.split)
            for one, known in zip(row_inputs, before, strict=True):
                now = one.values(copy.dataset, copy.split, there, history_length)
                leaks[one.name] += bool(differing(known[at : at + 1], now, _ROUNDING).any())
        total += len(asked)
    findings = []
    for one in row_inputs:
        found = leaks[one.name]
        verdict = (Verdict.TOLD if one.own else Verdict.LEAK) if found else Verdict.CLEAN
        advice = (one.own or ADVICE) if found else ""
        findings.append(Finding(CHECK, one.name, verdict, f"{found} of {total} events change their own input", advice))
    return findings
