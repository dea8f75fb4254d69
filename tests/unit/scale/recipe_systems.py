"""What recipes train, for trained_alike.py: objective and batches, made as ``corral train`` makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from corral.cli import ranker_stage, retriever_stage
from corral.cli.build import CTR_MODELS
from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import click_judge, new_ranker, new_stages, remember_evidence
from corral.cli.retriever_stage import click_loader, new_retriever, retriever_objective
from corral.cli.scaled_training import judging, sharing
from corral.cli.together_stage import share_item_table, together_objective
from corral.data.dataset import Dataset
from corral.data.synthetic import checkerboard_world, markov_world
from corral.rar.ranker import RarRanker
from corral.retrieval.faiss_index import FaissIndex, import_faiss
from corral.scale.scaled_objective import ScaledObjective
from corral.scale.workers import Workers
from corral.serving import item_index as serving_index
from corral.settings import load_settings
from corral.stage_settings import CorrSettings

_RECIPE = """
threads: 1
split: {rule: time-cut, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 6}
ranker: {kind: din, field_size: 4, history_length: 4, hidden: [5], dropout: 0.1,
  embedding_dropout: 0.2, id_dropout: 0.2}
"""
_RAR = "blocks: 3, key_size: 3, look_alikes: 3, recall_items: 3, tower_size: 4, bits: 64, rerank: 6"
_TOGETHER = "together={kind: %s, num_negatives: 8, batch_size: 17, max_per_user: 2, %s}"
_CLICKS = "ranker_training={loss: clicks, sampled_negatives: 2, batch_size: 60, metric: auc, exposure_head: %s}"

# Data and settings of each.
_RECIPES: dict[str, tuple[str, ...]] = {
    "corr-rar": (
        "markov",
        f"ranker.rar={{keys: live, {_RAR}}}",
        _TOGETHER % ("corr", "num_codewords: 3, sampler: midx, full_softmax: true"),
    ),
    "corr-rar-recalled": (
        "markov",
        f"ranker.rar={{keys: live, pool: recalled, pool_size: 6, exposure: item, {_RAR}}}",
        _TOGETHER % ("corr", "num_codewords: 3, sampler: midx, clean_teacher: true"),
    ),
    "rar": ("checkerboard", f"ranker.rar={{{_RAR}}}", "ranker.behaviour={blocks: 3, key_size: 3}", _CLICKS % 0),
    "rar-own": ("checkerboard", f"ranker.rar={{keys: own, rule: static, selector: random, {_RAR}}}", _CLICKS % 0),
    "rar-event": ("checkerboard", f"ranker.rar={{as_of_event: true, {_RAR}}}", _CLICKS % 0),
    "clicks": ("checkerboard", "ranker.as_of={}", "ranker.batch_norm=true", _CLICKS % 0.1),
    "corr-weighted": ("weighted", _TOGETHER % ("corr", "num_codewords: 3, sampler: midx")),
    "corr-weighted-full": ("weighted", _TOGETHER % ("corr", "full_softmax: true")),
    "in-batch": ("weighted", "ranker=null", "retriever_training={loss: in-batch, batch_size: 17}"),
    "corr-in-batch": ("markov", _TOGETHER % ("corr", "sampler: in-batch")),
    "corr-softmax": ("markov", _TOGETHER % ("corr", "sampler: softmax")),
    "corr-top-k": ("markov", _TOGETHER % ("corr", "sampler: top-k, depth: 4")),
    "corr-top-k-random": ("markov", _TOGETHER % ("corr", "sampler: top-k-random, depth: 4")),
    "corr-shared-table": ("markov", "ranker.field_size=8", _TOGETHER % ("corr", "shared_table: true")),
    "icc": ("markov", _TOGETHER % ("icc", "gate_depth: 3")),
    "lcron": ("markov", _TOGETHER % ("lcron", "depth_retriever: 4, depth_ranker: 2, rejection: 0.5")),
    **{f"ctr-{kind}": ("checkerboard", f"ranker.kind={kind}", "ranker.hidden=[6]", _CLICKS % 0) for kind in CTR_MODELS},
    "rankflow": ("markov", _TOGETHER % ("rankflow", "depth: 6, best: 3")),
}


def write_worlds(folder: Path) -> None:
    """The data of all systems: markov, weighted and checkerboard."""
    interactions = markov_world(35, 12, length=15).interactions
    Dataset.write(folder / "markov", interactions)
    counted = interactions.events.with_columns(
        (1.5 + pl.col("user_id").cast(pl.Int64) % 3).cast(pl.Float32).alias("weight")
    )
    Dataset.write(folder / "weighted", replace(interactions, events=counted, event_weights={}))
    Dataset.write(folder / "checkerboard", checkerboard_world(31, 13, length=9).interactions)


def _experiment(name: str, folder: Path, workers: Workers | None, device: str = "cpu") -> Experiment:
    data, *overrides = _RECIPES[name]
    settings = load_settings(_RECIPE, name, (f"data.path={folder / data}", f"device={device}", *overrides))
    directory = folder / f"run-{name}-{workers.size if workers else 0}-{device}"
    return Experiment.start(settings, directory, quiet=True, workers=workers)


def recipe_system(name: str, device: str = "cpu") -> Callable[[Path, Workers | None], tuple[nn.Module, Any]]:
    """What makes the objective and the batches of a system."""

    def made(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
        experiment = _experiment(name, folder, workers, device)
        settings, retriever = experiment.settings, new_retriever(experiment)
        if settings.ranker is None:
            chosen: Any = settings.retriever_training
            return retriever_objective(experiment, retriever), click_loader(experiment, retriever, chosen, 6)
        ranker, together = new_ranker(experiment, retriever), settings.together
        if together is None:
            remember_evidence(experiment, ranker)
            return ranker_stage._click_training(experiment, ranker, retriever)
        if isinstance(together, CorrSettings) and together.shared_table:
            share_item_table(retriever, ranker)
        stages = new_stages(experiment, retriever, ranker, together.max_per_user)
        loader = click_loader(experiment, retriever, together, experiment.history_length)
        return together_objective(experiment, stages), loader

    return made


RECIPE_SYSTEMS = {name: recipe_system(name) for name in _RECIPES}


def judged(folder: Path, workers: Workers | None) -> dict[str, Any]:
    """Click metrics of an untrained RAR ranker with its neighbours, from more batches of events than workers, and the
    bits of indexes."""
    ranker_stage._EVENTS, serving_index._ROWS = 13, 3
    experiment = _experiment("rar", folder, workers)
    retriever = new_retriever(experiment)
    ranker = new_ranker(experiment, retriever)
    assert isinstance(ranker, RarRanker)
    objective: Any = ranker_stage._click_training(experiment, ranker, retriever)[0]
    if workers:
        objective = ScaledObjective(objective, workers)
    objective.refresh()
    with judging(workers, ranker):
        clicks = click_judge(experiment, ranker, retriever)()
    with judging(workers, retriever):
        exact = retriever_stage.item_index(experiment, retriever)
    with sharing(workers):
        vectors = torch.randn(401, 8, generator=torch.Generator().manual_seed(1))
        inverted = FaissIndex.ivf(vectors, torch.arange(2, 403), num_lists=7, num_probes=2)
    found = inverted.search(vectors[:9], 5)
    bits = [exact.vectors, found.items, found.scores]
    return {**clicks, "indexes": [tensor.numpy().tobytes().hex() for tensor in bits], "lists": _bits(inverted)}


def _bits(index: FaissIndex) -> str:
    return sha256(import_faiss().serialize_index(index._native).tobytes()).hexdigest()
