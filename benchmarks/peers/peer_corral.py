"""Ours on the peers' clock: SASRec, two-tower and LightGBM for lists; DIN, DCN-V2 and ETA for clicks.

At the settings that all share, in float32, ids and history alone. Data come from the recipe, which gives the events
that the split files hold; answers leave as those of the peers do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_files import ids_alone
from peer_run import LIST_LENGTH, PeerRun
from peer_systems import DATASETS
from torch import Tensor

from corral.cli.experiment import Experiment
from corral.cli.fit_objective import event_loader, fit_objective
from corral.cli.ranker_stage import click_judge, click_logits, new_ranker
from corral.cli.recipes import read_recipe
from corral.cli.retriever_stage import (
    click_loader,
    new_retriever,
    retriever_judge,
    retriever_objective,
    served_channel,
)
from corral.data.batches import Query
from corral.data.split import Part
from corral.evaluation.evaluate import evaluate
from corral.evaluation.metrics import ranked
from corral.training.ranking_objectives import ClickObjective


def training(stage: str, shared: dict[str, Any], batch: str = "batch") -> list[str]:
    """Overrides of a stage's training; ``batch`` names the shared size of its batches."""
    names = {batch: "batch_size", "learning_rate": "learning_rate", "epochs": "epochs", "patience": "patience"}
    return [f"{stage}_training.{ours}={shared[name]}" for name, ours in names.items()]


def start(run: PeerRun, folder: Path, overrides: list[str]) -> Experiment:
    """The experiment, without features."""
    data = DATASETS[run.facts["dataset"]]
    settings = read_recipe(data.recipe, (*data.overrides, *overrides, f"seed={run.seed}", "threads=1"))
    experiment = ids_alone(Experiment.start(settings, folder, quiet=True))
    assert experiment.dataset.hash == run.facts["data_hash"], "the split files are of other data: delete them"
    return experiment


def trees(experiment: Experiment, retriever: torch.nn.Module) -> Callable[[Query, Tensor], Tensor]:
    """LightGBM over the retriever's candidates; what is imported for it weighs on its own line alone."""
    from gbdt_ranker import best_gbdt

    return best_gbdt(experiment, retriever)[0]


def lists(run: PeerRun, folder: Path) -> None:
    """A retriever, and trees over its candidates where the system asks for them."""
    shared = run.settings
    if run.system == "two-tower":
        model = [
            f"retriever={{kind: two-tower, size: {shared['size']}, hidden: {shared['hidden']}, "
            f"history_length: {shared['length']}}}",
            *training("retriever", shared, "prefixes"),
        ]
    else:
        same = {name: shared[name] for name in ("size", "blocks", "heads", "dropout")}
        model = [f"retriever.{name}={value}" for name, value in same.items()]
        model += [f"retriever.max_length={shared['length']}", *training("retriever", shared)]
    experiment = start(run, folder, [*model, "retriever_training.low_precision=false"])
    chosen = experiment.settings.retriever_training
    retriever = new_retriever(experiment)
    loader = click_loader(experiment, retriever, chosen, shared["length"])
    with run.phase("train"):
        state = fit_objective(
            experiment,
            "retriever",
            retriever_objective(experiment, retriever),
            loader,
            chosen,
            run.timed("validate", retriever_judge(experiment, retriever)),
        )
        experiment.share_unknown(retriever)
        ranker = trees(experiment, retriever) if run.system == "lightgbm" else None
    with run.phase("evaluate"):
        evaluate(
            experiment.validation,
            served_channel(experiment, retriever),
            ranker=ranker,
            num_candidates=LIST_LENGTH,
            cutoffs=(10, LIST_LENGTH),
            recall_cutoffs=(LIST_LENGTH,),
            oracle_retriever=False,
        )
    retriever.eval()
    channel, found = served_channel(experiment, retriever), []
    with run.phase("lists"), torch.no_grad():
        for batch in experiment.targets(Part.TEST).batches(512):
            best = channel.recall(batch.query, LIST_LENGTH, batch.exclude)
            if ranker is not None:
                best = ranked(best.items, ranker(batch.query, best.items))
            found.append(best.items.numpy())
    # A user's first event has nothing before it: ours learns from it too, but nobody else does.
    events = run.columns("train")
    examples = (len(events["user"]) - len(np.unique(events["user"]))) * len(state.records)
    run.finish(np.concatenate(found), examples=examples, epochs=len(state.records), packages=("torch", "numpy"))


def clicks(run: PeerRun, folder: Path) -> None:
    """A CTR model."""
    shared = run.settings
    length = shared["long_length"] if run.system == "eta" else shared["length"]
    same = {"field_size": "size", "hidden": "hidden", "dropout": "dropout"}
    model = [f"ranker.{ours}={shared[name]}" for ours, name in same.items()]
    model += [f"ranker.kind={run.system}", f"ranker.history_length={length}"]
    if run.system == "eta":
        model += [f"ranker.{name}={shared[name]}" for name in ("nearest", "recent", "bits")]
    experiment = start(run, folder, [*model, *training("ranker", shared)])
    ranker = new_ranker(experiment, torch.nn.Module())
    chosen, judge = experiment.settings.ranker_training, click_judge(experiment, ranker)
    examples = experiment.examples(Part.TRAIN)
    with run.phase("train"):
        state = fit_objective(
            experiment,
            "ranker",
            ClickObjective(ranker),
            event_loader(experiment, chosen, experiment.history_length, examples),
            chosen,
            run.timed("validate", judge),
        )
    run.timed("evaluate", judge)()
    with run.phase("lists"):
        logits, _, _ = click_logits(experiment, ranker, Part.TEST)
    probabilities = np.exp(-np.logaddexp(0.0, -logits))
    run.finish(
        probabilities,
        examples=len(examples) * len(state.records),
        epochs=len(state.records),
        packages=("torch", "numpy"),
    )


def main() -> None:
    """One system."""
    run = PeerRun.of_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (clicks if DATASETS[run.facts["dataset"]].clicks else lists)(run, Path(folder))


if __name__ == "__main__":
    main()
