"""What recipes train, for trained_alike.py: objective and batches, made as ``corral train`` makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import _click_training, new_ranker, new_stages, remember_evidence
from corral.cli.retriever_stage import click_loader, new_retriever, retriever_objective
from corral.cli.together_stage import together_objective
from corral.scale.workers import Workers
from corral.settings import load_settings

_RECIPE = """
threads: 1
device: cpu
split: {rule: time-cut, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 6}
ranker: {kind: din, field_size: 4, history_length: 4, hidden: [5], dropout: 0.1, embedding_dropout: 0.2, id_dropout: 0.2}
"""
_RAR = "blocks: 3, key_size: 3, look_alikes: 3, recall_items: 3, tower_size: 4, bits: 64, rerank: 6"
_TOGETHER = "together={kind: corr, num_codewords: 3, num_negatives: 5, batch_size: 17, max_per_user: 2, %s}"
_CLICKS = "ranker_training={loss: clicks, sampled_negatives: 2, batch_size: 60, metric: auc}"

# Data and settings of each.
_RECIPES: dict[str, tuple[str, ...]] = {
    "corr-rar": ("markov", f"ranker.rar={{keys: live, {_RAR}}}", _TOGETHER % "full_softmax: true"),
    "corr-rar-recalled": (
        "markov",
        f"ranker.rar={{keys: live, pool: recalled, pool_size: 6, exposure: item, {_RAR}}}",
        _TOGETHER % "clean_teacher: true",
    ),
    "rar": ("checkerboard", f"ranker.rar={{{_RAR}}}", "ranker.behaviour={blocks: 3, key_size: 3}", _CLICKS),
    "rar-own": ("checkerboard", f"ranker.rar={{keys: own, rule: static, selector: random, {_RAR}}}", _CLICKS),
    "clicks": (
        "checkerboard",
        "ranker.as_of={}",
        "ranker.batch_norm=true",
        "ranker_training={loss: clicks, sampled_negatives: 2, batch_size: 60, exposure_head: 0.1, metric: auc}",
    ),
}


def _system(name: str, data: str, *overrides: str) -> Callable[[Path, Workers | None], tuple[nn.Module, Any]]:
    def made(folder: Path, workers: Workers | None) -> tuple[nn.Module, Any]:
        settings = load_settings(_RECIPE, name, (f"data.path={folder / data}", *overrides))
        directory = folder / f"run-{name}-{workers.size if workers else 0}"
        experiment = Experiment.start(settings, directory, quiet=True, workers=workers)
        retriever = new_retriever(experiment)
        if settings.ranker is None:
            chosen: Any = settings.retriever_training
            return retriever_objective(experiment, retriever), click_loader(experiment, retriever, chosen, 6)
        ranker = new_ranker(experiment, retriever)
        if settings.together is None:
            remember_evidence(experiment, ranker)
            return _click_training(experiment, ranker, retriever)
        stages = new_stages(experiment, retriever, ranker, settings.together.max_per_user)
        loader = click_loader(experiment, retriever, settings.together, experiment.history_length)
        return together_objective(experiment, stages), loader

    return made


RECIPE_SYSTEMS = {name: _system(name, *chosen) for name, chosen in _RECIPES.items()}
