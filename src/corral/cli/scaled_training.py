"""What of a recipe runs on several workers, and the parts of a training there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from corral.cli.own_parts import OWN_CTR_MODEL, OWN_RANKER, OWN_RETRIEVER, OWN_SAMPLER
from corral.data.whole_batch import in_shares
from corral.evaluation.turns import by_turns
from corral.scale.sharded_embedding import whole_tables
from corral.scale.workers import Workers
from corral.settings import Settings


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
    if settings.retriever.kind == OWN_RETRIEVER:
        yield f"retriever.kind={settings.retriever.kind}"
    if settings.ranker is not None and settings.ranker.kind in (OWN_CTR_MODEL, OWN_RANKER):
        yield f"ranker.kind={settings.ranker.kind}"
    for name in ("retriever_training", "ranker_training", "together"):
        if getattr(getattr(settings, name), "sampler", None) == OWN_SAMPLER:
            yield f"{name}.sampler={OWN_SAMPLER}"


def sharing(workers: Workers | None) -> AbstractContextManager[None]:
    """What is made of all users or items inside, each worker makes of a share of them."""
    return nullcontext() if workers is None else in_shares(workers)


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
