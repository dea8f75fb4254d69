"""Section ``size`` of bench_scale.py: what a step, a refresh and a selection cost as catalogue, dimension and log grow.

Every point runs in a process of its own: CPU time, the median of some calls, and the memory of the process.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import scale_stream

ITEMS, DIMENSION = (10_000, 100_000, 1_000_000, 10_000_000), 16
DIMENSIONS, FIXED_ITEMS = (16, 32, 64), 100_000
EVENTS, EVENT_STEPS = (10**5, 10**6, 10**7, 10**8), 100
USERS, BATCH, NEGATIVES, CODEWORDS, QUERIES, K = 100_000, 512, 50, 64, 16, 10
# Beyond it a full softmax takes minutes a step, and memory for its logits.
FULL_SOFTMAX = 1_000_000
SYSTEMS = (
    "step, uniform negatives",
    "step, MIDX negatives",
    "step, full softmax",
    "refresh of MIDX",
    "selection, exact",
    "selection, SimHash 128",
)
RULES = (
    f"Matrix factorization, {USERS:,} users, batches of {BATCH}, {NEGATIVES} negatives, sparse row-wise Adam; MIDX "
    f"with {CODEWORDS} codewords a half; selection: the {K} most similar of all items, {QUERIES} queries at once, time "
    f"a query. items: D = {DIMENSION}. dimensions: {FIXED_ITEMS:,} items. events: {EVENT_STEPS} steps of the training "
    "of section stream, over data sets of that many events. cpu_ms: median. memory_mb: of the process, above what it "
    "had before (events: all of it). The exponent is the slope of log(cpu_ms) against log(size) by least squares over "
    "the measured points; that of the last two alone is beside it, because constant costs flatten small sizes. One "
    "thread, shared machine."
)


def measure(system: str, items: int, size: int) -> dict[str, float]:
    """One point, in this process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = scale_stream._status("RssAnon")
    work = {"step": _step, "refresh": _refresh, "selection": _selection}[system.split()[0].strip(",")](
        system, items, size
    )

    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    times = [once()]  # the first call is slower: it counts alone where one takes long
    if times[0] < 5:
        times = []
        while len(times) < 3 or (sum(times) < 3 and len(times) < 30):
            times.append(once())
    queries = QUERIES if system.startswith("selection") else 1
    memory = scale_stream._status("RssAnon") - before
    return {"cpu_ms": 1e3 * statistics.median(times) / queries, "memory_mb": memory}


def _step(system: str, items: int, size: int) -> Callable[[], object]:
    import torch

    from corral.corr.multi_index_sampler import MultiIndexSampler
    from corral.data.batches import Batch, Query
    from corral.retrieval.matrix_factorization import MatrixFactorization
    from corral.sampling.uniform import UniformSampler
    from corral.training.optimizers import RowWiseAdam
    from corral.training.retrieval_objectives import FullSoftmaxObjective, SampledSoftmaxObjective

    full = "full" in system
    model = MatrixFactorization(USERS, items, size=size, sparse=not full)
    catalogue = torch.arange(2, items)
    objective: Any
    if full:
        objective = FullSoftmaxObjective(model, catalogue)
    else:
        sampler: Any = UniformSampler(catalogue)
        if "MIDX" in system:
            sampler = MultiIndexSampler(
                catalogue, size=model.encode_items(catalogue[:1]).shape[1], num_codewords=CODEWORDS
            )
        objective = SampledSoftmaxObjective(model, catalogue, sampler, num_negatives=NEGATIVES)
        objective.refresh()
    optimizer, generator = RowWiseAdam(objective), torch.Generator().manual_seed(0)

    def work() -> None:
        user = torch.randint(2, USERS, (BATCH,), generator=generator)
        item = torch.randint(2, items, (BATCH,), generator=generator)
        query = Query(user, user, torch.zeros(BATCH, 0, dtype=torch.int64), user)
        optimizer.zero_grad()
        objective(Batch(query, item, torch.ones(BATCH)))["total"].backward()
        optimizer.step()

    return work


def _refresh(system: str, items: int, size: int) -> Callable[[], object]:
    import torch

    from corral.corr.multi_index_sampler import MultiIndexSampler

    sampler = MultiIndexSampler(torch.arange(2, items), size=size, num_codewords=CODEWORDS)
    vectors = torch.randn(items - 2, size)
    return lambda: sampler.refresh(vectors)


def _selection(system: str, items: int, size: int) -> Callable[[], object]:
    import torch

    from corral.rar.selection import ExactSelector, SimHashSelector

    selector: Any = ExactSelector() if "exact" in system else SimHashSelector(128, seed=0)
    vectors = torch.randn(items, size)
    selector.fit(vectors, torch.arange(2, items + 2))
    return lambda: selector.search(vectors[:QUERIES], K)


def cells(work: Path, done: set[tuple[str, str]]) -> Iterator[tuple[str, str, dict]]:
    """(point, system, metrics) of what is not done yet."""
    points = [("items", items, DIMENSION) for items in ITEMS] + [
        ("dimensions", FIXED_ITEMS, size) for size in DIMENSIONS
    ]
    for kind, items, size in points:
        name = f"size, {items:,} items" if kind == "items" else f"size, {size} dimensions"
        for system in SYSTEMS:
            if (name, system) in done or ("full" in system and items > FULL_SOFTMAX):
                continue
            yield name, system, _in_a_process(system, items, size)
    for events in EVENTS:
        name, system = f"size, {events:,} events", "step, SASRec from the memory map"
        dataset = work / f"dataset-{events}"
        if (name, system) in done or not (dataset.exists() or events <= 10**6):
            continue  # The larger ones are those that section stream has left in --work.
        for step in ("generate", "prepare") if not dataset.exists() else ():
            _stream(step, events, work)
        found = _stream("train", events, work)
        yield name, system, {"cpu_ms": found["step_ms"], "memory_mb": found["peak_anonymous_mb"]}


def _in_a_process(system: str, items: int, size: int) -> dict[str, float]:
    words = [sys.executable, __file__, system, str(items), str(size)]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def _stream(step: str, events: int, work: Path) -> dict[str, float]:
    words = [sys.executable, scale_stream.__file__, step, str(events), str(work), str(EVENT_STEPS)]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def curves(rows: Sequence[dict[str, Any]]) -> list[str]:
    """For every system and what grows: the points, and the exponents."""
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for row in rows:
        size, what = row["dataset"].removeprefix("size, ").replace(",", "").split()
        point = (int(size), row["metrics"]["cpu_ms"], row["metrics"]["memory_mb"])
        found.setdefault((what, row["system"]), []).append(point)
    lines = ["| grows | system | cpu_ms at each size | memory_mb | exponent | last step |", "|---|---|---|---|---|---|"]
    for (what, system), unsorted in found.items():
        points = sorted(unsorted)
        times = ", ".join(f"{size:,}: {milliseconds:.3g}" for size, milliseconds, _ in points)
        memory = ", ".join(f"{megabytes:,.0f}" for _, _, megabytes in points)
        slopes = [f"{_slope(chosen):.2f}" if len(chosen) > 1 else "-" for chosen in (points, points[-2:])]
        lines.append(f"| {what} | {system} | {times} | {memory} | {' | '.join(slopes)} |")
    return lines


def _slope(points: Sequence[tuple[int, float, float]]) -> float:
    """Of log time against log size."""
    return statistics.linear_regression(*([math.log(point[axis]) for point in points] for axis in (0, 1))).slope


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
