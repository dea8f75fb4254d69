"""The studio's page: forms to ask with, and the panels that answer, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corral import __version__
from corral.report.blocks import Page, Part
from corral.report.item_names import Item
from corral.report.number_text import count
from corral.report.templates import asset, security_policy, templates
from corral.studio.answer import Answer
from corral.studio.form import BUTTON, FORM
from corral.studio.list_panels import beside_panel, list_panel
from corral.studio.question import Question
from corral.studio.ranker_panels import consulted_panel, matching_panel, reasons_panel
from corral.studio.stage_panels import history_panel, recall_panel

PACKAGE = "corral.studio"
# The panels of every answer by their ids, in their order on the page: what comes out, then what it comes from.
PANELS = {
    "list": list_panel,
    "history": history_panel,
    "recall": recall_panel,
    "consulted": consulted_panel,
    "matching": matching_panel,
    "reasons": reasons_panel,
}


@dataclass(frozen=True)
class User:
    """Somebody to pick."""

    id: str
    events: int


@dataclass(frozen=True)
class Controls:
    """What stands in the forms.

    Attributes:
        user, history: as they were asked, as text.
        bundles: names of the other bundles.
        users: to pick from.
        refusal: why there is no answer; "" where there is one, or nothing was asked.
        beside: the bundle that is compared with; "" for none.
        num_candidates: that are asked about; None: nothing was asked.
        item: whose look-alikes are shown.
        items: ids and names to choose it from.
    """

    user: str = ""
    history: str = ""
    bundles: Sequence[str] = ()
    users: Sequence[User] = ()
    refusal: str = ""
    beside: str = ""
    num_candidates: int | None = None
    item: str = ""
    items: Mapping[str, str] = field(default_factory=dict)


def asking_page(name: str, controls: Controls) -> str:
    """The page before there is an answer: who to ask about, or why not.

    Args:
        name: of the bundle.
        controls: as they stand.
    """
    return _html(
        Page("The studio", f"Pick a user of {name}, or paste a history.", [Part("", "", [])], _foot()), controls
    )


def answer_page(names: Sequence[str], question: Question, answer: Answer, other: Answer | None = None) -> str:
    """The page with all panels.

    Args:
        names: of all bundles; the first one answers.
        question: that was asked.
        answer: of the first bundle.
        other: of the bundle that ``question.beside`` names.
    """
    panels = [panel(answer) for panel in PANELS.values()]
    if other is not None and question.beside is not None:
        panels.insert(1, beside_panel((names[0], question.beside), (answer, other)))
    who = "Somebody without an id" if question.user_id is None else f"User {question.user_id}"
    consulted = answer.consulted
    controls = Controls(
        user="" if question.user_id is None else str(question.user_id),
        history=", ".join(map(str, question.history or ())),
        bundles=names[1:],
        beside=question.beside or "",
        num_candidates=answer.num_candidates,
        item="" if consulted is None else consulted.item.id,
        items={} if consulted is None else {entry.item.id: _option(entry.item) for entry in answer.entries},
    )
    lead = (
        f"{names[0]}, bundle {answer.version}: {count(len(answer.entries))} candidates, the list sorted by "
        f"{answer.served_by}{'; something is changed' if answer.changed else ', as it is served'}."
    )
    return _html(Page(who, lead, [Part("", "", panels)], _foot()), controls)


def _option(item: Item) -> str:
    return f"{item.title} ({item.id})" if item.title else item.id


def _foot() -> str:
    return f"corral {__version__}. This page asks only the server that sent it."


def _html(page: Page, controls: Controls) -> str:
    from markupsafe import Markup

    return (
        templates(PACKAGE)
        .get_template("studio.html")
        .render(
            page=page,
            controls=controls,
            form=FORM,
            button=BUTTON,
            version=__version__,
            css=Markup(asset("page.css") + asset("studio.css", PACKAGE)),
            policy=security_policy("'self'", "'self'"),
        )
    )
