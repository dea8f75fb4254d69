"""mount_studio: the studio's page as a part of the service, answered by the models in their thread."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from corral.report.charts import require_altair
from corral.report.page import chart_library, programs
from corral.serving.http.checks import RefusedError
from corral.serving.http.live_events import LiveEvents, StoreError
from corral.serving.http.micro_batches import BusyError
from corral.serving.http.request_log import LOGGER
from corral.serving.http.served_bundle import LoadedBundle, ServedBundle
from corral.serving.http.service import Service
from corral.studio.answer import Answer, UnknownUserError, answer
from corral.studio.page import Controls, answer_page, asking_page
from corral.studio.question import Question, read_question
from corral.studio.users import users_like

# Passes over all candidates: the list twice, and the ranker with each of its sources masked.
PASSES = 7
NOSNIFF = {"x-content-type-options": "nosniff"}
# A page holds somebody's history: no cache keeps it, no other page shows it in a frame, no address of it is passed on.
PRIVATE = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    **NOSNIFF,
}


def mount_studio(app: FastAPI, name: str, others: Mapping[str, ServedBundle] | None = None) -> None:
    """Adds ``/studio`` to a service.

    Args:
        app: of ``make_app``.
        name: of the bundle that it serves.
        others: by name, bundles to compare with.

    Raises:
        ModuleNotFoundError: what draws the charts is not installed.
        ValueError: another bundle has ids of another kind.
    """
    require_altair()
    service: Service = app.state.service
    beside = others or {}
    for other, bundle in beside.items():
        _check_ids(name, service.bundles.current, other, bundle.current)

    @app.get("/studio", include_in_schema=False)
    async def studio(request: Request) -> HTMLResponse:
        """A question in the address, and the page that answers it; a refusal is a page too."""
        bundle, asked = service.bundles.current, request.query_params
        tables, user = bundle.recommender.tables, asked.get("user", "").strip()
        controls = Controls(user=user, history=asked.get("history", ""))
        try:
            question = read_question(asked, tables, beside)
            if question is None:
                status, controls = 200, replace(controls, users=users_like(tables, ""))
            else:
                other = None if question.beside is None else beside[question.beside].current
                size = PASSES * (1 + (question.num_candidates or 0) // bundle.recommender.num_candidates)
                answers = await service.call(partial(_answers, bundle, other, question, service.events), size)
                html = await asyncio.to_thread(answer_page, [name, *beside], question, *answers)
                return HTMLResponse(html, 200, PRIVATE)
        except UnknownUserError as error:
            found = users_like(tables, user)
            words = (
                f"{error}{'; these ids begin so' if found else ': no id begins so; try another, or paste a history'}"
            )
            status, controls = 200 if found else 404, replace(controls, users=found, refusal=words)
        except RefusedError as error:
            status, controls = 422, replace(controls, refusal=str(error))
        except (BusyError, TimeoutError):
            status, controls = 503, replace(controls, refusal="no answer in time; try again, or with fewer candidates")
        except StoreError as error:
            LOGGER.error("live events: %s", error)
            status, controls = 503, replace(controls, refusal="the store of live events does not answer; try again")
        return HTMLResponse(asking_page(name, controls), status, PRIVATE)

    @app.get("/studio/charts.js", include_in_schema=False)
    def charts() -> Response:
        """What draws the charts; the page's address of it names the version."""
        text = "\n".join(programs(chart_library()))
        return Response(text, 200, {"cache-control": "private, max-age=86400", **NOSNIFF}, "text/javascript")


def _answers(
    bundle: LoadedBundle, other: LoadedBundle | None, question: Question, events: LiveEvents
) -> tuple[Answer, Answer | None]:
    """The answers of a bundle and of the one beside it, which is told the same history."""
    first = answer(bundle, question, events)
    if other is None:
        return first, None
    same = Question(
        user_id=question.user_id,
        history=list(first.kept) or None,
        num_candidates=question.num_candidates,
        without=[],
        unlike=[],
    )
    try:
        return first, answer(other, same, events)
    except UnknownUserError as error:
        raise RefusedError(f"{question.beside} knows neither this user nor any item of the history") from error


def _check_ids(name: str, bundle: LoadedBundle, other: str, beside: LoadedBundle) -> None:
    for what in ("users", "items"):
        kinds = [getattr(one.recommender.tables, what).id_type for one in (bundle, beside)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{other}: its ids of {what} are {kinds[1]}, those of {name} {kinds[0]}; compare others")
