"""Writes what a benchmark found to docs/results/NAME.json and NAME.md: the one format of all benchmarks."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# See ``result_row``. Rows made before it lack "commit", "versions" and "data_hash": read them with ``get``.
Row = dict[str, Any]


@cache
def commit() -> str:
    """The commit of the checkout, with ``+`` where sources differ from it; "" outside a checkout.

    Asked once, at the start: a long benchmark runs what it imported then, whatever is committed meanwhile.
    """

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if shutil.which("git") is None:
        return ""
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks")
    return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")


def versions() -> dict[str, str]:
    """What ran."""
    optional = [name for name in ("lightgbm",) if find_spec(name)]
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "polars", "pyarrow", *optional)},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def result_row(
    dataset: str,
    system: str,
    seed: int,
    metrics: Mapping[str, float],
    *,
    data_hash: str | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> Row:
    """One result, with what made it.

    Args:
        dataset: name of the data.
        system: what was measured.
        seed: of the run.
        metrics: numbers by name.
        data_hash: of the Dataset; None: the data were made from the seed.
        protocol: rules of this row, where rows differ.
    """
    made = {"commit": commit(), "versions": versions(), "data_hash": data_hash}
    row = {"dataset": dataset, "system": system, "seed": seed, "metrics": dict(metrics), **made}
    return row if protocol is None else {**row, "protocol": dict(protocol)}


def published(name: str, folder: Path | None = None) -> dict[str, Any]:
    """What NAME.json in docs/results, or in ``folder``, holds; no rows where there is none yet."""
    path = (folder or ROOT / "docs" / "results") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": [], "protocol": {}}


def run_key(row: Row) -> tuple[str, str, int]:
    """What tells a run from all others of its benchmark."""
    return row["dataset"], row["system"], row["seed"]


def with_published(name: str, made: Sequence[Row], folder: Path | None = None, within: str = "") -> list[Row]:
    """Rows that were made here, and the published ones of other runs: runs are not kept for ever, results are.

    Args:
        name: of the benchmark.
        made: rows of this call, perhaps of a part of the benchmark.
        folder: where the page is; docs/results by default.
        within: what else tells rows apart where a run has several: a name in the row or in its protocol.
    """

    def key(row: Row) -> tuple[Any, ...]:
        return *run_key(row), {**row, **(row.get("protocol") or {})}.get(within)

    rows = {key(row): row for row in (*published(name, folder)["rows"], *made)}
    return list(rows.values())


def refuse_quick_look(parser: ArgumentParser, options: Namespace, *effort: str) -> None:
    """Ends a call that would publish rows made with another effort than the page's: no row says how much went into it.

    Args:
        parser: of the call.
        options: of the call; where ``folder`` is None, its rows are to be published.
        effort: names in ``options`` that change how well a row is measured, not which row it is.
    """
    changed = [name for name in effort if getattr(options, name) != parser.get_default(name)]
    if changed and options.folder is None:
        parser.error(
            f"{', '.join(changed)}: not the default, so that these rows do not belong in docs/results; "
            "with --folder their page is written elsewhere"
        )


def made_at(rows: Sequence[Row]) -> str:
    """The commits that rows were made at, oldest row first; "unknown" for those that do not say."""
    return ", ".join(dict.fromkeys(row.get("commit") or "unknown" for row in rows))


def table(rows: Sequence[Row], metrics: Sequence[str], digits: int = 4) -> list[str]:
    """A Markdown table: one line a (dataset, system), mean ± standard deviation over seeds.

    A cell that fewer rows have a value for than its line has seeds says how many: ``0.8593 ± 0.0028 (3)``.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["system"]].append(row)
    lines = ["| data set | system | seeds | " + " | ".join(metrics) + " |", "|---" * (3 + len(metrics)) + "|"]
    for (dataset, system), members in groups.items():
        cells = []
        for metric in metrics:
            values = [row["metrics"][metric] for row in members if row["metrics"].get(metric) is not None]
            if not values:
                cells.append("-")
                continue
            # Quality lies in [0, 1]; what is larger is a count or a time.
            places = digits if max(map(abs, values)) <= 1 else min(digits, 1)
            spread = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
            fewer = f" ({len(values)})" if len(values) < len(members) else ""
            cells.append(f"{statistics.mean(values):.{places}f}{spread}{fewer}")
        lines.append(f"| {dataset} | {system} | {len(members)} | " + " | ".join(cells) + " |")
    return lines


def fill_readme(name: str, lines: Sequence[str]) -> None:
    """Puts lines between ``<!-- results: NAME -->`` and ``<!-- /results: NAME -->`` of README.md."""
    path, before, after = ROOT / "README.md", f"<!-- results: {name} -->", f"<!-- /results: {name} -->"
    text = path.read_text(encoding="utf-8")
    head, found, rest = text.partition(before)
    _, closed, tail = rest.partition(after)
    if not (found and closed):
        raise ValueError(f"{path}: no {before} ... {after}")
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text("\n".join([head + before, *lines, after + tail]), encoding="utf-8")
    os.replace(temporary, path)


def write_results(
    name: str,
    rows: Sequence[Row],
    protocol: Mapping[str, Any],
    markdown: Sequence[str],
    folder: Path | None = None,
) -> None:
    """Writes both files, each whole or not at all.

    The page names the command that makes all rows: the present call may have made some of them.

    Args:
        name: of the benchmark.
        rows: its results.
        protocol: the rules that all rows share.
        markdown: the lines of NAME.md below the title and the command.
        folder: where to; docs/results by default.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError(f"{name}: nothing was measured, and nothing is published: no page is written")
    folder = folder or ROOT / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "name": name,
        "command": f"python benchmarks/bench_{name}.py",
        "commit": commit(),
        "versions": versions(),
        "protocol": dict(protocol),
        "rows": list(rows),
    }
    facts = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    made = f"Made by `{result['command']}` at commit {result['commit']} ({facts})."
    if made_at(rows) != result["commit"]:
        made += f" Rows were made at: {made_at(rows)}."
    page = [f"# {name}", "", made, "", *markdown, ""]
    for file, text in ((f"{name}.json", json.dumps(result, indent=1) + "\n"), (f"{name}.md", "\n".join(page))):
        temporary = folder / f"{file}.tmp-{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / file)


commit()  # before anything long begins
