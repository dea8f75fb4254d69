"""What does training on several workers send, and what does it cost? Bytes and calls a step, time, a model of both.

Each system trains on drawn sequences (uniform items: what a step looks up is known in closed form) with 1, 2 and 4
workers, forks of this process over gloo and the loopback interface. Measured: bytes by collective as ``Workers`` counts
them, bytes that the interface really carried (where this process may have a network of its own), time a step. Beside
them the theory's bytes, and a model of the time: compute divides, drawing does not, calls have a latency, bytes a rate.
A cell that is in docs/results/scale_training.json is not measured again (``--again`` does).

    python benchmarks/bench_scale_training.py
    python benchmarks/bench_scale_training.py --quick --folder runs     # small sizes, 1 and 2 workers

Writes docs/results/scale_training.json and scale_training.md. One thread a worker.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from results import Row, published, refuse_quick_look, result_row, with_published, write_results
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from corral.corr.objective import CooperativeObjective
from corral.corr.stages import Stages
from corral.data.batches import SequenceBatch
from corral.ranking.ctr.din import DIN
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.sasrec import SASRec
from corral.sampling.uniform import UniformSampler
from corral.scale.global_draws import GlobalDraws
from corral.scale.scaled_objective import ScaledObjective
from corral.scale.sharded_adam import ShardedAdam
from corral.scale.sharded_embedding import shard_tables
from corral.scale.sharded_multi_index import ShardedMultiIndexSampler
from corral.scale.sharded_softmax import ShardedSoftmax, own_items
from corral.scale.shared_batches import SharedBatches
from corral.scale.workers import Workers
from corral.training.retrieval_objectives import FullSoftmaxObjective, SampledSoftmaxObjective

SIZE, LENGTH, HISTORY, POSITIONS, FIELD = 64, 50, 20, 4, 16
NEGATIVES = {"sampled softmax": 100, "CoRR": 20}
WARM = 2


@dataclass(frozen=True)
class System:
    """What is trained: its items, its sequences a batch."""

    name: str
    items: int
    batch: int

    @property
    def label(self) -> str:
        return f"{self.name}, M = {self.items:,}"


SYSTEMS = (
    System("full softmax", 20_000, 64),
    System("sampled softmax", 20_000, 64),
    System("sampled softmax", 1_000_000, 64),
    System("CoRR", 200_000, 64),
)
QUICK = (System("full softmax", 500, 8), System("sampled softmax", 500, 8), System("CoRR", 500, 8))


class DrawnSequences:
    """Full windows of uniform items, the same for every number of workers."""

    def __init__(self, system: System) -> None:
        self._system = system

    def batches_per_epoch(self) -> int:
        return 1 << 20

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[SequenceBatch]:
        generator = torch.Generator().manual_seed(epoch)
        rows, slots = self._system.batch, torch.arange(LENGTH)
        while True:
            items = torch.randint(2, self._system.items + 2, (rows, LENGTH), generator=generator)
            user = torch.randint(2, self._system.items + 2, (rows,), generator=generator)
            every = torch.ones(rows, LENGTH, dtype=torch.bool)
            yield SequenceBatch(user, items, items, items, slots.expand(rows, -1).clone(), every)


def objective_of(system: System, workers: Workers) -> nn.Module:
    """The objective, its tables cut."""
    torch.manual_seed(0)
    rows, full = system.items + 2, system.name == "full softmax"
    catalogue = torch.arange(2, rows)
    retriever = SASRec(rows, size=SIZE, max_length=LENGTH, blocks=2, dropout=0.2, sparse=not full)
    shard_tables(retriever, workers)
    own = own_items(catalogue, rows, workers)
    if full:
        return FullSoftmaxObjective(retriever, own, softmax=ShardedSoftmax(catalogue, own, workers))
    if system.name == "sampled softmax":
        sampler = UniformSampler(catalogue)
        return SampledSoftmaxObjective(retriever, own, sampler, num_negatives=NEGATIVES[system.name])
    fields = Fields(rows, rows, field_size=FIELD, id_dropout=0.05, sparse=True)
    din = DIN(FIELD, fields.num_context_fields, fields.num_item_fields, hidden=(64, 32), dropout=0.1)
    ranker = FieldRanker(fields, din, embedding_dropout=0.1, history_length=HISTORY)
    shard_tables(ranker, workers)
    stages = Stages(retriever, ranker, own, positions=POSITIONS, history_length=HISTORY)
    midx = ShardedMultiIndexSampler(catalogue, workers, size=SIZE, num_codewords=32)
    return CooperativeObjective(stages, midx, num_negatives=NEGATIVES["CoRR"])


def theory(system: System, workers: int, dense: int) -> dict[str, float]:
    """Bytes that a worker sends a step, by collective, from sizes alone.

    Args:
        system: what is trained.
        workers: W.
        dense: numbers of all copied parameters, and one a parameter that says whether it was used.
    """
    away, rows = (workers - 1) / workers, system.items + 2
    sequences = system.batch / workers
    positions = sequences * LENGTH

    def lookup(asked: float, size: int, table: int = rows) -> float:
        """Distinct rows of uniform draws; each to its owner, its vector back, its gradient there again."""
        distinct = table * (1 - (1 - 1 / table) ** asked)
        return away * distinct * (8 + 8 * size)

    exchanged = lookup(positions, SIZE)
    gathered = 0.0
    if system.name == "full softmax":
        everyone = system.batch * LENGTH
        # Gradients of the queries home; queries and targets to all; three float64 of every query to all.
        exchanged += away * everyone * 4 * SIZE
        gathered += (workers - 1) * (positions * (4 * SIZE + 8) + everyone * 24)
    elif system.name == "sampled softmax":
        exchanged += lookup(positions * (1 + NEGATIVES[system.name]), SIZE)
    else:
        chosen, drawn = sequences * POSITIONS, 1 + NEGATIVES["CoRR"]
        seen = chosen * sum(min(slot, HISTORY) for slot in range(LENGTH)) / LENGTH
        exchanged += lookup(chosen * drawn, SIZE) + lookup((positions - chosen) * drawn, SIZE)
        # Histories of one sequence overlap: their items are among the sequence's.
        exchanged += lookup(sequences, FIELD) + lookup(min(seen, positions), FIELD) + lookup(chosen * drawn, FIELD)
    return {"all-to-all": exchanged, "all-gather": gathered, "all-reduce": 2 * away * 4 * dense}


def carried() -> int:
    """Bytes that the loopback interface has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def own_network() -> bool:
    """Gives this process a network of its own, in which nobody else sends; False where it may not."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        return False
    return subprocess.run(["ip", "link", "set", "lo", "up"], check=False, capture_output=True).returncode == 0


def link(workers: Workers) -> dict[str, float]:
    """Seconds and CPU seconds of a call without content, and of a byte of an all-to-all."""
    if workers.size == 1:
        return {}
    block, each = torch.zeros(workers.size, 1 << 20), [1] * workers.size
    found = {}
    for name, calls, talk in (
        ("call", 300, lambda: workers.numbers(1)),
        ("byte", 30, lambda: workers.exchange(block, each, each)),
    ):
        talk()
        began, worked = time.perf_counter(), time.process_time()
        for _ in range(calls):
            talk()
        units = calls * ((workers.size - 1) * block[0].nbytes if name == "byte" else 1)
        found[f"{name}/seconds"] = (time.perf_counter() - began) / units
        found[f"{name}/cpu"] = (time.process_time() - worked) / units
    return found


def measured(system: System, workers: Workers, steps: int) -> dict[str, Any]:
    """Bytes, calls and seconds a step, of this worker."""
    inner = objective_of(system, workers)
    objective = ScaledObjective(inner, workers)
    optimizer = ShardedAdam(objective, workers)
    batches = SharedBatches(DrawnSequences(system), workers).epoch(0)
    refresh_began = time.perf_counter()
    objective.refresh()
    refresh = time.perf_counter() - refresh_began
    drawing, draw = 0.0, GlobalDraws._mine

    def timed(self: GlobalDraws, draws: Any, shape: tuple[int, ...], rows: int, order: list[int]) -> Tensor:
        """Draws whole batches: apart from the message of the shapes."""

        def within(whole: tuple[int, ...], order: list[int]) -> Tensor:
            nonlocal drawing
            began = time.process_time()
            drawn = draws(whole, order)
            drawing += time.process_time() - began
            return drawn

        return draw(self, within, shape, rows, order)

    GlobalDraws._mine = timed  # type: ignore[method-assign]
    times, busy, flops = [], [], 0
    workers.wait()
    before = carried()
    for step in range(WARM + steps):
        if step == WARM:
            workers.sent.clear()
            workers.calls.clear()
            drawing = 0.0
            workers.wait()
            before = carried()
        began, worked = time.perf_counter(), time.process_time()
        batch = next(batches)
        if step == WARM - 1:
            with FlopCounterMode(display=False) as counter:
                losses = objective(batch)
                losses["total"].backward()
            flops = counter.get_total_flops()
        else:
            losses = objective(batch)
            losses["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
    workers.wait()
    wire = carried() - before
    copied = [p for p in objective.parameters() if not _is_cut(p, objective)]
    dense = sum(p.numel() + 1 for p in copied)
    return {
        "seconds": min(times[WARM:]),
        "cpu": min(busy[WARM:]),
        "refresh": refresh,
        "drawing": drawing / steps,
        "sent": {name: count / steps for name, count in workers.sent.items()},
        "calls": sum(workers.calls.values()) / steps,
        "wire": wire / steps / workers.size,
        "dense": dense,
        "flops": float(flops),
        "table": sum(p.nbytes for p in objective.parameters() if _is_cut(p, objective)) * 3,
        **link(workers),
    }


def _is_cut(parameter: nn.Parameter, objective: nn.Module) -> bool:
    return any(parameter is module.weight for module in objective.modules() if hasattr(module, "first_row"))


def in_forks(number: int, system: System, steps: int) -> list[dict[str, Any]]:
    """Every worker's numbers."""
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    children = []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                store = dist.FileStore(str(folder / "meeting"), number)
                dist.init_process_group("gloo", store=store, rank=rank, world_size=number)
                (folder / f"{rank}.json").write_text(json.dumps(measured(system, Workers(), steps)))
                dist.destroy_process_group()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise SystemExit(f"{system.label}, {number} workers: failed")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(number)]


def cell(system: System, number: int, steps: int, alone: bool) -> Row:
    """One row: means over the workers, beside the theory."""
    parts = in_forks(number, system, steps)

    def mean(name: str) -> float:
        return float(sum(part[name] for part in parts)) / number

    expected = theory(system, number, int(parts[0]["dense"]))
    metrics = {name: mean(name) for name in ("cpu", "refresh", "drawing", "calls", "flops", "table", "dense")}
    metrics["seconds"] = max(part["seconds"] for part in parts)
    for name in ("all-to-all", "all-gather", "all-reduce"):
        metrics[f"sent/{name}"] = sum(part["sent"].get(name, 0.0) for part in parts) / number
        metrics[f"theory/{name}"] = expected[name]
    metrics["sent"] = sum(metrics[f"sent/{name}"] for name in expected)
    metrics["theory"] = sum(expected.values())
    if alone and number > 1:
        metrics["wire"] = mean("wire")
    metrics |= {
        name: mean(name) for name in ("call/seconds", "call/cpu", "byte/seconds", "byte/cpu") if name in parts[0]
    }
    return result_row(system.label, f"{number} workers", 0, metrics)


def predicted(one: dict[str, float], many: dict[str, float], workers: int) -> float:
    """CPU seconds of a step on each of W workers: from one worker's, and what many send at its cost to a core."""
    divided = (one["cpu"] - one["drawing"]) / workers
    return divided + one["drawing"] + many["calls"] * many["call/cpu"] + many["sent"] * many["byte/cpu"]


# A machine of the model, by what its makers print; a step reaches a part of that.
GPU_FLOPS, GPU_SHARE = 60e12, 0.3
INSIDE, BETWEEN, CALL = 200e9, 12.5e9, 30e-6
MACHINES = ((1, 1), (1, 8), (2, 8), (8, 8))


def step_on(
    one: dict[str, float], two: dict[str, float], system: System, machines: int, gpus: int
) -> tuple[float, float]:
    """(seconds, share of them spent talking) of a step on so many GPUs, a batch of the measured size on each.

    The work of a GPU does not change with their number: of the full softmax it has W times the queries and a W-th of
    the items. Bytes are the theory's, for a batch W times as large; those to other machines share the machine's link.
    """
    workers = machines * gpus
    compute = one["flops"] / (GPU_FLOPS * GPU_SHARE)
    if workers == 1:
        return compute, 0.0
    sent = sum(theory(replace(system, batch=system.batch * workers), workers, int(one["dense"])).values())
    across = (machines - 1) / machines
    talk = two["calls"] * CALL + sent * (1 - across) / INSIDE + sent * across * gpus / BETWEEN
    return compute + talk, talk / (compute + talk)


def page(rows: Sequence[Row], systems: Sequence[System]) -> list[str]:
    """The tables."""
    found = {(row["dataset"], row["system"]): row["metrics"] for row in rows}
    lines = [
        "Bytes that a worker sends a step, counted (in the theory from sizes alone), and what the interface carried "
        "with packet headers; the all-reduce is of the copied parameters' gradients, the all-to-all of table rows.",
        "",
        "| system | workers | all-to-all | all-gather | all-reduce | all | theory | counted / theory | "
        "carried / counted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for system in systems:
        for number in (2, 4):
            row = found.get((system.label, f"{number} workers"))
            if row is None:
                continue
            cells = [_kib(row[f"sent/{name}"]) for name in ("all-to-all", "all-gather", "all-reduce")]
            wire = f"{row['wire'] / row['sent']:.2f}" if "wire" in row else "-"
            ratio = f"{row['sent'] / row['theory']:.3f}"
            lines.append(
                f"| {system.label} | {number} | {' | '.join(cells)} | {_kib(row['sent'])} | {_kib(row['theory'])} | "
                f"{ratio} | {wire} |"
            )
    lines += [
        "",
        "CPU time a step of each worker against the model: that of 1 worker divided by W + the drawing of the whole "
        "batch's numbers + calls and bytes at what the link, measured beside it, costs a core. CPU time, because the "
        "machine's two cores do other work too: the time on the wall, the best of all steps, is beside it. Tables: "
        "weights and both moments, of one worker.",
        "",
        "| system | workers | CPU ms | the model's | of it drawing | calls | ms on the wall | tables, MiB | "
        "refresh, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for system in systems:
        one = found.get((system.label, "1 workers"))
        for number in (1, 2, 4):
            row = found.get((system.label, f"{number} workers"))
            if row is None or one is None:
                continue
            guess = f"{1e3 * predicted(one, row, number):.0f}" if number > 1 else "-"
            lines.append(
                f"| {system.label} | {number} | {1e3 * row['cpu']:.0f} | {guess} | {1e3 * row['drawing']:.1f} | "
                f"{row['calls']:.0f} | {1e3 * row['seconds']:.0f} | {row['table'] / 2**20:.1f} | {row['refresh']:.1f} |"
            )
    lines += [
        "",
        f"The model on k machines with g GPUs, a batch of {systems[0].batch} sequences on each. Assumed, not measured: "
        f"a GPU reaches {GPU_SHARE:.0%} of {GPU_FLOPS / 1e12:.0f} TFLOP/s on the operations counted here, "
        f"{INSIDE / 1e9:.0f} GB/s to a GPU of the same machine, {BETWEEN / 1e9:.1f} GB/s out of a machine for all its "
        f"GPUs, {1e6 * CALL:.0f} us a call; nothing overlaps; drawing and updates are free. Sequences a second, and "
        "the share of a step spent talking.",
        "",
        "| system | " + " | ".join(f"{k} x {g}" for k, g in MACHINES) + " |",
        "|---" * (1 + len(MACHINES)) + "|",
    ]
    for system in systems:
        one, two = (found.get((system.label, f"{number} workers")) for number in (1, 2))
        if one is None or two is None:
            continue
        cells = []
        for machines, gpus in MACHINES:
            seconds, talk = step_on(one, two, system, machines, gpus)
            cells.append(f"{system.batch * machines * gpus / seconds:,.0f} ({talk:.0%})")
        lines.append(f"| {system.label} | {' | '.join(cells)} |")
    return lines


def _kib(count: float) -> str:
    return f"{count / 1024:,.0f} KiB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, prints, writes after every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="small sizes, 1 and 2 workers")
    parser.add_argument("--again", action="store_true", help="measure all cells again")
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args(arguments)
    refuse_quick_look(parser, options, "quick", "steps")
    systems = QUICK if options.quick else SYSTEMS
    numbers, steps = ([1, 2], 2) if options.quick else (options.workers, options.steps)
    rows: list[Row] = published("scale_training", options.folder)["rows"]
    done = set() if options.again else {(row["dataset"], row["system"]) for row in rows}
    alone = own_network()
    protocol = {
        "model": f"SASRec, D = {SIZE}, 2 blocks, sequences of {LENGTH}; CoRR: DIN at {POSITIONS} of them, MIDX",
        "negatives": NEGATIVES,
        "transport": "gloo over loopback, one thread a worker, two cores",
        "step": f"the best of {steps}, after {WARM}, of each worker; the refresh on the wall",
    }
    for system in systems:
        for number in numbers:
            if (system.label, f"{number} workers") in done:
                continue
            row = cell(system, number, steps, alone)
            print(row["dataset"], row["system"], row["metrics"], flush=True)
            rows = with_published("scale_training", [row], options.folder)
            write_results("scale_training", rows, protocol, page(rows, systems), options.folder)
    write_results("scale_training", rows, protocol, page(rows, systems), options.folder)
    print("\n".join(page(rows, systems)))


if __name__ == "__main__":
    main()
