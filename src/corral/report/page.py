"""The page: all runs' panels as one HTML file that needs nothing else, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from corral.report.blocks import Page, Panel, Part
from corral.report.charts import require_altair
from corral.report.clicks_panel import clicks_panel
from corral.report.comparison_panel import comparison_panel
from corral.report.data_panel import data_panel
from corral.report.examples_panel import examples_panel
from corral.report.funnel_panel import funnel_panel, losses_panel, summary_panel
from corral.report.learning_panel import learning_panel
from corral.report.protocol_panel import protocol_panel, settings_panel, time_panel
from corral.report.run_report import RunReport
from corral.report.sensitivity_panel import sensitivity_panel
from corral.report.slices_panel import lists_panel, slices_panel
from corral.report.stages_panel import stages_panel
from corral.report.templates import asset, security_policy, templates

# The panels of every run, in their order on the page.
PANELS = (
    "summary",
    "funnel",
    "losses",
    "stages",
    "slices",
    "lists",
    "clicks",
    "examples",
    "learning",
    "data",
    "protocol",
    "settings",
    "time",
)


def run_panels(run: RunReport) -> list[Panel]:
    """The panels of one run, in the order of ``PANELS``."""
    evaluation = run.evaluation
    return [
        summary_panel(evaluation),
        funnel_panel(evaluation),
        losses_panel(evaluation),
        stages_panel(evaluation, run.probe, run.correction),
        slices_panel(evaluation),
        lists_panel(evaluation),
        clicks_panel(evaluation, run.clicks),
        examples_panel(run.examples, evaluation.served.value == "fused"),
        learning_panel(run.logs, run.watched, run.epochs),
        data_panel(run.data),
        protocol_panel(run),
        settings_panel(run),
        time_panel(run),
    ]


def report_page(runs: Sequence[RunReport], foot: str = "") -> Page:
    """One run's panels, or a comparison followed by the panels of each run.

    Args:
        runs: at least one.
        foot: the last line of the page.
    """
    assert runs
    if len(runs) == 1:
        lead = runs[0].description or f"A two-stage recommender on {runs[0].data.name}."
        return Page(runs[0].name, lead, [Part("", "", run_panels(runs[0]))], foot)
    about_all = [comparison_panel(runs), sensitivity_panel(runs)]
    parts = [Part("", "All runs", [panel for panel in about_all if panel is not None])]
    parts += [Part(f"run-{place}-", run.name, run_panels(run)) for place, run in enumerate(runs, 1)]
    return Page(f"{len(runs)} runs compared", ", ".join(run.name for run in runs), parts, foot)


@cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network; made anew takes seconds.

    Raises:
        ModuleNotFoundError: what makes it is not installed.
    """
    require_altair()
    import vl_convert
    from altair import SCHEMA_VERSION

    version = ".".join(SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.javascript_bundle(vl_version=f"v{version}"))  # type: ignore[call-arg]


def programs(library: str) -> list[str]:
    """The scripts that draw a page's charts: the library, and what calls it; each as the text of a script element."""
    return [_program(library), _program(asset("page.js"))]


def _program(source: str) -> str:
    """A program as the text of a script element, its names its own.

    Raises:
        ValueError: it holds what would end the element.
    """
    if "</script" in source.lower() or "<!--" in source:
        raise ValueError("report: the chart library cannot stand in a page: it holds </script or <!--")
    return f"(function () {{{source}\n}})();".replace("\r\n", "\n").replace("\r", "\n")


def _fingerprint(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def render(page: Page, library: str) -> str:
    """The page as HTML.

    A content security policy in it allows these scripts alone and no request at all: even if a name from the
    data got past the escaping it could neither run nor call out.

    Args:
        page: what to show.
        library: see :func:`chart_library`.
    """
    from markupsafe import Markup

    scripts = programs(library)
    return (
        templates()
        .get_template("page.html")
        .render(
            page=page,
            css=Markup(asset("page.css")),
            scripts=[Markup(script) for script in scripts],
            policy=security_policy(" ".join(map(_fingerprint, scripts)), "'none'"),
        )
    )


def write_page(page: Page, out: Path) -> Path:
    """Writes the page to ``out``, whole or not at all; folders are made.

    Raises:
        ModuleNotFoundError: altair or vl-convert-python is not installed.
    """
    text = render(page, chart_library())
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return out
