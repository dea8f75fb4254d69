"""corral bench: the tables of docs/results made again by the scripts in benchmarks/, from a checkout"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Tables to make again, or 'all'; none: list them.", show_default=False)
    ] = None,
    list_tables: Annotated[bool, typer.Option("--list", help="List the tables and leave.")] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only check: a row of each table (or of NAME ...) computed again, in minutes."),
    ] = False,
    arguments: Annotated[
        str, typer.Option("--args", help="Handed to the script: one of NAME's own options.", show_default=False)
    ] = "",
) -> None:
    """Make the published tables again, from a checkout of the repository.

    Each is written by a script of its own, which goes on where it was interrupted; some take days. --quick writes
    nothing: it computes at least one row of every table again, which must agree to 0.001 (tables of times: it runs the
    script at its smallest size), skips what needs data sets that are not under CORRAL_DATA, and leaves with 1 where a
    number differs.

    Examples:

        corral bench --list

        corral bench rar --args "--datasets ml-100k --backbones fm --seeds 0"

        corral bench --quick estimator rar_world
    """
    import difflib
    import os
    import shlex
    import subprocess
    import sys

    import corral

    checkout = Path(corral.__file__).resolve().parents[2]
    scripts = {path.stem.removeprefix("bench_"): path for path in sorted(checkout.glob("benchmarks/bench_*.py"))}
    if not scripts:
        raise ValueError(
            f"{checkout}: no benchmarks here; corral bench needs a checkout of the repository, "
            "installed with pip install -e ."
        )
    wanted = list(scripts) if names == ["all"] else names or []
    for name in wanted:
        if name not in scripts:
            close = difflib.get_close_matches(name, scripts, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(scripts)}"
            raise ValueError(f"no table {name!r}; {hint}")
    if list_tables or not (wanted or quick):
        _show(scripts, checkout)
        return
    calls = [[str(checkout / "benchmarks" / "quick.py"), *wanted]]
    if not quick:
        calls = [[str(scripts[name]), *shlex.split(arguments)] for name in wanted]
    path = os.pathsep.join(filter(None, [str(checkout / "src"), os.environ.get("PYTHONPATH")]))
    for call in calls:
        code = subprocess.run([sys.executable, *call], env={**os.environ, "PYTHONPATH": path}, check=False).returncode
        if code:
            raise typer.Exit(code)


def _show(scripts: dict[str, Path], checkout: Path) -> None:
    """What each script asks, and the pages it writes."""
    import ast

    from rich.console import Console
    from rich.table import Table

    table = Table("table", "question", "needs CORRAL_DATA", "pages in docs/results")
    for name, path in scripts.items():
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        files = (checkout / "docs" / "results" / f"{name}{end}" for end in (".md", ".json", "_tuning.json"))
        pages = [file.name for file in files if file.exists()]
        needs = "yes" if "Needs CORRAL_DATA" in about else "in part" if "needs CORRAL_DATA" in about else "no"
        table.add_row(name, about.partition("\n")[0], needs, ", ".join(pages))
    Console().print(table)
    print('corral bench NAME makes one again; --args "--tune" its tuning, where it has one; --args "--help" says more.')
