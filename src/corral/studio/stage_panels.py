"""Panels of the studio: what the models know of the user, and what stage 1 recalled."""

from __future__ import annotations

from corral.report.blocks import Block, Choice, Choices, Facts, Mark, Panel, Paragraph, Row, Table
from corral.report.item_names import described
from corral.report.number_text import count, decimal
from corral.studio.answer import SHOWN, Answer
from corral.studio.form import BUTTON, FORM

# Candidates that are shown.
RECALLED = 20


def history_panel(answer: Answer) -> Panel:
    """What the models know of the user."""
    blocks: list[Block] = [Facts(answer.features)] if answer.features else []
    if answer.ignored:
        blocks.append(Paragraph(f"{count(answer.ignored)} of the given items are not in the catalogue.", Mark.NOTE))
    if not answer.history:
        blocks.append(Paragraph("None: stage 1 gives the most popular items, whoever asks.", Mark.NOTE))
        return Panel("history", "History", blocks)
    choices = [
        Choice(
            known.item.id,
            described(known.item, known.features, f"{known.times} times" if known.times > 1 else ""),
            known.left_out,
        )
        for known in answer.history
    ]
    legend = f"{count(len(choices))} items, the latest first; tick what the models shall not know of"
    return Panel("history", "History", [*blocks, Choices(FORM, "without", legend, choices, BUTTON)])


def recall_panel(answer: Answer) -> Panel:
    """What stage 1 found."""
    found = sorted(answer.entries, key=lambda entry: entry.retriever_place)
    rows = [
        Row(
            (
                described(entry.item, entry.features),
                str(entry.retriever_place),
                decimal(entry.retriever_score, 3),
                str(entry.place),
            ),
            Mark.HIT if entry.place <= SHOWN else Mark.NONE,
        )
        for entry in found[:RECALLED]
    ]
    what = "train events" if answer.fallback else "score"
    caption = (
        f"The first {len(rows)} of {count(len(found))} candidates; coloured: in the first {SHOWN} of the final list"
    )
    return Panel(
        "recall",
        "What stage 1 recalled",
        [Table(caption, ("item", "place", what, "final place"), rows)],
    )
