"""Panels of the studio's page, one for each question a person has about a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.report.blocks import (
    Block,
    Cell,
    Choice,
    Choices,
    Facts,
    Mark,
    Panel,
    Paragraph,
    Row,
    SideBySide,
    Table,
)
from corral.report.item_names import Item
from corral.report.number_text import count, decimal, moved, signed
from corral.studio.answer import SHOWN, Answer
from corral.studio.entries import Entry
from corral.studio.masked_ranker import Source

# Candidates and moved items that are shown.
RECALLED, MOVED = 20, 5
# The form that asks again with something changed, see assets/studio.html.
FORM, BUTTON = "what-if", "Show the change"
WORDS = frozenset({"item"})
NOT_RAR = "The ranker of this bundle consults no look-alike users and no recall items: it is not one of RAR's."


def described(item: Item, features: Mapping[str, str], *more: str) -> Cell:
    """The title, and in small letters the id, the features and what else there is to say."""
    small = [item.id] if item.title else []
    small += [f"{name}: {words}" for name, words in features.items()] + [words for words in more if words]
    return (item.name, " · ".join(small)) if small else item.name


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
        "recall", "What stage 1 recalled", [Table(caption, ("item", "place", what, "final place"), rows, WORDS)]
    )


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
        beside.append(Table("Recall items, most like it first", ("item", "weight"), items, WORDS))
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
        "Together is what the sources say only jointly; below zero where two of them say the same, as look-alikes "
        "and recall items do, which count only matched to each other."
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
    return Table(caption, columns, rows, WORDS)


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
            WORDS,
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
        tables.append(Table(caption, ("item", "place", "in the other"), rows, WORDS))
    firsts = [{entry.item.id for entry in answer.entries[:SHOWN]} for answer in answers]
    words = f"{len(firsts[0] & firsts[1])} items stand in the first {SHOWN} of both, coloured."
    return Panel("beside", f"{names[0]} beside {names[1]}", [Paragraph(words), SideBySide(tables)])
