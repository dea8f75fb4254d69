"""OwnParts: parts of one's own, given in Python where a recipe would name one of corral's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from corral.data.features import FeatureTable
from corral.sampling.sampler import Sampler
from corral.settings import Settings
from corral.stage_settings import OwnRetrieverSettings
from corral.training_settings import SampledTrainingSettings

# What settings and bundles call them.
OWN_RETRIEVER, OWN_SAMPLER = "own", "own"
OWN_CTR_MODEL, OWN_RANKER = "own-ctr-model", "own-ranker"
OWN_RANKERS = (OWN_CTR_MODEL, OWN_RANKER)

# From the features by user row and by item row (``rows`` says how many there are) to a module, untrained.
MakeModel = Callable[[FeatureTable, FeatureTable], nn.Module]
# As a ``CtrModel`` is built: (field_size, num_context_fields, num_item_fields, *, num_extra).
MakeCtrModel = Callable[..., Any]
# From the item rows of the catalogue [M] and their train events [M].
MakeSampler = Callable[[Tensor, Tensor], Sampler]


@dataclass(frozen=True)
class OwnParts:
    """Functions that make parts, called again whenever a run goes on or a bundle is opened.

    A bundle holds weights and no code: whoever opens it gives the same functions.

    Attributes:
        retriever: makes a :class:`~corral.retrieval.retriever.Retriever`.
        ctr_model: makes a :class:`~corral.ranking.ctr.ctr_model.CtrModel`, most simply its class. One with
            ``uses_history`` that is enriched by RAR is also given ``num_history_fields``.
        ranker: makes a :class:`~corral.ranking.ranker.Ranker`, a module.
        sampler: makes a :class:`~corral.sampling.sampler.Sampler`, a module.
    """

    retriever: MakeModel | None = None
    ctr_model: MakeCtrModel | None = None
    ranker: MakeModel | None = None
    sampler: MakeSampler | None = None

    def check(self, settings: Settings) -> None:
        """Whether all that the settings call a part of one's own is here, and the other way round.

        Raises:
            ValueError: a part is missing, or would never be used.
        """
        ranker = None if settings.ranker is None else settings.ranker.kind
        trainings = (settings.together, settings.retriever_training, settings.ranker_training)
        sampled = any(isinstance(one, SampledTrainingSettings) and one.sampler == OWN_SAMPLER for one in trainings)
        for name, asked in (
            ("retriever", isinstance(settings.retriever, OwnRetrieverSettings)),
            ("ctr_model", ranker == OWN_CTR_MODEL),
            ("ranker", ranker == OWN_RANKER),
            ("sampler", sampled),
        ):
            given = getattr(self, name)
            if asked and given is None:
                raise ValueError(_missing(name))
            if given is not None and not asked:
                where = "together.sampler=own" if name == "sampler" else f"its kind in the settings: own ({name})"
                raise ValueError(f"{name}={part_name(given)}: the settings do not ask for it; say so by {where}")

    def new_retriever(self, users: FeatureTable, items: FeatureTable) -> nn.Module:
        """The retriever, untrained."""
        return _given(self.retriever, "retriever")(users, items)

    def new_ranker(self, users: FeatureTable, items: FeatureTable) -> nn.Module:
        """The whole ranker, untrained."""
        return _given(self.ranker, "ranker")(users, items)

    def new_sampler(self, catalogue: Tensor, counts: Tensor) -> Sampler:
        """The sampler over item rows [M] with their train events [M]."""
        return _given(self.sampler, "sampler")(catalogue, counts)

    def ctr_model_class(self) -> MakeCtrModel:
        """What makes the CTR model."""
        return _given(self.ctr_model, "ctr_model")


NO_PARTS = OwnParts()


def part_name(make: object) -> str:
    """What people call a part: the name of its class or function, also behind ``functools.partial``."""
    make = getattr(make, "func", make)
    return getattr(make, "__name__", type(make).__name__)


def _missing(name: str) -> str:
    return (
        f"the {name} is one of somebody's own, whose code no file holds: give it in Python, "
        f"corral.TwoStage(..., {name}=...) or corral.TwoStage.load(..., {name}=...)"
    )


def _given(make: Any, name: str) -> Any:
    if make is None:
        raise ValueError(_missing(name))
    return make
