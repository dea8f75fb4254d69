"""Panels of the studio: whom the ranker consulted, what it made of them, what it moved and why."""

from __future__ import annotations

from collections.abc import Sequence

from corral.report.blocks import Block, Choice, Choices, Facts, Mark, Panel, Paragraph, Row, SideBySide, Table
from corral.report.number_text import count, decimal, moved, signed
from corral.studio.answer import SHOWN, Answer
from corral.studio.entries import Entry
from corral.studio.form import BUTTON, FORM
from corral.studio.masked_ranker import Source

# Moved items that are shown, up and down each.
MOVED = 5
NOT_RAR = "The ranker of this bundle consults no look-alike users and no recall items: it is not one of RAR's."


def consulted_panel(answer: Answer) -> Panel:
    """Whom and what a RAR ranker asked."""
    found = answer.consulted
    if found is None:
        return Panel("consulted", "Whom the ranker consulted", [Paragraph(NOT_RAR, Mark.NOTE)])
    blocks: list[Block] = [
        Paragraph(
            f"About {found.item.name}. A look-alike's weight is how much it counts in what look-alikes have in common; "
            "a recall item's, in what recall items add.",
            Mark.NOTE,
        )
    ]
    users = [
        Choice(
            user.id,
            (
                f"User {user.id}, weight {decimal(user.weight, 3)}",
                " · ".join(
                    [
                        *(f"{name}: {words}" for name, words in user.features.items()),
                        f"lately: {'; '.join(user.latest)}" if user.latest else "no history",
                    ]
                ),
            ),
            user.left_out,
        )
        for user in found.look_alikes
    ]
    items = [Row((item.cell, decimal(weight, 3))) for item, weight in found.recalled]
    beside: list[Facts | Table | Choices] = []
    if users:
        beside.append(Choices(FORM, "unlike", "Look-alike users, most alike first; tick whom to ignore", users, BUTTON))
    if items:
        beside.append(Table("Recall items, most like it first", ("item", "weight"), items))
    blocks.append(SideBySide(beside) if beside else Paragraph("It found nobody alike and nothing similar.", Mark.NOTE))
    return Panel("consulted", "Whom the ranker consulted", blocks)


def matching_panel(answer: Answer) -> Panel:
    """The matching matrix."""
    title = "What it made of them"
    if answer.consulted is None:
        return Panel("matching", title, [Paragraph(NOT_RAR, Mark.NOTE)])
    if answer.consulted.matched is None:
        return Panel("matching", title, [Paragraph("Without look-alikes and recall items: no matrix.", Mark.NOTE)])
    words = "One cell a pair: how much this kind of user is interested in this kind of item, from 0 to 1."
    return Panel("matching", title, [Paragraph(words, Mark.NOTE), answer.consulted.matched.chart("matching")])


def reasons_panel(answer: Answer) -> Panel:
    """What the ranker moved, and where the logits come from."""
    title = "What the ranker moved, and why"
    ranked = [entry for entry in answer.entries if entry.reasons is not None]
    if not ranked:
        return Panel("reasons", title, [Paragraph("This bundle has no ranker.", Mark.NOTE)])

    def rise(entry: Entry) -> int:
        assert entry.ranker_place is not None
        return entry.retriever_place - entry.ranker_place

    by_rise = sorted(ranked, key=rise, reverse=True)
    promoted = [entry for entry in by_rise if rise(entry) > 0][:MOVED]
    demoted = [entry for entry in reversed(by_rise) if rise(entry) < 0][:MOVED]
    words = (
        "Each change is the logit less the logit without that source, the others there; "
        "logit = bare + sum + together. Bare is what user, item and request say with nothing of it. "
        "Together adds what several sources know, none of which is then missed alone, and takes back what only several "
        "say: look-alikes and recall items count only as they match, so that both changes are the whole."
    )
    return Panel(
        "reasons",
        title,
        [
            Paragraph(words, Mark.NOTE),
            _reasons(f"Promoted most, by the ranker alone, among {count(len(ranked))} candidates", promoted),
            _reasons("Demoted most", demoted),
            _reasons(f"The first {min(SHOWN, len(ranked))} of the final list", ranked[:SHOWN]),
        ],
    )


def _reasons(caption: str, entries: Sequence[Entry]) -> Table | Paragraph:
    if not entries or entries[0].reasons is None:
        return Paragraph(f"{caption}: none.", Mark.NOTE)
    sources: list[Source] = list(entries[0].reasons.changes)
    rows = []
    for entry in entries:
        reasons, place = entry.reasons, entry.ranker_place
        assert reasons is not None
        assert place is not None
        rows.append(
            Row(
                (
                    entry.item.cell,
                    (str(place), moved(entry.retriever_place, place)),
                    decimal(entry.logit, 3),
                    *(signed(reasons.changes[source], 3) for source in sources),
                    signed(reasons.total, 3),
                    signed(reasons.remainder, 3),
                    signed(reasons.bare, 3),
                )
            )
        )
    columns = ("item", "by the ranker", "logit", *map(str, sources), "sum", "together", "bare")
    return Table(caption, columns, rows)
