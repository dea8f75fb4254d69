"""What of a recipe runs on several workers, and the parts of a training there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from corral.evaluation.turns import by_turns
from corral.scale.sharded_embedding import whole_tables
from corral.scale.workers import Workers
from corral.settings import Settings
from corral.stage_settings import CorrSettings, RetrieverTrainingSettings
from corral.training_settings import SampledTrainingSettings

RETRIEVERS = ("mf", "two-tower", "gru4rec", "sasrec")
SAMPLERS = ("uniform", "popularity", "midx")


def check_scalable(settings: Settings) -> None:
    """Whether these settings mean the same on several workers.

    Raises:
        ValueError: they would not; the message names the setting.
    """
    faults = list(_faults(settings))
    if faults:
        raise ValueError("scale.workers: not on several workers yet: " + "; ".join(faults))


def _faults(settings: Settings) -> Iterator[str]:
    if settings.continues is not None:
        yield f"continues={settings.continues} (corral train --from)"
    if settings.retriever.kind not in RETRIEVERS:
        yield f"retriever.kind={settings.retriever.kind} (known are {', '.join(RETRIEVERS)})"
    ranker, together = settings.ranker, settings.together
    if ranker is not None:
        if ranker.kind.startswith("own"):
            yield f"ranker.kind={ranker.kind}"
    trainings: Mapping[str, SampledTrainingSettings | None] = {
        "retriever_training": settings.retriever_training if together is None or together.warm_start else None,
        "ranker_training": settings.ranker_training if together is None and ranker is not None else None,
        "together": together,
    }
    if together is not None and not isinstance(together, CorrSettings):
        yield f"together.kind={together.kind}"
    if isinstance(together, CorrSettings) and together.shared_table:
        yield "together.shared_table=true"
    for name, chosen in trainings.items():
        if chosen is None:
            continue
        full = getattr(chosen, "full_softmax", False) or getattr(chosen, "loss", "") == "full-softmax"
        if isinstance(chosen, RetrieverTrainingSettings) and chosen.loss == "in-batch":
            yield f"{name}.loss=in-batch (a share lacks the other shares' items)"
        elif chosen.sampler not in SAMPLERS and not (full and isinstance(chosen, RetrieverTrainingSettings)):
            yield f"{name}.sampler={chosen.sampler} (known are {', '.join(SAMPLERS)})"


@contextmanager
def judging(workers: Workers | None, model: nn.Module | None = None) -> Iterator[None]:
    """Evaluation by turns inside, with whole copies of the tables of ``model``; one process judges alone."""
    if workers is None:
        yield
    elif model is None:
        with by_turns(workers):
            yield
    else:
        with whole_tables(model), by_turns(workers):
            yield
