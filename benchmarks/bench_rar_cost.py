"""What do RAR, behaviour evidence and as-of statistics cost, beside the ranker without them, on one thread?

Systems take turns on the same batches: every step of one has its pair in the bare ranker's, and ratios are of pairs.

    python benchmarks/bench_rar_cost.py
    python benchmarks/bench_rar_cost.py --seeds 0 --steps 5 --parts rar --systems dcnv2 --folder runs    # a quick look

Prints tables and writes docs/results/rar_cost.json and rar_cost.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from bench_cooperation import peak_megabytes
from results import Row, published, refuse_quick_look, result_row, table, with_published, write_results
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from corral.data.as_of import AsOfStatistics
from corral.data.batches import Batch, Query
from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.ranking.as_of_evidence import AsOfEvidence
from corral.ranking.ctr.dcnv2 import DCNV2
from corral.ranking.ctr.din import DIN
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.ranking.remembered_evidence import RememberedEvidence
from corral.rar.behaviour import BehaviourEvidence
from corral.rar.co_interaction import CoInteraction, pair_exposure_loss, valid_cells
from corral.rar.exposure import PairLog
from corral.rar.item_log import ItemLog
from corral.rar.joint_ranker import JointRanker
from corral.rar.keys import GivenKeys
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.objective import JointObjective
from corral.rar.profile_keys import ProfileKeys
from corral.rar.ranker import RarRanker
from corral.rar.residuals import residuals
from corral.rar.selection import ExactSelector
from corral.rar.time_rules import TimeRule
from corral.retrieval.places import Places
from corral.training.optimizers import RowWiseAdam
from corral.training.ranking_objectives import ClickObjective

USERS, ITEMS, EVENTS = 6_000, 4_000, 1_000_000
PAIRS, QUERIES, NEGATIVES, LENGTH, CANDIDATES = 512, 256, 20, 50, 300
NEIGHBOURS, TOWER, PEOPLE = 10, 32, 100
REMEMBERED, MANY = 100_000, 64
WARM_UP = 3
BACKBONES = ("dcnv2", "din")
SHAPES = tuple((size, hidden) for size in (16, 64) for hidden in ((128, 64), (400, 400)))
GOALS = {"click": 1.5, "softmax": 1.5, "serve": 1.3}
PROTOCOL = {
    "click": f"training step on {PAIRS} labelled pairs, history {LENGTH}; RAR: the joint loss, with its look-up of "
    f"{NEIGHBOURS} x {NEIGHBOURS} pairs an example in the train log; row-wise Adam included",
    "softmax": f"training step on {QUERIES} queries x (1 + {NEGATIVES}) items, softmax loss (no exposure loss there)",
    "serve": f"1 query x {CANDIDATES} candidates, no gradient; RAR with the rows it keeps while weights stand still "
    "(tables_ms: to make them)",
    "rar": f"Ku = Ki = {NEIGHBOURS}, towers of {TOWER}, 8 blocks of time, neighbours by exact cosine of 32 numbers",
    "wider": "the bare ranker with two more item fields that are zero: what the width alone costs, a bound for RAR",
    "evidence": f"behaviour: {PEOPLE} people, history {PEOPLE}, keys of 2 x 32; remembered: inputs of {REMEMBERED} "
    "examples worked out once (once_us: CPU time of one) and looked up",
    "time": "CPU time of the process on one thread, median over steps; ratio: median over steps of system / bare on "
    "the same batch, taking turns (the machine is shared)",
    "memory": "peak_mb: largest resident memory of a fresh process after three steps and three requests (evidence: and "
    f"{MANY} requests at once), less that after its data were made; first seed",
    "data": f"{USERS} users, {ITEMS} items, {EVENTS} events made by chance, popularity as rank^-0.8; ids, two "
    "categorical features of either side, one multi-valued of items",
}


WHY = """
Where a goal is missed, and why:

- dcnv2, fields of 64: two more fields beside eleven make the cross network's square matrices (13 / 11)^2 = 1.4 times
  as large. The width alone takes most of the allowance, or all of it; RAR's own part is the difference to "wider".
- dcnv2, fields of 16: the bare step is short, and RAR's part has no single large item to take out: towers and
  projections of the distinct rows, the look-up of exposures (binary searches in a log that no cache holds), and a
  second sparse gradient for each table that the ranker inside reads too, which is added and sorted again. One look-up
  of field vectors for both would save that; it is not done.
- A ratio also rises where the bare step falls. Since a row that a batch names often is looked up and trained once, and
  a pooled history is no longer spread, both steps take less time, and the bare one, which is mostly history, gains more.
- Requests: rows of all users and items are kept, so what is left are gathers, one product and many small operators.
- Behaviour evidence and as-of statistics cost milliseconds a request, whatever the ranker: little beside a large one,
  more than a small one. In training they can be remembered: then the wider input is most of what is paid."""


Shape = tuple[str, int, tuple[int, ...]]
Draws = dict[str, list[tuple[Batch, Tensor]]]


@dataclass(frozen=True)
class World:
    """A log made by chance, sorted by user and then time, as ids alone matter for cost.

    Attributes:
        user, item, time: of the events [n], int64.
        label: float64 [n].
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    label: np.ndarray

    @classmethod
    def make(cls, seed: int) -> World:
        """The events of a seed."""
        random = np.random.default_rng(seed)
        user = np.sort(random.integers(2, USERS, EVENTS))
        shares = np.arange(1, ITEMS - 1) ** -0.8
        item = random.permutation(np.arange(2, ITEMS))[random.choice(ITEMS - 2, EVENTS, p=shares / shares.sum())]
        clock = random.integers(0, 30_000_000, EVENTS)
        clock = clock[np.lexsort((clock, user))]
        return cls(user, item, clock, (random.random(EVENTS) < 0.5).astype(np.float64))

    @cached_property
    def rule(self) -> TimeRule:
        """Eight blocks."""
        return TimeRule.blocks(self.time)

    @cached_property
    def value(self) -> np.ndarray:
        """Residuals of the labels."""
        return residuals(self.user, self.time, self.label)

    @cached_property
    def exposures(self) -> PairLog:
        """The pairs of the log."""
        return PairLog.of(self.user, self.item, self.time, num_items=ITEMS)

    @cached_property
    def features(self) -> tuple[FeatureTable, FeatureTable]:
        """Of users and of items."""
        users, items = range(USERS - 2), range(ITEMS - 2)
        of_users = {"user_id": list(users), "age": [f"a{i % 7}" for i in users], "job": [f"j{i % 21}" for i in users]}
        of_items = {
            "item_id": list(items),
            "brand": [f"b{i % 800}" for i in items],
            "group": [f"g{i % 40}" for i in items],
            "tags": [[f"t{(i * k) % 500}" for k in range(1, 1 + i % 6)] for i in items],
        }
        frames = (pl.DataFrame(of_users), "user_id"), (pl.DataFrame(of_items), "item_id")
        return tuple(FeatureTable.build(frame, key, Vocabulary.of(frame[key])) for frame, key in frames)  # type: ignore[return-value]

    @cached_property
    def neighbours(self) -> Neighbours:
        """By exact cosine of keys around 50 centres."""
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(50, 32, generator=generator)
        keys = [
            centres[torch.randint(50, (rows,), generator=generator)] + 0.6 * torch.randn(rows, 32, generator=generator)
            for rows in (USERS, ITEMS)
        ]
        found = Neighbours(USERS, ITEMS, self.rule, look_alikes=NEIGHBOURS, recall_items=NEIGHBOURS)
        pools = CataloguePools(self.user, self.item, self.time, self.rule)
        found.refresh(GivenKeys(*keys), pools, (ExactSelector(), ExactSelector()))
        return found

    @cached_property
    def behaviour(self) -> BehaviourEvidence:
        """What look-alikes did."""
        log = (self.user, self.item, self.time, self.value)
        keys = ProfileKeys.fit(*log, num_users=USERS, num_items=ITEMS, rule=self.rule)
        people = ItemLog.of(*log, num_items=ITEMS, rule=self.rule)
        own = PairLog.of(*log, num_items=ITEMS)
        return BehaviourEvidence(keys, people, own, self.rule, count=PEOPLE, history_length=PEOPLE)

    @cached_property
    def as_of(self) -> AsOfEvidence:
        """Counts and rates."""
        columns = [torch.from_numpy(column) for column in (self.user, self.item, self.time, self.label)]
        return AsOfEvidence(AsOfStatistics.of_log(*columns, self.features[1], num_users=USERS, num_items=ITEMS))

    def batch(self, rows: np.ndarray, length: int) -> Batch:
        """Events with what their users did before, by place in the log."""
        at = rows[:, None] - np.arange(length, 0, -1)
        own = (at >= 0) & (self.user[at.clip(0)] == self.user[rows][:, None])
        history = np.where(own, self.item[at.clip(0)], 0)
        user, item, clock = (torch.from_numpy(column[rows]) for column in (self.user, self.item, self.time))
        query = Query(user, torch.from_numpy(rows), torch.from_numpy(history), clock)
        return Batch(query, item, torch.from_numpy(self.label[rows]).float())


@dataclass(frozen=True)
class Step:
    """One training step of a system: loss, backward pass, optimiser."""

    loss: Callable[[Batch, Tensor], Tensor]
    optimizer: RowWiseAdam

    def __call__(self, batch: Batch, items: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(batch, items).backward()
        self.optimizer.step()


class Wider(nn.Module):
    """A ranker whose CTR model is as wide as RAR's, and sees zeros there."""

    def __init__(self, ranker: EvidenceRanker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, query: Query, items: Tensor) -> Tensor:
        """Logits [B, N]."""
        zeros = torch.zeros(*items.shape, 2, self.ranker.fields.field_size)
        return self.ranker.logits(self.ranker.encode(query), query, items, more=zeros)


def make(
    world: World, backbone: str, size: int, hidden: tuple[int, ...], more: int, evidence: nn.Module | None
) -> EvidenceRanker:
    """The ranker inside."""
    fields = Fields(USERS, ITEMS, *world.features, field_size=size, sparse=True)
    sizes = (size, fields.num_context_fields, fields.num_item_fields + more)
    extra = 0 if evidence is None else int(evidence.size)  # type: ignore[call-overload]
    ctr = (
        DCNV2(*sizes, hidden=hidden, num_extra=extra)
        if backbone == "dcnv2"
        else DIN(*sizes, num_history_fields=fields.num_item_fields, hidden=hidden, num_extra=extra)
    )
    return EvidenceRanker(FieldRanker(fields, ctr, history_length=LENGTH), evidence)


def system(world: World, name: str, backbone: str, size: int, hidden: tuple[int, ...]) -> nn.Module:
    """A ranker by its name in the tables."""
    if name == "rar":
        inner = make(world, backbone, size, hidden, 2, None)
        fields = inner.fields
        sizes = len(fields.users) * size, fields.num_item_fields * size
        return RarRanker(inner, world.neighbours, CoInteraction(*sizes, tower_size=TOWER, output_size=size))
    if name == "wider":
        return Wider(make(world, backbone, size, hidden, 2, None))
    evidence = {"bare": None, "behaviour": "behaviour", "behaviour, remembered": "behaviour", "as-of": "as_of"}[name]
    return make(world, backbone, size, hidden, 0, None if evidence is None else getattr(world, evidence))


def training(ranker: nn.Module, world: World, kind: str) -> Step:
    """The step of a kind."""
    optimizer = RowWiseAdam(ranker)
    if kind == "softmax":
        return Step(lambda batch, items: -ranker(batch.query, items).log_softmax(1)[:, 0].mean(), optimizer)
    objective = (
        JointObjective(JointRanker(ranker, world.exposures, lambda neighbours: None))
        if isinstance(ranker, RarRanker)
        else ClickObjective(ranker)
    )
    return Step(lambda batch, items: objective(batch)["total"], optimizer)


def milliseconds(work: Callable[[], object], times: int = 1) -> float:
    """CPU time of a call."""
    start = time.process_time()
    for _ in range(times):
        work()
    return 1000 * (time.process_time() - start) / times


def turns(
    works: Mapping[str, Callable[[int], object]], steps: int, seed: int, times: int = 1
) -> dict[str, list[float]]:
    """Times of each system, in a new order at every step, some to warm up."""
    spent: dict[str, list[float]] = defaultdict(list)
    random = np.random.default_rng(seed)
    for number in range(WARM_UP + steps):
        for name in random.permutation(list(works)):
            took = milliseconds(partial(works[name], number), times)
            if number >= WARM_UP:
                spent[name].append(took)
    return spent


def draws(world: World, steps: int, seed: int, length: int, among: np.ndarray | None = None) -> Draws:
    """Batches of each kind of step and their items; training on events ``among`` those given."""
    random = np.random.default_rng(seed)
    late = np.flatnonzero(world.time > np.quantile(world.time, 0.9))
    every = np.arange(EVENTS) if among is None else among
    found: Draws = defaultdict(list)
    for number in range(steps):
        for kind, queries, items in (
            ("click", PAIRS, 1),
            ("softmax", QUERIES, 1 + NEGATIVES),
            ("serve", 1, CANDIDATES),
            ("many", MANY, CANDIDATES),
        ):
            if kind == "many" and number:
                continue
            pool = late if kind in ("serve", "many") else every
            batch = world.batch(random.choice(pool, queries, replace=False), length)
            asked = torch.from_numpy(world.item[random.integers(0, EVENTS, (queries, items))])
            if kind in ("click", "softmax"):
                asked[:, 0] = batch.item
            found[kind].append((batch, asked))
    return found


def answer(ranker: nn.Module, batch: Batch, items: Tensor) -> Tensor:
    """Logits without gradient."""
    with torch.no_grad():
        found: Tensor = ranker(batch.query, items)
    return found


def compare(
    world: World,
    names: Sequence[str],
    shape: Shape,
    seed: int,
    steps: int,
    remembered: RememberedEvidence | None = None,
    among: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Milliseconds and ratios of every system and kind of step, one shape."""
    given = draws(world, steps + WARM_UP, seed, LENGTH if among is None else PEOPLE, among)
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for kind in ("click", "softmax", "serve") if among is None else ("click", "serve"):
        works: dict[str, Callable[[int], object]] = {}
        for name in names:
            torch.manual_seed(seed)
            ranker = system(world, name, *shape)
            if name.endswith("remembered"):
                ranker.remember(remembered)  # type: ignore[operator]
            if kind != "serve":
                step = training(ranker, world, kind)
                works[name] = lambda number, step=step, kind=kind: step(*given[kind][number])  # type: ignore[misc]
                continue
            if isinstance(ranker.eval(), RarRanker):
                found[name]["tables_ms"] = milliseconds(ranker.precompute)  # type: ignore[arg-type]
            works[name] = lambda number, ranker=ranker: answer(ranker, *given["serve"][number])  # type: ignore[misc]
        # Requests are short: ten of each. Softmax steps are long: half as many.
        spent = turns(works, steps if kind != "softmax" else max(steps // 2, 3), seed, 10 if kind == "serve" else 1)
        for name in names:
            pairs = zip(spent[name], spent["bare"], strict=True)
            found[name][f"{kind}_ms"] = statistics.median(spent[name])
            found[name][f"{kind}_ratio"] = statistics.median(one / bare for one, bare in pairs)
    return found


def memory(name: str, shape: Shape, replies: multiprocessing.Queue[float]) -> None:
    """Megabytes that steps and requests need beyond the data."""
    torch.set_num_threads(1)
    world, evidence = World.make(0), name not in ("bare", "rar", "wider")
    given = draws(world, 3, 0, PEOPLE if evidence else LENGTH)
    torch.manual_seed(0)
    ranker = system(world, name, *shape)
    steps = [(kind, training(ranker, world, kind)) for kind in (("click",) if evidence else ("click", "softmax"))]
    # What was needed to make the data is given back, and the peak begins anew.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    begun = peak_megabytes()
    for kind, step in steps:
        for batch in given[kind]:
            step(*batch)
    ranker.eval()
    for asked in given["serve"] + (given["many"] if evidence else []):
        answer(ranker, *asked)
    replies.put(peak_megabytes() - begun)


def peak(name: str, shape: Shape) -> float:
    """``memory`` in a process of its own."""
    processes = multiprocessing.get_context("spawn")
    replies: multiprocessing.Queue[float] = processes.Queue()
    child = processes.Process(target=memory, args=(name, shape, replies))
    child.start()
    megabytes = replies.get()
    child.join()
    return megabytes


def neighbours_of(world: World, batch: Batch, items: Tensor) -> tuple[Tensor, Tensor]:
    """Look-alike users and recall items of a batch."""
    query, known = batch.query, world.neighbours
    snapshot = world.rule.snapshot(query.time, query.user)
    return known.look_alike_users(snapshot, query.user), known.recall_items(snapshot, query.user, items)


def rar_ranker(world: World, shape: Shape) -> RarRanker:
    """The enriched ranker of a shape."""
    torch.manual_seed(0)
    ranker = system(world, "rar", *shape)
    assert isinstance(ranker, RarRanker)
    return ranker


def floors(world: World, shape: Shape) -> list[str]:
    """What an implementation cannot avoid: rows encoded, numbers gathered, products; a line of a table each."""
    size, given, lines = shape[1], draws(world, 1, 0, LENGTH), []
    fields = rar_ranker(world, shape).ranker.fields
    widths = [len(entity) * size for entity in (fields.users, fields.catalogue)]
    for kind in ("click", "softmax", "serve"):
        batch, items = given[kind][0]
        named = neighbours_of(world, batch, items)
        distinct = [len(torch.unique(rows)) for rows in named]
        towers = sum(n * (w * TOWER + TOWER * TOWER + w * size) for n, w in zip(distinct, widths, strict=True))
        cells, pooled = items.numel() * NEIGHBOURS**2, items.numel() * 2 * NEIGHBOURS * size
        gathered = sum(rows.numel() for rows in named) * (TOWER + size) * 4
        counts = " | ".join(f"{rows.numel()} / {n}" for rows, n in zip(named, distinct, strict=True))
        encoded = 0.0 if kind == "serve" else towers / 1e6
        matched = (cells * TOWER + pooled) / 1e6
        lines.append(f"| {size} | {kind} | {counts} | {gathered / 1e6:.2f} | {encoded:.1f} | {matched:.1f} | {cells} |")
    return lines


def stages(world: World, shape: Shape, steps: int) -> list[str]:
    """Milliseconds of the parts of a click batch, forward alone; a line of a table each."""
    ranker = rar_ranker(world, shape)
    batch, items = draws(world, 1, 0, LENGTH)["click"][0]
    query, fields, joint = batch.query, ranker.ranker.fields, ranker.co_interaction
    users, recalled = neighbours_of(world, batch, items)
    until = world.rule.exposure_time(query.time)[:, None, None, None]
    pairs = users[:, None, :, None], recalled[:, :, None, :], until
    encoded = ranker.encode(query)
    matching, exposed = ranker.enrich(encoded, query, items).matching, world.exposures.before(*pairs)[0]
    distinct = [Places.distinct(rows)[0] for rows in (users, recalled)]
    masks, towers = (users > 0, recalled > 0), torch.randn(*recalled.shape, TOWER)
    objective = JointObjective(JointRanker(ranker, world.exposures, lambda neighbours: None))
    works: dict[str, Callable[[], object]] = {
        "all of it, both losses": lambda: objective(batch),
        "the inner ranker's query": lambda: ranker.ranker.encode(query),
        "rows of neighbours": lambda: neighbours_of(world, batch, items),
        "distinct rows": lambda: [Places.distinct(rows) for rows in (users, recalled)],
        "field vectors, towers, projections": lambda: (
            joint.encode_users(fields.users(distinct[0], keep_ids=True).flatten(1)),
            joint.encode_items(fields.catalogue(distinct[1], keep_ids=True).flatten(1)),
        ),
        "matching": lambda: joint.match(encoded.towers, towers, valid_cells(*masks)),
        "weights": lambda: joint.weights(matching, *masks),
        "look-up of exposures": lambda: world.exposures.before(*pairs),
        "exposure loss": lambda: pair_exposure_loss(matching, exposed),
    }
    spent = {name: statistics.median(milliseconds(work) for _ in range(steps)) for name, work in works.items()}
    return [f"| {title(shape)} | {name} | {took:.2f} |" for name, took in spent.items()]


def operators(work: Callable[[], object], times: int) -> dict[str, float]:
    """Milliseconds that each operator itself takes in one call, the least of some."""
    seen: dict[str, list[float]] = defaultdict(list)
    for number in range(times):
        with profile(activities=[ProfilerActivity.CPU]) as one:
            work()
        if number:
            for event in one.key_averages():
                seen[event.key].append(event.self_cpu_time_total / 1000)
    return {key: min(values) for key, values in seen.items()}


def profiled(world: World, shape: Shape, times: int = 10) -> list[str]:
    """Which operators the difference between RAR and the bare ranker is made of, one step and one request."""
    given, lines = draws(world, 1, 0, LENGTH), []
    for kind in ("click", "serve"):
        spent = {}
        for name in ("bare", "wider", "rar"):
            torch.manual_seed(0)
            ranker = system(world, name, *shape)
            if kind == "click":
                spent[name] = operators(partial(training(ranker, world, kind), *given[kind][0]), times)
                continue
            if isinstance(ranker.eval(), RarRanker):
                ranker.precompute()  # type: ignore[operator]
            spent[name] = operators(partial(answer, ranker, *given[kind][0]), 3 * times)
        more = {key: value - spent["bare"].get(key, 0.0) for key, value in spent["rar"].items()}
        total = ", ".join(f"{name} {sum(values.values()):.2f} ms" for name, values in spent.items())
        lines += ["", f"### {title(shape)}, {kind}: operators", "", f"In all: {total}. The largest differences:", ""]
        lines += ["| operator | rar ms | wider ms | bare ms |", "|---|---|---|---|"]
        for key in sorted(more, key=lambda key: -more[key])[:10]:
            cells = " | ".join(f"{spent[name].get(key, 0.0):.3f}" for name in ("rar", "wider", "bare"))
            lines.append(f"| {key} | {cells} |")
    return lines


def title(shape: Shape) -> str:
    """For tables."""
    backbone, size, hidden = shape
    return f"{backbone}, D = {size}, {hidden}"


def note(shape: Shape, name: str, seed: int, metrics: dict[str, float], part: str, options: argparse.Namespace) -> Row:
    """A row, with the memory of the first seed."""
    if seed == options.seeds[0] and options.memory and not name.endswith("remembered"):
        metrics["peak_mb"] = peak(name, shape)
    print(title(shape), name, seed, {key: round(value, 2) for key, value in metrics.items()}, flush=True)
    return result_row(title(shape), name, seed, metrics, protocol={"part": part})


def rar_part(options: argparse.Namespace, shapes: Sequence[Shape]) -> list[Row]:
    """RAR, the width alone and the bare ranker."""
    rows = []
    for seed in options.seeds:
        world = World.make(seed)
        for shape in shapes:
            found = compare(world, ("bare", "wider", "rar"), shape, seed, options.steps)
            rows += [note(shape, name, seed, metrics, "rar", options) for name, metrics in found.items()]
    return rows


def evidence_part(options: argparse.Namespace, shapes: Sequence[Shape]) -> list[Row]:
    """Behaviour evidence, worked out and remembered, and as-of statistics; the smallest and the largest shape."""
    rows = []
    for seed in options.seeds:
        world = World.make(seed)
        among = np.random.default_rng(seed).choice(EVENTS, REMEMBERED, replace=False)
        batches = [world.batch(part, PEOPLE) for part in np.array_split(among, REMEMBERED // 1024)]
        evidence, start = world.behaviour, time.process_time()
        remembered = RememberedEvidence(evidence, iter(batches))
        once = 1e6 * (time.process_time() - start) / REMEMBERED
        names = ("bare", "behaviour", "behaviour, remembered", "as-of")
        for shape in [one for one in shapes if one[1:] in (SHAPES[0], SHAPES[-1])]:
            found = compare(world, names, shape, seed, options.steps, remembered, among)
            found["behaviour, remembered"]["once_us"] = once
            rows += [note(shape, name, seed, metrics, "evidence", options) for name, metrics in found.items()]
    return rows


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Where the goals are met, a line each."""
    lines = ["| shape | step | goal | rar / bare | wider / bare | met |", "|---" * 6 + "|"]
    for shape in dict.fromkeys(row["dataset"] for row in rows):
        for kind, goal in GOALS.items():
            rar, wider = (
                statistics.mean(
                    row["metrics"][f"{kind}_ratio"] for row in rows if (row["dataset"], row["system"]) == (shape, name)
                )
                for name in ("rar", "wider")
            )
            met = "yes" if rar <= goal else "no; nor would the width alone" if wider > goal else "no"
            lines.append(f"| {shape} | {kind} | {goal} | {rar:.2f} | {wider:.2f} | {met} |")
    return lines


def profile_part(steps: int) -> list[str]:
    """The floor, and where the time goes; whole or not at all, as its lines are no rows that could be merged."""
    world, some = World.make(0), [("dcnv2", *shape) for shape in SHAPES if shape[1] == SHAPES[0][1]]
    shown = [
        "",
        "## The floor",
        "",
        "Neighbours named / distinct; megabytes gathered (towers and projected rows); million products in towers and "
        "projections, and in matching and pooling, forward alone; cells of G. When serving, rows are encoded before.",
        "",
        "| D | step | users | items | MB | towers | matching | cells |",
        "|---" * 8 + "|",
    ]
    shown += [line for shape in some for line in floors(world, shape)]
    shown += ["", "## Where the time goes", "", "| shape | part of a click batch, forward | ms |", "|---|---|---|"]
    shown += [line for shape in some for line in stages(world, shape, steps)]
    return shown + [line for shape in some for line in profiled(world, shape)]


def page(rows: Sequence[Row], profile: Sequence[str]) -> list[str]:
    """The lines of rar_cost.md."""
    shown = [f"- {key}: {value}" for key, value in PROTOCOL.items()]
    rar, evidence = ([row for row in rows if row["protocol"]["part"] == part] for part in ("rar", "evidence"))
    if rar:
        columns = [f"{kind}_{unit}" for kind in GOALS for unit in ("ms", "ratio")]
        shown += ["", "## RAR", "", *table(rar, [*columns, "tables_ms", "peak_mb"], digits=2)]
        shown += ["", "## Goals", "", *verdicts(rar), *WHY.splitlines()]
    if evidence:
        columns = ["click_ms", "click_ratio", "serve_ms", "serve_ratio", "once_us", "peak_mb"]
        shown += ["", "## Evidence", "", *table(evidence, columns, digits=2)]
    return [*shown, *profile]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=9)
    parts = ("rar", "evidence", "profile")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--systems", default="", help="parts rar and evidence: only shapes whose title contains this")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the memory out")
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args(arguments)
    refuse_quick_look(parser, options, "steps", "memory")
    known = published("rar_cost", options.folder)
    if known["rows"] and "profile" not in (*known["protocol"], *options.parts):
        parser.error(
            "rar_cost.json holds no profile, so that the one on the page would be lost: measure it too, "
            "--parts with profile, or write elsewhere, with --folder"
        )
    torch.set_num_threads(1)
    every = [(backbone, *shape) for backbone in BACKBONES for shape in SHAPES]
    shapes = [shape for shape in every if options.systems in title(shape)]
    rows: list[Row] = []
    if "rar" in options.parts:
        rows += rar_part(options, shapes)
    if "evidence" in options.parts:
        rows += evidence_part(options, shapes)
    profile = profile_part(options.steps) if "profile" in options.parts else known["protocol"].get("profile", [])
    rows = with_published("rar_cost", rows, options.folder, within="part")
    shown = page(rows, profile)
    print("\n".join(shown))
    write_results("rar_cost", rows, {**PROTOCOL, "profile": profile}, shown, options.folder)


if __name__ == "__main__":
    main()
