"""check_targets, check_labels, check_snapshots: what the data do not allow is refused before any training"""

from __future__ import annotations

from collections.abc import Callable

from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.split import Part, Split
from corral.data.targets import has_targets
from corral.settings import Settings, check_teacher


def check_targets(settings: Settings, dataset: Dataset, split: Split) -> None:
    """Whether there are targets wherever a run needs some: on test, and on validation where it chooses by them.

    Raises:
        ValueError: a part has none; the message names the data and what to set.
    """
    # Popularity alone is not trained; a ranker, whatever it learns from, gets its mixture on validation.
    chooses = settings.ranker is not None or settings.retriever.kind != "popularity"
    repeats = settings.split.repeats
    for part, name in ((Part.VALID, "validation"), (Part.TEST, "test")):
        if (part is Part.VALID and not chooses) or has_targets(dataset, split, part, repeats=repeats):
            continue
        source, n = settings.data.path or dataset.name, len(split.rows(part))
        if n == 0:
            raise ValueError(
                f"{source}: the split {split.name} leaves no {name} events: choose another split.rule, or more events"
            )
        longer = f", or a longer split.{part.name.lower()}_fraction" if split.name in ("time-cut", "random") else ""
        raise ValueError(
            f"{source}: all {n} {name} events repeat what their user had before, which is not counted: "
            f"set split.repeats=true{longer}"
        )


def check_labels(source: object, examples: Callable[[Part], Examples]) -> None:
    """Whether clicks and others are both there where a click model needs them: to learn, and to give probabilities.

    Raises:
        ValueError: a part has labels of one kind; the message names the data and what to set.
    """
    for part, name in ((Part.TRAIN, "train"), (Part.VALID, "validation")):
        labels = examples(part).label
        clicks = int((labels > 0).sum())
        if clicks in (0, len(labels)):
            raise ValueError(
                f"{source}: {clicks} of the {len(labels)} {name} labels are clicks, and both kinds are needed: choose "
                "another ranker_training.label_at_least, or another split"
            )


def check_snapshots(settings: Settings, dataset: Dataset) -> None:
    """The rule that RAR takes from the data is known only now.

    Raises:
        ValueError: the teacher of a joint training would see more by it than the learner.
    """
    together, rar = settings.together, None if settings.ranker is None else settings.ranker.rar
    if together is not None and rar is not None:
        check_teacher(together, rar.rule_of(has_time=dataset.header.time_unit != "order"))
