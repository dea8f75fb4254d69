"""Panels of the studio: the final list with what changed in it, and the lists of two bundles."""

from __future__ import annotations

from corral.report.blocks import Block, Cell, Facts, Mark, Panel, Paragraph, Row, SideBySide, Table
from corral.report.item_names import described
from corral.report.number_text import count, decimal, moved
from corral.studio.answer import SHOWN, Answer
from corral.studio.entries import Entry


def list_panel(answer: Answer) -> Panel:
    """The final list, and what changed in it."""
    shown = answer.entries[:SHOWN]
    fused = answer.served_by == "fused"
    columns = ["item", "place", *(["as served"] if answer.changed else []), "stage 1", "stage 2"]
    columns += ["mixture"] if fused else []
    rows = [
        Row(
            (
                described(entry.item, entry.features),
                (str(entry.place), moved(entry.retriever_place, entry.place)),
                *([_before(entry)] if answer.changed else []),
                decimal(entry.retriever_score, 3),
                decimal(entry.logit, 3),
                *([decimal(entry.score, 3)] if fused else []),
            ),
            Mark.HIT if answer.changed and entry.before != entry.place else Mark.NONE,
        )
        for entry in shown
    ]
    blocks: list[Block] = [
        Table(
            f"The first {len(rows)} of {count(len(answer.entries))}; in small letters, places moved since stage 1"
            f"{'; coloured: not where it is served' if answer.changed else ''}",
            columns,
            rows,
        )
    ]
    gone = [
        (entry.before, f"{entry.item.name} (place {entry.before}, now {entry.place})")
        for entry in answer.entries[SHOWN:]
        if 0 < entry.before <= SHOWN
    ]
    gone += [(place, f"{item.name} (place {place}, now no candidate)") for place, item in answer.dropped.items()]
    if answer.changed:
        words = "; ".join(text for _, text in sorted(gone)) or "nothing"
        blocks.append(Paragraph(f"Gone from the first {SHOWN} as served: {words}."))
    return Panel("list", "The list with the change" if answer.changed else "The list as served", blocks)


def _before(entry: Entry) -> Cell:
    return (str(entry.before), moved(entry.before, entry.place)) if entry.before else "new"


def beside_panel(names: tuple[str, str], answers: tuple[Answer, Answer]) -> Panel:
    """The lists of two bundles for the same user and history."""
    places = [{entry.item.id: entry.place for entry in answer.entries} for answer in answers]
    tables: list[Facts | Table] = []
    for own, name in enumerate(names):
        rows = [
            Row(
                (entry.item.cell, str(entry.place), str(places[1 - own].get(entry.item.id, "no candidate"))),
                Mark.HIT if places[1 - own].get(entry.item.id, SHOWN + 1) <= SHOWN else Mark.NONE,
            )
            for entry in answers[own].entries[:SHOWN]
        ]
        caption = f"{name} (bundle {answers[own].version}, {count(answers[own].num_candidates)} candidates)"
        tables.append(Table(caption, ("item", "place", "in the other"), rows))
    firsts = [{entry.item.id for entry in answer.entries[:SHOWN]} for answer in answers]
    words = f"{len(firsts[0] & firsts[1])} items stand in the first {SHOWN} of both, coloured."
    return Panel("beside", f"{names[0]} beside {names[1]}", [Paragraph(words), SideBySide(tables)])
