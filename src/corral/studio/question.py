"""Question: what a person asks the studio, read from the address of the page."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Protocol

from pydantic import Field, ValidationError

from corral.serving.http.bodies import MOST_HISTORY, MOST_K, Body, Id, faults
from corral.serving.http.checks import RefusedError
from corral.serving.serving_tables import ServingTables

MOST_UNLIKE = 1_000


class Question(Body):
    """Whose list, and what is changed."""

    user_id: Annotated[Id | None, Field(description="None: somebody without an id.")] = None
    history: Annotated[list[Id] | None, Field(max_length=MOST_HISTORY, description="In place of the known one.")] = None
    num_candidates: Annotated[
        Annotated[int, Field(ge=1, le=MOST_K, strict=False)] | None, Field(description="None: as served.")
    ] = None
    item: Annotated[Id | None, Field(description="Whose look-alikes and recall items are shown.")] = None
    without: list[Id] = Field([], max_length=MOST_HISTORY, description="Items left out of the history.")
    unlike: list[Id] = Field([], max_length=MOST_UNLIKE, description="Users left out of the look-alikes.")
    beside: Annotated[str | None, Field(description="Name of another bundle.")] = None


class Parameters(Protocol):
    """What stands behind the question mark of an address."""

    def get(self, key: str) -> Any:
        """The last value; None where there is none."""

    def getlist(self, key: str) -> list[str]:
        """All values."""


def read_question(parameters: Parameters, tables: ServingTables, beside: Collection[str]) -> Question | None:
    """The question; None where nobody is asked about.

    Args:
        parameters: user, history (ids between commas or line ends), candidates, item, without, unlike, beside.
        tables: whose ids are meant.
        beside: names of the other bundles.

    Raises:
        RefusedError: it cannot be read.
    """
    users, items = tables.users, tables.items

    def text(name: str) -> str | None:
        return (parameters.get(name) or "").strip() or None

    user, history, item, other = (text(name) for name in ("user", "history", "item", "beside"))
    if user is None and history is None:
        return None
    if other is not None and other not in beside:
        raise RefusedError(f"beside: no such bundle; there is {', '.join(beside) or 'none'}")
    try:
        return Question(
            user_id=None if user is None else users.parse(user, "user"),
            history=None if history is None else [items.parse(one, "item") for one in _parts(history)],
            num_candidates=text("candidates"),  # type: ignore[arg-type]
            item=None if item is None else items.parse(item, "item"),
            without=[items.parse(one, "item") for one in parameters.getlist("without")],
            unlike=[users.parse(one, "user") for one in parameters.getlist("unlike")],
            beside=other,
        )
    except ValidationError as error:
        raise RefusedError(faults(error.errors())) from error
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,\r\n]", text) if part.strip()]
