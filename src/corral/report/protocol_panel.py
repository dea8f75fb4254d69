"""Panels: the rules of the judging and the versions, the settings, and where the time went."""

from __future__ import annotations

from corral.report.blocks import Code, Facts, Heading, Mark, Panel, Paragraph, Row, Table
from corral.report.number_text import NOTHING, plain, seconds
from corral.report.run_report import RunReport

MEANINGS = {
    "retriever": "steps of stage 1's training, without validation",
    "ranker": "steps of stage 2's training, without validation",
    "together": "steps of both stages' joint training, without validation",
    "train": "both stages with validation and the tuning of the mixture (the last call of a resumed run)",
    "recall": "stage 1 over all test queries",
    "rank": "stage 2 over all test queries and candidates (and those of the oracle)",
    "evaluate": "all of the judging",
}


def protocol_panel(run: RunReport) -> Panel:
    """The rules that every number of this run stands under."""
    rules = {name.replace("_", " "): plain(value) for name, value in run.evaluation.protocol.items()}
    system = {name.replace("_", " "): plain(value) for name, value in run.evaluation.system.items()}
    versions = {name: plain(value) for name, value in run.versions.items()}
    return Panel(
        "protocol",
        "Protocol and versions",
        [
            Paragraph("Runs may be compared where these rules agree (seeds aside): corral report RUN RUN checks."),
            Heading("Protocol"),
            Facts(rules),
            Heading("What was judged"),
            Facts(system),
            Heading("Versions"),
            Facts({**versions, "run ended": run.written or NOTHING}),
        ],
    )


def settings_panel(run: RunReport) -> Panel:
    """All settings, defaults included."""
    note = "Saved as a file, this is a recipe that trains the same again."
    return Panel("settings", "Settings", [Paragraph(note), Code("Settings in full, YAML", run.settings_text)])


def time_panel(run: RunReport) -> Panel:
    """Seconds of each phase."""
    queries = max(len(run.evaluation), 1)
    rows = [
        Row(
            (
                name,
                seconds(value),
                seconds(value / queries) if name in ("recall", "rank") else "",
                MEANINGS.get(name, ""),
            )
        )
        for name, value in run.seconds.items()
    ]
    if not rows:
        return Panel("time", "Time", [Paragraph("Not recorded.", Mark.NOTE)])
    return Panel(
        "time",
        "Time",
        [
            Table(
                "Time of each phase",
                ("phase", "time", "a query", "what it is"),
                rows,
                frozenset({"what it is"}),
            )
        ],
    )
