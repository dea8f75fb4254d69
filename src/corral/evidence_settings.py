"""What a recipe may say of what a ranker reads beside fields and history: evidence of all kinds, and RAR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from corral.training_settings import Strict


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

    rule: Literal["blocks", "folds", "static"] | None = Field(
        None, description="as of when; static is the paper's; null: blocks where there is time, else folds or static"
    )
    blocks: int = Field(8, ge=1, description="of train time; what an event sees comes from blocks before its own")
    folds: int = Field(5, ge=2, description="of users; what a train event sees comes from the other folds")
    keys: Literal["profile", "retriever", "live", "own", "features"] = Field(
        "profile",
        description="what is compared: behaviour profiles, a retriever's vectors (one trained a snapshot), those "
        "of the retriever beside the ranker as it stands (chosen anew at each refresh while it trains), the ranker's "
        "own tables (static only), features",
    )
    key_size: int = Field(32, ge=1, description="profile: of each of the two vectors")
    as_of_event: bool = Field(
        False,
        description="profile: who asks is described by his history at the event, not by his events of the snapshot: "
        "who came since has look-alikes, too",
    )
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
        if self.keys == "own" and self.rule not in (None, "static"):
            raise ValueError("keys=own: the ranker's tables have seen all of train, so the rule must be static")
        if self.as_of_event and (self.keys != "profile" or self.selector in ("ivf", "hnsw", "random")):
            raise ValueError(
                "as_of_event encodes histories as profiles: keys=profile, and simhash or an exact selector"
            )
        if self.keys == "live" and self.rule == "folds":
            raise ValueError("keys=live: one retriever learns from all folds, so its vectors are never out of fold")
        if self.pool == "recalled" and self.keys not in ("retriever", "live"):
            raise ValueError(f"pool=recalled asks what a retriever recalls: keys=retriever or live, not {self.keys}")
        if self.pool == "recalled" and self.selector in ("ivf", "hnsw", "random"):
            raise ValueError(f"pool=recalled chooses within a user's own list, which selector={self.selector} cannot")
        return self

    def rule_of(self, has_time: bool) -> str:
        """The rule, where the recipe leaves it to the data: what keeps most from a row of what happened later.

        Args:
            has_time: the events' times are more than the order of their rows.
        """
        if self.rule is not None or self.keys == "own":
            return self.rule or "static"
        if has_time:
            return "blocks"
        return "static" if self.keys == "live" else "folds"
