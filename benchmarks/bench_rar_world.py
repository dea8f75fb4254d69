"""Does RAR carry what lives in look-alikes and recall sets alone? The planted world of the spec, with its controls.

Users of 12 tastes, items of 12 topics; the label is whether the taste likes the topic (a tenth flipped). Keys that say
the cluster go to the selector only; the model sees ids and a noise field. Test pairs are of users and items that never
occur in train: a bare model must be at chance. A test of the machinery, not evidence of a gain on real data.

    python benchmarks/bench_rar_world.py                       # all systems, three seeds (about 20 minutes, one thread)
    python benchmarks/bench_rar_world.py --systems rar bare --seeds 0

Writes docs/results/rar_world.json and rar_world.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from results import Row, result_row, table, with_published, write_results

from corral.data.batches import Batch
from corral.data.taste_world import LabelledPairs, TasteWorld, taste_world
from corral.evaluation.click_metrics import click_metrics
from corral.ranking.ctr.dcnv2 import DCNV2
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.rar.co_interaction import CoInteraction, Pooling
from corral.rar.exposure import PairLog
from corral.rar.joint_ranker import JointRanker
from corral.rar.keys import GivenKeys
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.objective import JointObjective
from corral.rar.random_selector import RandomSelector
from corral.rar.ranker import RarRanker
from corral.rar.selection import ExactSelector, SimHashSelector
from corral.rar.time_rules import TimeRule
from corral.training.fit import fit
from corral.training.optimizers import RowWiseAdam
from corral.training.ranking_objectives import ClickObjective

SYSTEMS = (
    "bare",
    "rar",
    "rar-zeroed",
    "rar-random",
    "rar-mean",
    "rar-sum",
    "rar-cosine",
    "rar-alpha1",
    "rar-users",
    "rar-items",
)
SIZE, NEIGHBOURS, BITS = 16, 10, 64
COLUMNS = ("auc", "logloss", "valid/auc", "ceiling", "epochs", "seconds")


class PairLoader:
    """Shuffled batches of pairs."""

    def __init__(self, pairs: LabelledPairs, batch_size: int, seed: int) -> None:
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed

    def batches_per_epoch(self) -> int:
        """The last may be smaller."""
        return -(-len(self.pairs) // self.batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch."""
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.pairs)))
        for at in order.split(self.batch_size)[first_batch:]:
            yield self.pairs.batch(at)


def make_ranker(system: str, world: TasteWorld) -> FieldRanker | RarRanker:
    """DCN-V2 on ids and noise, with RAR around it but for ``bare``."""
    users, items = len(world.user_keys), len(world.item_keys)
    fields = Fields(
        users, items, field_size=SIZE, pool_history=False, id_dropout=0.3, request_cardinalities={"noise": 12}
    )
    more = 0 if system == "bare" else 2
    ctr = DCNV2(SIZE, fields.num_context_fields, fields.num_item_fields + more, hidden=(64, 32), dropout=0.1)
    inner = FieldRanker(fields, ctr)
    if system == "bare":
        return inner
    pooling = {"rar-mean": Pooling.MEAN, "rar-sum": Pooling.SUM, "rar-users": Pooling.USERS, "rar-items": Pooling.ITEMS}
    return RarRanker(
        EvidenceRanker(inner, None),
        Neighbours(users, items, TimeRule.static(), look_alikes=NEIGHBOURS, recall_items=NEIGHBOURS),
        CoInteraction(SIZE, SIZE, output_size=SIZE, pooling=pooling.get(system, Pooling.CO_INTERACTION)),
        zeroed=system == "rar-zeroed",
    )


def run(system: str, seed: int, epochs: int = 10) -> dict[str, float]:
    """Trains one system and judges it on pairs of cold users and cold items."""
    world = taste_world(seed=seed)
    torch.manual_seed(seed)
    ranker, train = make_ranker(system, world), world.train
    objective: torch.nn.Module = ClickObjective(ranker)
    if isinstance(ranker, RarRanker):
        columns = [column.numpy() for column in (train.user, train.item, torch.zeros_like(train.user))]
        pools = CataloguePools(*columns, TimeRule.static())
        keys = GivenKeys(world.user_keys, world.item_keys)
        kinds = {"rar-random": RandomSelector, "rar-cosine": lambda seed: ExactSelector("cosine")}
        make = kinds.get(system, lambda seed: SimHashSelector(BITS, seed=seed))
        selectors = (make(seed=seed), make(seed=seed + 1))  # type: ignore[operator]
        joint = JointRanker(
            ranker,
            PairLog.of(*columns, num_items=len(world.item_keys)),
            lambda neighbours: neighbours.refresh(keys, pools, selectors),
            alpha=1.0 if system == "rar-alpha1" else 0.9,
        )
        objective = JointObjective(joint)

    def judge(pairs: LabelledPairs) -> dict[str, float]:
        with torch.no_grad():
            parts = [pairs.batch(at) for at in torch.arange(len(pairs)).split(4096)]
            logits = torch.cat([ranker(part.query, part.item[:, None])[:, 0] for part in parts])
        return click_metrics(pairs.label.numpy(), logits.double().numpy(), pairs.user.numpy())

    began = time.process_time()
    state = fit(
        objective,
        PairLoader(train, 256, seed),
        RowWiseAdam(objective, learning_rate=2e-3),
        epochs=epochs,
        validate=lambda: judge(world.valid),
        metric="auc",
        patience=0,
    )
    found = judge(world.test)
    return {
        "auc": found["auc"],
        "logloss": found["logloss"],
        "valid/auc": state.best,
        "ceiling": world.ceiling,
        "epochs": state.best_epoch + 1,
        "seconds": time.process_time() - began,
    }


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in arguments.seeds:
        for system in arguments.systems:
            found = run(system, seed)
            rows.append(result_row("taste-world", system, seed, found))
            print(system, seed, {name: round(value, 4) for name, value in found.items()}, flush=True)
    rows = with_published("rar_world", rows, arguments.folder)
    rows.sort(key=lambda row: (SYSTEMS.index(row["system"]), row["seed"]))
    protocol = {"neighbours": NEIGHBOURS, "bits": BITS, "alpha": 0.9, "field_size": SIZE, "id_dropout": 0.3}
    shown = table(rows, COLUMNS)
    write_results("rar_world", rows, protocol, shown, arguments.folder)
    print("\n".join(shown))


if __name__ == "__main__":
    main()
