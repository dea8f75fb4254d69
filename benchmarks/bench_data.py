"""How fast are data sets built, and histories gathered?

Part 1, building: Parquet -> Dataset, against polars reading and sorting the same file by (user, time). Every
measurement runs in a process of its own: CPU time (user + system, all threads) and wall time of the work
after the imports, and the process's peak resident memory.

Part 2, histories: histories of 50 gathered per second and thread.

    python benchmarks/bench_data.py                      # the published figures: 20 million events
    python benchmarks/bench_data.py --events 1000000     # a quick look

Prints a table and writes docs/results/data.json and data.md. Rows that are there already are skipped unless
--again is given.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from results import Row, published, result_row, run_key, with_published, write_results

USERS, ITEMS = 200_000, 100_000
SECONDS = 2 * 365 * 86_400
HISTORY_LENGTH = 50
TARGET_RATIO, TARGET_RSS_MB, TARGET_HISTORIES = 1.5, 3072, 400_000
ID_KINDS = ("dense", "sparse", "string")
SYSTEMS = ("polars-read", "polars-read-sort", "corral", "corral-open", "corral-history")
PROTOCOL = (
    f"Synthetic events in random order: {USERS:,} users, {ITEMS:,} items (popularity 1/rank^0.8), whole "
    "seconds over two years; Parquet with zstd. Ids: dense int64, sparse int64 (60 bits), strings of 12 "
    "characters. CPU = user + system time of all threads, imports excluded; RSS = peak of the whole process. "
    "polars-read-sort is `read_parquet(...).sort('user_id', 'timestamp')` and writes nothing; corral reads, "
    "checks, numbers, sorts (stably), writes, checksums and fsyncs. corral-open: `Dataset.open` alone. "
    f"corral-history: `HistoryIndex.gather` at random events, L = {HISTORY_LENGTH}, one thread (its CPU "
    "time), batches of 4096. The floor is what must be moved whatever the method: the bytes of the "
    "Parquet file read and of the Dataset written."
)


def generate(path: Path, events: int, ids: str, seed: int) -> None:
    """Writes the synthetic Parquet file."""
    import numpy as np
    import polars as pl

    generator = np.random.default_rng(seed)
    weights = np.arange(1, ITEMS + 1) ** -0.8
    popularity = np.cumsum(weights / weights.sum())
    user = generator.integers(0, USERS, events)
    item = generator.permutation(ITEMS)[np.searchsorted(popularity, generator.random(events)).clip(max=ITEMS - 1)]
    stamp = 1_600_000_000 + generator.integers(0, SECONDS, events)
    if ids == "dense":
        user, item = user + 1, item + 1
    else:
        user = generator.integers(0, 2**60, USERS)[user]
        item = generator.integers(0, 2**60, ITEMS)[item]
    frame = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": stamp})
    del user, item, stamp
    if ids == "string":
        names = pl.col("user_id", "item_id").cast(pl.String).str.pad_start(12, "0").str.slice(0, 12)
        frame = frame.with_columns(names)
    frame.write_parquet(path, compression="zstd")


def measure(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """CPU and wall time of ``work``, peak memory of the process, and what the work reports itself."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    extra = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": wall,
        "peak_rss_mb": _peak_rss_mb(),
        **extra,
    }


def _peak_rss_mb() -> float:
    """VmHWM of this process: unlike ru_maxrss it does not start from the parent's memory."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_system(system: str, parquet: Path, dataset: Path, seed: int) -> dict[str, float]:
    """One measurement, in this process."""
    import polars as pl

    if system == "polars-read":
        return measure(lambda: {"rows": pl.read_parquet(parquet).height})
    if system == "polars-read-sort":
        return measure(lambda: {"rows": pl.read_parquet(parquet).sort("user_id", "timestamp").height})
    from corral.data.dataset import Dataset
    from corral.data.interactions import read_table

    if system == "corral":

        def build() -> dict[str, float]:
            built = Dataset.write(dataset, read_table(parquet), overwrite=True)
            return {
                "written_mb": sum(entry.bytes for entry in built.header.files.values()) / 1e6,
                "parquet_mb": parquet.stat().st_size / 1e6,
            }

        return measure(build)
    if system == "corral-open":
        return measure(lambda: {"rows": len(Dataset.open(dataset).events)})
    return _measure_histories(dataset, seed)


def _measure_histories(dataset: Path, seed: int) -> dict[str, float]:
    """Histories per second of one thread, under both rules, from the memory-mapped files."""
    import numpy as np
    import torch

    from corral.data.dataset import Dataset
    from corral.data.history import HistoryIndex, HistoryRule

    torch.set_num_threads(1)
    log = Dataset.open(dataset).events
    batches = np.random.default_rng(seed).integers(0, len(log), (250, 4096))
    metrics: dict[str, float] = {}
    for rule in HistoryRule:
        index = HistoryIndex.of(log, rule)
        start = 0.0
        for number, batch in enumerate(batches):
            if number == 50:  # The first batches bring the files into memory.
                start = time.thread_time()
            index.gather(log.user[batch], index.ends(batch), HISTORY_LENGTH)
        metrics[f"histories_per_second_{rule}"] = batches[50:].size / (time.thread_time() - start)
    return metrics | {"peak_rss_mb": _peak_rss_mb()}


def in_subprocess(system: str, parquet: Path, dataset: Path, seed: int) -> dict[str, float]:
    """Runs this script again for one measurement."""
    command = [sys.executable, __file__, "--one", system, str(parquet), str(dataset), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(found: list[Row]) -> list[str]:
    """The lines of docs/results/data.md."""
    rows = {(row["dataset"], row["system"], row["seed"]): row["metrics"] for row in found}
    lines = [
        PROTOCOL,
        "",
        "| data | system | seed | CPU s | of polars read + sort | wall s | peak RSS MB | floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (dataset, system, seed), metrics in rows.items():
        if "cpu_seconds" not in metrics:
            continue
        reference = rows.get((dataset, "polars-read-sort", seed))
        ratio = f"{metrics['cpu_seconds'] / reference['cpu_seconds']:.2f}" if reference else ""
        floor = ""
        if "written_mb" in metrics:
            floor = f"{metrics['parquet_mb']:.0f} MB read, {metrics['written_mb']:.0f} MB written"
        lines.append(
            f"| {dataset} | {system} | {seed} | {metrics['cpu_seconds']:.3f} | {ratio} | "
            f"{metrics['wall_seconds']:.3f} | {metrics['peak_rss_mb']:.0f} | {floor} |"
        )
    lines += [
        "",
        f"Targets: `corral`, dense ids: at most {TARGET_RATIO} times polars, under {TARGET_RSS_MB} MB.",
        "",
    ]
    lines += [f"| data | rule | histories of {HISTORY_LENGTH} per second and thread |", "|---|---|---|"]
    for (dataset, _, _), metrics in rows.items():
        for name, value in metrics.items():
            if name.startswith("histories_per_second_"):
                lines.append(f"| {dataset} | {name.rsplit('_', 1)[1]} | {value:,.0f} |")
    return [*lines, "", f"Target: at least {TARGET_HISTORIES:,}."]


def main() -> None:
    """Runs what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--datasets", nargs="+", choices=ID_KINDS, default=list(ID_KINDS), help="kinds of ids")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--work", type=Path, help="where the files go, and stay; by default a temporary directory")
    parser.add_argument("--results", type=Path, help="where data.json goes (docs/results)")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--one", nargs=4, metavar=("SYSTEM", "PARQUET", "DATASET", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        system, parquet, dataset, seed = options.one
        if system.startswith("generate"):
            _, ids, events = system.split(":")
            generate(Path(parquet), int(events), ids, int(seed))
            print("{}")
        else:
            print(json.dumps(run_system(system, Path(parquet), Path(dataset), int(seed))))
        return

    rows: list[Row] = published("data", options.results)["rows"]
    done = set() if options.again else {run_key(row) for row in rows}
    work = options.work or Path(tempfile.mkdtemp(prefix="corral-bench-data-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        for seed in options.seeds:
            for ids in options.datasets:
                name = f"synthetic-{options.events / 1e6:g}m-{ids}"
                parquet, dataset = work / f"{name}-{seed}.parquet", work / f"{name}-{seed}"
                for system in options.systems:
                    if system == "corral-history" and ids != "dense":
                        continue  # Histories do not depend on the ids.
                    if (name, system, seed) in done:
                        continue
                    if not parquet.exists():
                        in_subprocess(f"generate:{ids}:{options.events}", parquet, dataset, seed)
                    if system in ("corral-open", "corral-history") and not dataset.exists():
                        in_subprocess("corral", parquet, dataset, seed)
                    metrics = in_subprocess(system, parquet, dataset, seed)
                    row = result_row(name, system, seed, {k: round(value, 4) for k, value in metrics.items()})
                    print(name, system, seed, row["metrics"], flush=True)
                    rows = with_published("data", [row], options.results)
                    write_results("data", rows, {"rules": PROTOCOL}, markdown(rows), options.results)
                if options.work is None:
                    parquet.unlink(missing_ok=True)
                    shutil.rmtree(dataset, ignore_errors=True)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    write_results("data", rows, {"rules": PROTOCOL}, markdown(rows), options.results)
    print("\n".join(markdown(rows)))


if __name__ == "__main__":
    main()
