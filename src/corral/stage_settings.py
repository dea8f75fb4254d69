"""What a recipe may say of the two stages: models, and how each, or both together, are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from corral.evidence_settings import (
    AsOfSettings,
    BehaviourSettings,
    EvidenceSettings,
    LinearSettings,
    RarSettings,
    SimilarRowsSettings,
)
from corral.training_settings import SampledTrainingSettings, SamplerName, Strict


class PopularitySettings(Strict):
    """Items by their train counts; nothing is learned."""

    kind: Literal["popularity"] = "popularity"


class MatrixFactorizationSettings(Strict):
    """One vector per user and per item."""

    kind: Literal["mf"] = "mf"
    size: int = Field(64, ge=1)
    user_dropout: float = Field(0.05, ge=0, lt=1)


class TwoTowerSettings(Strict):
    """Ids, features and history of the user against id and features of the item."""

    kind: Literal["two-tower"] = "two-tower"
    size: int = Field(64, ge=1)
    hidden: tuple[int, ...] = (128,)
    dropout: float = Field(0.1, ge=0, lt=1)
    history_length: int = Field(50, ge=1)
    user_id: bool = True
    item_id: bool = True


class GRU4RecSettings(Strict):
    """A recurrent net over the history."""

    kind: Literal["gru4rec"] = "gru4rec"
    size: int = Field(64, ge=1)
    hidden: int = Field(128, ge=1)
    layers: int = Field(1, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(50, ge=2)


class SASRecSettings(Strict):
    """A causal transformer over the history."""

    kind: Literal["sasrec"] = "sasrec"
    size: int = Field(64, ge=1)
    blocks: int = Field(2, ge=1)
    heads: int = Field(1, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(50, ge=2)
    item_std: float = Field(0.0, ge=0, description="of item vectors at the start; 0: 1 / sqrt(size)")


class OwnRetrieverSettings(Strict):
    """A retriever of one's own, which only Python can give: ``corral.TwoStage(..., retriever=...)``."""

    kind: Literal["own"] = "own"
    name: str = Field("", description="of what was given, for people")
    history_length: int = Field(50, ge=0, description="the longest history that it is given; 0: none")


RetrieverSettings = Annotated[
    PopularitySettings
    | MatrixFactorizationSettings
    | TwoTowerSettings
    | GRU4RecSettings
    | SASRecSettings
    | OwnRetrieverSettings,
    Field(discriminator="kind"),
]


class RetrieverTrainingSettings(SampledTrainingSettings):
    """How stage 1 is trained."""

    loss: Literal["full-softmax", "sampled-softmax", "in-batch", "bce"] = "full-softmax"
    num_negatives: int = Field(100, ge=1)
    certain: bool = Field(False, description="sampled-softmax: the clicked item counts as present, not as drawn")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


# What a ranker made of fields and a CTR model may read besides.
RANKER_INPUTS = ("evidence", "linear", "as_of", "rar", "behaviour", "similar_rows")


class RankerSettings(Strict):
    """A CTR model on the fields of user, item, context and history."""

    kind: Literal[
        "lr",
        "fm",
        "deepfm",
        "dcnv2",
        "autoint",
        "fibinet",
        "xdeepfm",
        "masknet",
        "finalmlp",
        "din",
        "dien",
        "bst",
        "eta",
        "sdim",
        "own-ctr-model",
        "own-ranker",
    ] = "din"
    name: str = Field("", description="own-ctr-model, own-ranker: of what was given in Python, for people")
    field_size: int = Field(32, ge=1)
    history_length: int = Field(50, ge=1)
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = Field(0.1, ge=0, lt=1)
    batch_norm: bool = Field(False, description="batch normalisation in the MLP, where there is one")
    attention_size: int | None = Field(
        None,
        ge=1,
        description="din, eta, sdim: compare candidate and history in this many dimensions; null: in all; "
        "autoint, bst: size of a head; null: of a field, of a slot over heads",
    )
    heads: int = Field(2, ge=1, description="autoint, bst: attention heads; finalmlp: of the bilinear form")
    layers: int = Field(3, ge=1, description="autoint: interacting layers")
    bilinear: Literal["all", "each", "interaction"] = Field(
        "interaction", description="fibinet: one matrix for all, for each field, or for each pair of fields"
    )
    cin: tuple[int, ...] = Field((16, 16), min_length=1, description="xdeepfm: feature maps of each CIN layer")
    blocks: int = Field(3, ge=1, description="masknet: mask blocks")
    block_size: int = Field(64, ge=1, description="masknet: width of a block")
    parallel: bool = Field(True, description="masknet: blocks side by side under the MLP, or one upon the other")
    gating: bool = Field(True, description="finalmlp: gates by context and by item before the two streams")
    state_size: int | None = Field(
        None, ge=1, description="dien: size of the recurrent states; null: of a history slot; cost grows by its square"
    )
    nearest: int = Field(10, ge=1, description="eta: items of the history that the hash finds and attention reads")
    recent: int = Field(10, ge=1, description="eta, sdim: latest items that attention reads in any case")
    bits: int = Field(48, ge=1, description="eta, sdim: of the hash; sdim: a multiple of width")
    width: int = Field(3, ge=1, le=10, description="sdim: bits that must all agree for two items to share a bucket")
    id_dropout: float = Field(0.05, ge=0, lt=1)
    embedding_dropout: float = Field(0.0, ge=0, lt=1)
    user_id: bool = Field(True, description="whether the user's id is a field")
    evidence: EvidenceSettings | None = None
    linear: LinearSettings | None = None
    as_of: AsOfSettings | None = None
    rar: RarSettings | None = None
    behaviour: BehaviourSettings | None = None
    similar_rows: SimilarRowsSettings | None = None

    @model_validator(mode="after")
    def _buckets(self) -> RankerSettings:
        if self.kind == "sdim" and self.bits % self.width:
            raise ValueError(f"kind=sdim: bits={self.bits} must be a multiple of width={self.width}")
        return self

    @model_validator(mode="after")
    def _own_ranker_reads_for_itself(self) -> RankerSettings:
        given = [name for name in RANKER_INPUTS if getattr(self, name) is not None]
        if self.kind == "own-ranker" and given:
            raise ValueError(f"kind=own-ranker reads what it likes, and nothing of ranker.{given[0]}: set it to null")
        return self


class RankerTrainingSettings(SampledTrainingSettings):
    """How stage 2 is trained.

    ``clicks``: log loss on the events' own labels (``label_at_least`` of the value column), on impressions, or on
    ``sampled_negatives`` where the log holds positives only.
    ``softmax`` and ``bce``: the clicked item against ``num_negatives`` sampled ones.
    """

    loss: Literal["softmax", "bce", "clicks"] = "softmax"
    certain: bool = Field(False, description="softmax: the clicked item counts as present, not as drawn")
    noisy_scores: bool = Field(False, description="the finished retriever keeps its dropout while the ranker trains")
    label_at_least: float | None = None
    sampled_negatives: int = Field(
        0,
        ge=0,
        description="clicks: so many items with label 0 for each click, in every part, by train events before it, none "
        "that the user had in train; 0: none",
    )
    sampled_negatives_seed: int = Field(0, ge=0, description="of these draws; the run's own seed does not change them")
    max_per_user: int = Field(
        0, ge=0, description="train on at most so many events a user (or window of a sequence) and epoch; 0: all"
    )
    exposure_head: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="clicks: weight of a second head's loss, whether the pair was exposed; 0: none. RAR's control: "
        "its exposure label without its neighbours",
    )

    @model_validator(mode="before")
    @classmethod
    def _clicks_watch_auc(cls, given: Any) -> Any:
        """Where the recipe names no metric, one that validation gives."""
        if isinstance(given, dict) and given.get("loss") == "clicks":
            return {"metric": "auc", **given}
        return given

    @model_validator(mode="after")
    def _negatives_of_clicks(self) -> RankerTrainingSettings:
        if self.sampled_negatives and self.loss != "clicks":
            raise ValueError(
                f"sampled_negatives are labelled examples, for loss=clicks; loss={self.loss} draws num_negatives itself"
            )
        if self.exposure_head and self.loss != "clicks":
            raise ValueError(f"exposure_head={self.exposure_head} goes with loss=clicks, not {self.loss}")
        return self


class TogetherSettings(SampledTrainingSettings):
    """How both stages are trained at once; replaces retriever_training and ranker_training."""

    refresh_every: int = Field(0, ge=0, description="steps between refreshes of the sampler; 0: once an epoch")
    max_per_user: int = Field(
        0,
        ge=0,
        description="the ranker trains on at most so many positions of a sequence; other retrievers: both stages on "
        "at most so many events a user and epoch; 0: all",
    )
    warm_start: bool = Field(False, description="train the retriever alone first, by retriever_training")


class CorrSettings(TogetherSettings):
    """CoRR: negatives from the live retriever, which learns from the ranker by distillation."""

    kind: Literal["corr"] = "corr"
    sampler: SamplerName = "midx"
    distillation: float = Field(1.0, ge=0, description="weight of the distillation; 0: none")
    distillation_start: int = Field(0, ge=0, description="steps without it")
    distillation_ramp: int = Field(0, ge=0, description="steps in which its weight climbs")
    temperature: float = Field(1.0, gt=0)
    certain_retriever: bool = Field(False, description="the retriever's loss takes the clicked item as present")
    certain_ranker: bool = Field(False, description="the same for the ranker's loss")
    full_softmax: bool = Field(False, description="the retriever's click loss over the whole catalogue")
    clean_teacher: bool = Field(False, description="a second pass without dropout gives the teacher's logits")
    only_better_teacher: bool = Field(False, description="distil only where the ranker beats the retriever")
    alternating: bool = Field(False, description="the stages take turns, a step each")
    shared_table: bool = Field(
        False, description="both stages share one item table, through which gradients leak; for measuring"
    )


class IccSettings(TogetherSettings):
    """ICC: one loss on a soft chain of both stages (Gallagher et al., WSDM 2019)."""

    kind: Literal["icc"] = "icc"
    gate_depth: int = Field(10, ge=1)
    gate_temperature: float = Field(1.0, gt=0)


class RankFlowSettings(TogetherSettings):
    """RankFlow: epochs of learning from data and from the next stage (Qin et al., SIGIR 2022)."""

    kind: Literal["rankflow"] = "rankflow"
    refresh_every: Literal[0] = Field(0, description="its two kinds of epochs change at the refresh: once an epoch")
    best: int = Field(10, ge=1)
    order_weight: float = Field(0.5, ge=0, le=1)


class LcronSettings(TogetherSettings):
    """An LCRON-style end-to-end surrogate (arXiv 2503.09492)."""

    kind: Literal["lcron"] = "lcron"
    depth_retriever: int = Field(10, ge=1)
    depth_ranker: int = Field(1, ge=1)
    sort_temperature: float = Field(1.0, gt=0)
    rejection: float = Field(0.0, ge=0)


Together = Annotated[CorrSettings | IccSettings | RankFlowSettings | LcronSettings, Field(discriminator="kind")]
