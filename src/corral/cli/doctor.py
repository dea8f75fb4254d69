"""`corral doctor`: what is installed, what this machine offers, what is wrong and how to mend it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from corral.cli.examination import Finding, State, examine


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    run_dir: Annotated[Path, typer.Option(help="Where runs would be written.")] = Path("runs"),
) -> None:
    """Show versions, threads, memory and optional parts, and how to mend what is wrong.

    The exit code is 0 unless something that corral needs is broken.
    """
    findings = list(examine(run_dir))
    healthy = all(finding.state is not State.BROKEN for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _print(findings)
    raise typer.Exit(0 if healthy else 1)


def _print(findings: list[Finding]) -> None:
    colour = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "dim", State.BROKEN: "bold red"}
    console = Console(soft_wrap=True, highlight=False)
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            console.print(f"\n[bold]{section}[/]")
        sign = f"[{colour[finding.state]}]{finding.state:<8}[/]"
        console.print(f"  {sign} {finding.name:<18} {escape(finding.value)}")
        if finding.mend:
            console.print(f"{'':30}[yellow]→ {escape(finding.mend)}[/]")
    broken = sum(finding.state is State.BROKEN for finding in findings)
    console.print(f"\n[bold red]{broken} broken.[/]" if broken else "\n[green]Everything needed works.[/]")
