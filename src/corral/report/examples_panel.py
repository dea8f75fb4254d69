"""Panel: real users with their history, stage 1's candidates and the list that is served."""

from __future__ import annotations

from collections.abc import Sequence

from corral.report.blocks import Block, Heading, Mark, Panel, Paragraph, Row, SideBySide, Table
from corral.report.example_lists import Example, Listed
from corral.report.number_text import NOTHING, count, decimal, moved

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
            blocks.append(example.matched.chart(f"matching-{number}"))
    if not examples:
        blocks = [Paragraph("None were asked for.", Mark.NOTE)]
    return Panel("examples", "Examples", blocks)


def _example(example: Example, fused: bool) -> list[Block]:
    shown = len(example.history)
    older = (
        f"the last {shown} of {example.history_length} known items"
        if example.history_length > shown
        else ("all known items" if shown else "none")
    )
    history = [Row((item.cell, str(place - shown))) for place, item in enumerate(example.history)]
    ranked = any(entry.logit is not None for entry in example.served)
    candidates = [
        Row(
            (
                entry.item.cell,
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
                entry.item.cell,
                (str(entry.place), moved(entry.retriever_place, entry.place)),
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
                each.item.cell,
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


def _mark(entry: Listed) -> Mark:
    return Mark.HIT if entry.hit else Mark.NONE


def _hits(example: Example) -> str:
    names, number = [entry.item.name for entry in example.served if entry.hit], len(example.targets)
    taken = f"The user then took {count(number)} {'item' if number == 1 else 'items'}"
    if not names:
        return f"{taken}; none stands in the list shown."
    return f"{taken}; the list shown has {len(names)}: {'; '.join(names)}."
