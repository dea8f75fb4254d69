"""Panel: real users with their history, stage 1's candidates and the list that is served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corral.report import charts
from corral.report.blocks import Block, Cell, Chart, Heading, Mark, Panel, Paragraph, Row, SideBySide, Table
from corral.report.example_lists import Example, Item, Listed
from corral.report.matching import Matched
from corral.report.number_text import NOTHING, count, decimal

# Targets shown: a wholesaler takes a hundred items at once.
TARGETS = 12
WORDS = frozenset({"item", "in stage 1", "in the served list"})


def examples_panel(examples: Sequence[Example], fused: bool) -> Panel:
    """The examples one after the other.

    Args:
        examples: what to show.
        fused: whether the final score is neither stage's own.
    """
    blocks: list[Block] = [
        Paragraph(
            "Queries of the test part: histories are as of that moment, and ✓ marks what the user then took. "
            "They are chosen by fixed rules, named at each: by history length, and by what the stages did.",
            Mark.NOTE,
        )
    ]
    for number, example in enumerate(examples):
        blocks += _example(example, fused)
        if example.matched is not None:
            blocks.append(_matching(f"matching-{number}", example.matched))
    if not examples:
        blocks = [Paragraph("None were asked for.", Mark.NOTE)]
    return Panel("examples", "Examples", blocks)


def _cell(item: Item) -> Cell:
    return (item.title, item.id) if item.title else item.id


def _name(item: Item) -> str:
    return item.title or item.id


def _moved(entry: Listed) -> str:
    step = entry.retriever_place - entry.place
    return f"▲ {step}" if step > 0 else f"▼ {-step}" if step < 0 else "="


def _example(example: Example, fused: bool) -> list[Block]:
    shown = len(example.history)
    older = (
        f"the last {shown} of {example.history_length} known items"
        if example.history_length > shown
        else ("all known items" if shown else "none")
    )
    history = [Row((_cell(item), str(place - shown))) for place, item in enumerate(example.history)]
    ranked = any(entry.logit is not None for entry in example.served)
    candidates = [
        Row(
            (
                _cell(entry.item),
                str(entry.place),
                decimal(entry.retriever_score, 3),
                "✓" if entry.hit else "",
            ),
            _mark(entry),
        )
        for entry in example.candidates
    ]
    columns = [
        "item",
        "place",
        "stage 1",
        *(["stage 2"] if ranked else []),
        *(["mixture"] if fused else []),
        "taken",
    ]
    served = [
        Row(
            (
                _cell(entry.item),
                (str(entry.place), _moved(entry)),
                decimal(entry.retriever_score, 3),
                *([decimal(entry.logit, 3)] if ranked else []),
                *([decimal(entry.final_score, 3)] if fused else []),
                "✓" if entry.hit else "",
            ),
            _mark(entry),
        )
        for entry in example.served
    ]

    def place(value: int) -> str:
        return f"place {count(value)}" if value else "missed"

    ordered = sorted(example.targets, key=lambda each: (each.served_place == 0, each.served_place))
    targets = [
        Row(
            (
                _cell(each.item),
                place(each.retriever_place),
                place(each.served_place) if each.retriever_place else NOTHING,
            ),
            Mark.HIT if any(entry.hit and entry.item == each.item for entry in example.served) else Mark.NONE,
        )
        for each in ordered[:TARGETS]
    ]
    more = len(ordered) - len(targets)
    taken = "What the user then took" + (f", the {TARGETS} best placed of {len(ordered)}" if more else "")
    user = f"user {example.user}"
    return [
        Heading(f"User {example.user}, {example.time}"),
        Paragraph(f"Shown because: {example.reason}. {_hits(example)}"),
        SideBySide(
            [
                Table(
                    f"History of {user}: {older}{', the latest last' if shown else ''}",
                    ("item", "event"),
                    history,
                    WORDS,
                ),
                Table(taken, ("item", "in stage 1", "in the served list"), targets, WORDS),
            ]
        ),
        SideBySide(
            [
                Table(
                    f"Stage 1's candidates, the first {len(candidates)}",
                    ("item", "place", "score", "taken"),
                    candidates,
                    WORDS,
                ),
                Table("The served list, places moved since stage 1, and all scores", columns, served, WORDS),
            ]
        ),
    ]


def _matching(name: str, found: Matched) -> Chart:
    """The matching matrix as a heat map; names that stand twice are numbered."""
    users = [f"user {user}" for user in found.users]
    items = [f"{place}. {title}" for place, title in enumerate(found.items, 1)]
    cells = [
        {"user": user, "item": item, "interest": float(found.matrix[row, column])}
        for row, user in enumerate(users)
        for column, item in enumerate(items)
    ]
    row, column = (int(place) for place in np.unravel_index(found.matrix.argmax(), found.matrix.shape))
    label = (
        f"The matching matrix for {found.item}, the first of the served list: {len(users)} look-alike users by "
        f"{len(items)} recall items; the greatest interest, {decimal(float(found.matrix[row, column]), 3)}, is "
        f"{users[row]}'s in {found.items[column]}."
    )
    spec = charts.heat_map(
        cells,
        "item",
        "user",
        "interest",
        label=label,
        x_title="recall items",
        y_title="look-alike users",
        value_title="interest, G",
    )
    return Chart(name, f"Whom and what the ranker asked about {found.item}, and what it made of them", label, spec)


def _mark(entry: Listed) -> Mark:
    return Mark.HIT if entry.hit else Mark.NONE


def _hits(example: Example) -> str:
    names, number = [_name(entry.item) for entry in example.served if entry.hit], len(example.targets)
    taken = f"The user then took {count(number)} {'item' if number == 1 else 'items'}"
    if not names:
        return f"{taken}; none stands in the list shown."
    return f"{taken}; the list shown has {len(names)}: {'; '.join(names)}."
