"""The held-out correction of an experiment's ranker: fitted on validation lists or clicks, and noted in the run."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import of_events, validation_queries
from corral.cli.retriever_stage import served_channel
from corral.cli.run_files import CORRECTION_FILE, write_text
from corral.data.batches import Query
from corral.data.split import Part
from corral.evaluation.click_correction import fit_click_correction
from corral.evaluation.correction import METRIC, Correction, fit_correction
from corral.ranking.evidence import EvidenceRanker
from corral.rar.ranker import RarRanker
from corral.retrieval.evaluation_mode import evaluation_mode

# Clicks that it is fitted on, at most: forty weights need no more.
_EVENTS = 1 << 18


def _corrected_clicks(experiment: Experiment, ranker: nn.Module, inner: EvidenceRanker) -> Correction:
    """By the labels of validation events: of all, or of so many by chance."""
    examples = experiment.examples(Part.VALID)
    chosen = np.arange(len(examples))
    if len(chosen) > _EVENTS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _EVENTS, replace=False))

    def read(query: Query, items: Tensor) -> Tensor:
        return torch.cat([ranker(query, items)[..., None], cast(Tensor, inner.inputs(query, items))], -1)

    with evaluation_mode(ranker):
        known = of_events(experiment, Part.VALID, read, (1 + len(inner.correction.weight),), chosen)
    return fit_click_correction(known[:, 0], known[:, 1:], examples.label[chosen], np.asarray(examples.user)[chosen])


def correct(experiment: Experiment, retriever: nn.Module, ranker: nn.Module) -> None:
    """Fits the ranker's correction on validation, where the recipe wants one; kept only where it helps."""
    inner = ranker.ranker if isinstance(ranker, RarRanker) else ranker
    settings = experiment.settings.evaluation
    if not settings.correction or not isinstance(inner, EvidenceRanker):
        return
    linear, inputs = experiment.settings.ranker and experiment.settings.ranker.linear, experiment.inputs
    if linear and linear.late and inputs is not None:
        inner.read_late(inputs.evidence["linear"])
        inner.to(experiment.device)
    if not len(inner.correction.weight):  # it reads no evidence
        return
    if experiment.has_clicks:
        found = _corrected_clicks(experiment, ranker, inner)
    else:
        found = fit_correction(
            validation_queries(experiment),
            served_channel(experiment, retriever),
            ranker,
            inner.inputs,
            num_candidates=settings.num_candidates,
            batch_size=settings.batch_size,
            device=experiment.device,
        )
    if found.helps:
        inner.correction.set(found.scale, found.weight, found.level)
    written = {
        "metric": "auc" if experiment.has_clicks else METRIC,
        "before": found.before,
        "after, cross-validated": found.after,
        "likelier, nats": found.likelier,
        "used": found.helps,
    }
    if experiment.writes:
        write_text(experiment.directory / CORRECTION_FILE, json.dumps({**written, "scale": float(found.scale)}))
