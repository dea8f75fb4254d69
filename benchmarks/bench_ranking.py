"""How fast do rankers train and serve, on one thread?

A training step: 256 queries with a history of 50, the clicked item and 20 negatives each, field size 64;
softmax loss, backward pass, one step of the row-wise Adam. Serving: one query, 300 candidates, no gradient.

    python benchmarks/bench_ranking.py
    python benchmarks/bench_ranking.py --seeds 0 --steps 5 --systems din --folder runs    # a quick look

Prints a table and writes docs/results/ranking.json and ranking.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import torch
from results import Row, refuse_quick_look, result_row, table, with_published, write_results
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.ranking.ctr.dcnv2 import DCNV2
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.ctr.din import DIN
from corral.ranking.ctr.fm import FM
from corral.ranking.ctr.lr import LR
from corral.ranking.fields import Fields
from corral.ranking.history_pooling import TargetAttention
from corral.ranking.ranker import FieldRanker
from corral.training.optimizers import RowWiseAdam

QUERIES, NEGATIVES, SIZE, LENGTH, CANDIDATES = 256, 20, 64, 50, 300
USERS, ITEMS = 22_000, 12_000
COLUMNS = ("train_examples_per_second", "train_step_ms", "serve_300_ms")
PROTOCOL = {
    "train": f"{QUERIES} queries x (1 + {NEGATIVES}) items, history {LENGTH}, field size {SIZE}, one thread",
    "serve": f"1 query x {CANDIDATES} candidates, one thread",
    "time": "CPU time of the process, median over steps (the machine may be shared)",
    "data": f"{USERS} users, {ITEMS} items, uniform; ids alone, or with two categorical, one "
    "multi-valued and one numeric item feature",
}


class TiledAttention(TargetAttention):
    """The same attention with its input [t; h; t - h; t * h] written out for every pair: the yardstick."""

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """See ``TargetAttention``."""
        t = target.unsqueeze(2).expand(-1, -1, history.shape[1], -1)
        h = history.unsqueeze(1).expand(-1, target.shape[1], -1, -1)
        unit = torch.relu(self.first(torch.cat([t, h, t - h, t * h], dim=-1)))
        for layer in self.deeper:
            unit = torch.relu(layer(unit))
        return (self.output(unit).squeeze(-1) * mask.unsqueeze(1)) @ history


def tiled_din(size: int, num_context_fields: int, num_item_fields: int) -> DIN:
    """DIN with the yardstick for its attention."""
    model = DIN(size, num_context_fields, num_item_fields)
    model.attention = TiledAttention(size * num_item_fields)
    return model


SYSTEMS: dict[str, tuple[int, Callable[[int, int, int], nn.Module]]] = {
    "lr": (1, LR),
    "fm": (SIZE, FM),
    "deepfm (400, 400, 400)": (SIZE, DeepFM),
    "deepfm (128, 64)": (SIZE, lambda *sizes: DeepFM(*sizes, hidden=(128, 64))),
    "dcnv2 (400, 400)": (SIZE, DCNV2),
    "dcnv2 (128, 64)": (SIZE, lambda *sizes: DCNV2(*sizes, hidden=(128, 64))),
    "dcnv2 (128, 64) rank 32": (SIZE, lambda *sizes: DCNV2(*sizes, hidden=(128, 64), rank=32)),
    "din, attention (32, 16)": (SIZE, DIN),
    "din, attention (32, 16), tiled": (SIZE, tiled_din),
    "din, attention (64, 32)": (SIZE, lambda *sizes: DIN(*sizes, attention_hidden=(64, 32))),
    "din, attention (32, 16) on 16": (SIZE, lambda *sizes: DIN(*sizes, attention_size=16)),
    "din, attention (16) on 16": (
        SIZE,
        lambda *sizes: DIN(*sizes, attention_size=16, attention_hidden=(16,)),
    ),
}


def item_features() -> FeatureTable:
    """Two categorical features, one multi-valued and one numeric."""
    ids = range(ITEMS - 2)
    frame = pl.DataFrame(
        {
            "item_id": list(ids),
            "brand": [f"b{i % 800}" for i in ids],
            "group": [f"g{i % 40}" for i in ids],
            "tags": [[f"t{(i * k) % 500}" for k in range(1, 1 + i % 6)] for i in ids],
            "price": [float(i % 97) / 97 if i % 9 else None for i in ids],
        }
    )
    return FeatureTable.build(frame, "item_id", Vocabulary.of(frame["item_id"]))


def draw(queries: int, items: int, generator: torch.Generator) -> tuple[Query, Tensor]:
    """A random query batch and its items."""
    user = torch.randint(2, USERS, (queries,), generator=generator)
    history = torch.randint(2, ITEMS, (queries, LENGTH), generator=generator)
    nothing = torch.zeros_like(user)
    return Query(user, nothing, history, nothing), torch.randint(2, ITEMS, (queries, items), generator=generator)


def median_milliseconds(work: Callable[[], object], steps: int) -> float:
    """Median CPU time of a call, three calls to warm up."""
    for _ in range(3):
        work()
    spent = []
    for _ in range(steps):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return 1000 * statistics.median(spent)


def measure(system: str, features: FeatureTable | None, seed: int, steps: int) -> dict[str, float]:
    """One ranker: training, then serving."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    size, build = SYSTEMS[system]
    fields = Fields(USERS, ITEMS, item_features=features, field_size=size, sparse=True)
    ranker = FieldRanker(fields, build(size, fields.num_context_fields, fields.num_item_fields))  # type: ignore[arg-type]
    optimizer = RowWiseAdam(ranker)
    query, items = draw(QUERIES, 1 + NEGATIVES, generator)

    def step() -> None:
        optimizer.zero_grad()
        (-ranker(query, items).log_softmax(1)[:, 0].mean()).backward()
        optimizer.step()

    train = median_milliseconds(step, steps)
    ranker.eval()
    query, items = draw(1, CANDIDATES, generator)
    with torch.no_grad():
        serve = median_milliseconds(lambda: ranker(query, items), steps)
    return dict(zip(COLUMNS, (1000 * QUERIES / train, train, serve), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--systems", default="", help="only those whose name contains this")
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args(arguments)
    refuse_quick_look(parser, options, "steps")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for dataset, features in (("ids", None), ("ids + 4 item features", item_features())):
        for system in [name for name in SYSTEMS if options.systems in name]:
            if features is not None and "tiled" in system:
                continue  # gigabytes
            for seed in options.seeds:
                metrics = measure(system, features, seed, options.steps)
                rows.append(result_row(dataset, system, seed, metrics))
                print(
                    dataset,
                    system,
                    seed,
                    {key: round(value, 1) for key, value in metrics.items()},
                    flush=True,
                )
    rows = with_published("ranking", rows, options.folder)
    shown = [*(f"- {key}: {value}" for key, value in PROTOCOL.items()), "", *table(rows, COLUMNS, digits=1)]
    print("\n".join(shown))
    write_results("ranking", rows, PROTOCOL, shown, options.folder)


if __name__ == "__main__":
    main()
