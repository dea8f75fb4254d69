"""What a recipe may say of the two stages: models, and how each, or both together, are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SamplerName = Literal["uniform", "popularity", "in-batch", "midx", "softmax", "top-k", "top-k-random"]


class Strict(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


RetrieverSettings = Annotated[
    PopularitySettings | MatrixFactorizationSettings | TwoTowerSettings | GRU4RecSettings | SASRecSettings,
    Field(discriminator="kind"),
]


class TrainingSettings(Strict):
    """How one stage is trained."""

    epochs: int = Field(20, ge=0)
    batch_size: int = Field(256, ge=1, description="sequences (causal retrievers) or events per step")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_norm: float = Field(5.0, ge=0, description="gradients are clipped to this joint norm; 0: off")
    warmup_steps: int = Field(0, ge=0)
    low_precision: bool = Field(False, description="matrix products of training in bfloat16")
    cosine: bool = Field(False, description="let the learning rate fall along a half cosine")
    patience: int = Field(5, ge=0, description="validations without improvement before stopping; 0: never")
    metric: str = "ndcg@10"
    validate_every: int = Field(1, ge=1)
    validation_queries: int = Field(20_000, ge=1, description="at most so many queries per validation")
    checkpoint_seconds: float = Field(60.0, gt=0)


class SampledTrainingSettings(TrainingSettings):
    """A training against sampled items."""

    sampler: SamplerName = "uniform"
    num_negatives: int = Field(20, ge=1)
    num_codewords: int = Field(32, ge=1, description="sampler midx: codewords per half")
    depth: int = Field(100, ge=1, description="samplers top-k and top-k-random: k")

    @model_validator(mode="after")
    def _certain_needs_log_q(self) -> Self:
        names = [name for name in ("certain", "certain_retriever", "certain_ranker") if getattr(self, name, False)]
        if names and self.sampler.startswith("top-k"):
            raise ValueError(f"{names[0]}: sampler={self.sampler} has no log-probabilities to correct its draws by")
        return self


class RetrieverTrainingSettings(SampledTrainingSettings):
    """How stage 1 is trained."""

    loss: Literal["full-softmax", "sampled-softmax", "in-batch", "bce"] = "full-softmax"
    num_negatives: int = Field(100, ge=1)
    certain: bool = Field(False, description="sampled-softmax: the clicked item counts as present, not as drawn")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class EvidenceSettings(Strict):
    """What the recall stage knows of history and candidate, as inputs of the ranker; counted on train events."""

    window: int = Field(20, ge=1, description="two items are co-visited if so many events of a user lie between")
    recent: int = Field(10, ge=1, description="latest history items that the candidate is compared with")
    decay: float = Field(0.6, gt=0, le=1, description="weight of each step back, in the sums")
    score: bool = Field(True, description="the retriever's score too, added to the logit with a learned factor")


class LinearSettings(Strict):
    """A linear item-to-item model (EASE) of train events, between history and candidate."""

    regularisation: float = Field(20.0, gt=0, description="about so many users must agree before a weight is large")
    max_items: int = Field(10_000, ge=1, description="items with weights, the most frequent; memory: 4 bytes x square")
    recent: int = Field(5, ge=1, description="latest history items whose weight is an input of its own")
    history_length: int = Field(50, ge=1, description="latest history items that are summed")
    decay: float = Field(0.8, gt=0, le=1, description="weight of each step back, in the decayed sum")
    late: bool = Field(True, description="read by the correction alone (evaluation.correction), not while training")


class AsOfSettings(Strict):
    """Running counts and rates of user, item and the item's categories strictly before each event."""

    rule: Literal["streaming", "train"] | None = Field(
        None, description="which events are looked up: all, as a server would, or train's; null: as the split allows"
    )
    smoothing: float = Field(5.0, gt=0, description="rates are drawn to the prior as by so many events")
    recent: int = Field(8, ge=1, description="latest events of a user whose rate is an input of its own")
    window: float = Field(0.125, gt=0, le=1, description="share of the log that counts as an item's recent past")


class BehaviourSettings(Strict):
    """``rar-plus``: what look-alikes did, beyond the paper; from train events of blocks before the event's own."""

    blocks: int = Field(8, ge=1, description="of train time; the first has nobody to learn from")
    key_size: int = Field(32, ge=1, description="of each of the two vectors of a behaviour profile")
    people: int = Field(100, ge=1, description="latest people who met the candidate")
    history_length: int = Field(100, ge=1, description="latest items of the user that are looked at")
    column: bool = Field(True, description="what people like the user said of the candidate")
    row: bool = Field(True, description="what the user said of items like the candidate, before the event")
    shuffle: bool = Field(False, description="keys of random users and items: the control that must not help")


class SimilarRowsSettings(Strict):
    """Similar rows of earlier blocks with their labels (RIM): another way to use neighbours, to compare with."""

    blocks: int = Field(8, ge=1, description="of train time; rows come from blocks before the event's own")
    key_size: int = Field(32, ge=1, description="of each of the two vectors of a behaviour profile")
    near_items: int = Field(5, ge=0, description="items most like the candidate whose rows are looked at too")
    people: int = Field(50, ge=1, description="latest rows of each of these items")
    rows: int = Field(30, ge=1, description="how many of the rows most alike are kept")
    history_length: int = Field(100, ge=1, description="latest items of the user's profile")


class RarSettings(Strict):
    """Recall-augmented ranking: look-alike users and recall items for any ranker."""

    rule: Literal["blocks", "folds", "static"] = Field("blocks", description="as of when; static is the paper's")
    blocks: int = Field(8, ge=1, description="of train time; what an event sees comes from blocks before its own")
    folds: int = Field(5, ge=2, description="of users; what a train event sees comes from the other folds")
    keys: Literal["profile", "retriever", "live", "own", "features"] = Field(
        "profile",
        description="what is compared: behaviour profiles, a retriever's vectors (one trained a snapshot), those "
        "of the retriever beside the ranker as it stands (chosen anew at each refresh while it trains), the ranker's "
        "own tables (static only), features",
    )
    key_size: int = Field(32, ge=1, description="profile: of each of the two vectors")
    pool: Literal["catalogue", "recalled"] = Field(
        "catalogue", description="recall items from all items, or from what the retriever recalls for the user"
    )
    pool_size: int = Field(100, ge=1, description="recalled: so many items")
    selector: Literal["simhash", "simhash-inner-product", "cosine", "inner-product", "ivf", "hnsw", "random"] = (
        "simhash"
    )
    bits: int = Field(128, ge=1, description="simhash")
    rerank: int = Field(100, ge=0, description="simhash: so many of the best are put in exact order; 0: none")
    look_alikes: int = Field(10, ge=0, description="Ku")
    recall_items: int = Field(10, ge=0, description="Ki")
    tower_size: int = Field(32, ge=1, description="H")
    pooling: Literal["co-interaction", "sum", "mean", "users", "items"] = "co-interaction"
    normalisation: Literal["mean", "sum", "softmax", "sum-to-one"] = "mean"
    zeroed: bool = Field(False, description="the parameters without the information: a control")
    alpha: float = Field(0.9, gt=0, le=1, description="weight of the click loss; the rest is the exposure loss's")
    exposure: Literal["pair", "item"] = "pair"
    positive_weight: float = Field(1.0, gt=0, description="of exposed cells")

    @model_validator(mode="after")
    def _fits(self) -> RarSettings:
        if self.keys == "own" and self.rule != "static":
            raise ValueError("keys=own: the ranker's tables have seen all of train, so the rule must be static")
        if self.pool == "recalled" and self.keys not in ("retriever", "live"):
            raise ValueError(f"pool=recalled asks what a retriever recalls: keys=retriever or live, not {self.keys}")
        if self.pool == "recalled" and self.selector in ("ivf", "hnsw", "random"):
            raise ValueError(f"pool=recalled chooses within a user's own list, which selector={self.selector} cannot")
        return self


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
    ] = "din"
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
        description="clicks: so many items with label 0 for each click, in every part, by train counts, none that the "
        "user had in train; 0: none",
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
