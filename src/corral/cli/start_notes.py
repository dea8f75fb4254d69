"""What people should know before a run trains: what is left aside of the data, and settings that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator

from corral.data.dataset import Dataset
from corral.data.split import Split
from corral.settings import Settings
from corral.training_settings import SampledTrainingSettings

_SAMPLING = ("sampler", "num_negatives", "num_codewords", "depth", "certain")


def start_notes(settings: Settings, dataset: Dataset, split: Split) -> list[str]:
    """Notes on a run, one line each."""
    notes = [split.warning] if split.warning else []
    if dataset.events.part is not None and settings.split.rule != "given":
        notes.append(
            f"the data bring a split of their own, which split.rule={settings.split.rule} leaves aside; "
            "split.rule=given takes it"
        )
    if dataset.impressions is not None and not _from_clicks(settings):
        notes.append(
            f"the {len(dataset.impressions):,} impressions that were not clicked are left aside: a ranker with "
            "ranker_training.loss=clicks reads them"
        )
    notes += [f"nothing reads {name}: {reason}" for name, reason in unread_settings(settings)]
    return notes


def unread_settings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings that are not the default and that no training of the run reads, and why."""
    together, ranker = settings.together, settings.ranker_training
    if together is None or together.warm_start:
        retriever = settings.retriever_training
        sampled = retriever.loss in ("sampled-softmax", "bce")
        yield from _of_sampler("retriever_training", retriever, None if sampled else f"loss={retriever.loss}")
    elif settings.retriever_training != type(settings.retriever_training)():
        yield "retriever_training", "together trains the retriever (together.warm_start trains it alone first)"
    if together is not None:
        yield from _of_sampler("together", together, None)
        if ranker != type(ranker)():
            yield "ranker_training", "together trains the ranker"
    elif settings.ranker is None:
        if ranker != type(ranker)():
            yield "ranker_training", "there is no ranker"
    else:
        yield from _of_sampler("ranker_training", ranker, "loss=clicks" if ranker.loss == "clicks" else None)
        if ranker.loss != "clicks" and ranker.label_at_least is not None:
            yield "ranker_training.label_at_least", f"loss={ranker.loss} takes every event for a click"


def _from_clicks(settings: Settings) -> bool:
    return settings.together is None and settings.ranker is not None and settings.ranker_training.loss == "clicks"


def _of_sampler(stage: str, training: SampledTrainingSettings, unsampled: str | None) -> Iterator[tuple[str, str]]:
    """What a training without sampled items, or with another sampler, does not read; ``unsampled``: why it has none."""
    changed = [
        name
        for name in _SAMPLING
        if name in type(training).model_fields and getattr(training, name) != type(training).model_fields[name].default
    ]
    for name in changed:
        if unsampled is not None:
            yield f"{stage}.{name}", unsampled
        elif (name == "num_codewords" and training.sampler != "midx") or (
            name == "depth" and not training.sampler.startswith("top-k")
        ):
            yield f"{stage}.{name}", f"sampler={training.sampler}"
