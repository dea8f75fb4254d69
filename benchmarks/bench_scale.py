"""What do many events and large catalogues cost on one machine, and what survives being killed?

Section ``stream``: Parquet files -> Dataset -> one pass -> training steps, up to 100 million events, with the peak
memory of each. Section ``size``: cost of a training step, a sampler's refresh and a selection against the number of
items and the dimension, with fitted exponents. Section ``shuffle``: quality of training from files sorted by user or
by time against a plain shuffle (needs CORRAL_DATA). Sections ``kills`` and ``training-kills``: writers of data sets
and bundles, and trainings, killed at random moments.
A row that is in docs/results/scale.json is not measured again (``--again`` does), so that an interrupted run goes on.

    python benchmarks/bench_scale.py                                                  # everything: hours
    python benchmarks/bench_scale.py --sections stream --events 1000000 --steps 100 --folder runs

Writes docs/results/scale.json and scale.md. One thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import scale_kill_training
import scale_kills
import scale_shuffle
import scale_size
import scale_stream
from results import ROOT, Row, result_row, write_results

SECTIONS = {
    "stream": scale_stream.RULES,
    "shuffle": scale_shuffle.RULES,
    "size": scale_size.RULES,
    "kills": scale_kills.RULES,
    "training-kills": scale_kill_training.RULES,
}


def cells(options: argparse.Namespace, work: Path, done: set[tuple[str, str]]) -> Iterator[tuple[str, str, Any]]:
    """(data, system, metrics) of all sections asked for, as they are measured."""
    if "stream" in options.sections:
        yield from scale_stream.cells(options.events, work, options.steps, done)
    if "shuffle" in options.sections:
        yield from scale_shuffle.cells(work, done)
    if "size" in options.sections:
        yield from scale_size.cells(work, done)
    if "kills" in options.sections:
        yield from scale_kills.cells(options.kills, work, done)
    if "training-kills" in options.sections:
        yield from scale_kill_training.cells(options.kills, work, done)


def lines_of(rows: Sequence[Row]) -> list[str]:
    """The page: for each section its rules and a table."""
    lines: list[str] = []
    for section, rules in SECTIONS.items():
        found = [row for row in rows if row["dataset"].split(",")[0] == section]
        if found:
            lines += [f"## {section}", "", rules, "", *(scale_size.curves if section == "size" else listed)(found), ""]
    return lines


def listed(rows: Sequence[Row]) -> list[str]:
    """One line a row: what all have in columns, the rest by name."""
    shared = [name for name in rows[0]["metrics"] if all(name in row["metrics"] for row in rows)]
    lines = [f"| data | system | {' | '.join(shared)} | more |", "|---" * (len(shared) + 3) + "|"]
    for row in rows:
        metrics = {name: _plain(value) for name, value in row["metrics"].items()}
        more = ", ".join(f"{name} {value}" for name, value in metrics.items() if name not in shared)
        cells = (row["dataset"], row["system"], *(metrics[name] for name in shared), more)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def main() -> None:
    """Measures what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--events", type=int, nargs="+", default=[10**7, 3 * 10**7, 10**8], help="section stream")
    parser.add_argument("--steps", type=int, default=scale_stream.TRAIN_STEPS, help="training steps of section stream")
    parser.add_argument("--kills", type=int, default=scale_kills.KILLS, help="both sections of kills, each kind")
    parser.add_argument("--work", type=Path, help="where large files go, and stay; by default a temporary directory")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "results", help="where to write")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    path = options.folder / "scale.json"

    def stored() -> list[Row]:
        """Read anew each time: another section may be running."""
        return json.loads(path.read_text())["rows"] if path.exists() else []

    def write(rows: list[Row]) -> None:
        write_results("scale", rows, {"rules": SECTIONS}, lines_of(rows), options.folder)

    rows = stored()
    done = set() if options.again else {(row["dataset"], row["system"]) for row in rows}
    work = options.work or Path(tempfile.mkdtemp(prefix="corral-bench-scale-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        for dataset, system, metrics in () if options.page else cells(options, work, done):
            rows = [row for row in stored() if (row["dataset"], row["system"]) != (dataset, system)]
            rows.append(result_row(dataset, system, 0, {name: round(value, 4) for name, value in metrics.items()}))
            print(dataset, system, metrics, flush=True)
            write(rows)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.page:
        write(rows)
    print("\n".join(lines_of(rows)))


if __name__ == "__main__":
    main()
