"""The data sets and systems of the peers' benchmark, the sizes that all models of a kind share, and the goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corr_systems import DATASETS as EVENT_DATA
from corr_systems import LAST_TWO
from rar_systems import DATASETS as CLICK_DATA
from rar_systems import RECIPE as CLICK_RECIPE

EVENT_RECIPE = "amazon-beauty-sasrec"
# RecBole's published sizes of SASRec. ``batch`` counts sequences, ``prefixes`` the examples of those who cut them up:
# about as many predictions a step.
EVENT_SETTINGS: Mapping[str, Any] = {
    "size": 64,
    "blocks": 2,
    "heads": 2,
    "dropout": 0.5,
    "length": 50,
    "hidden": [128],
    "negatives": 100,
    "batch": 128,
    "prefixes": 2048,
    "learning_rate": 0.001,
    "epochs": 30,
    "patience": 5,
}
# The sizes of our recipe of clicks; the last four are ETA's, which reads long histories.
CLICK_SETTINGS: Mapping[str, Any] = {
    "size": 16,
    "length": 30,
    "hidden": [64, 32],
    "attention_hidden": [32, 16],
    "dropout": 0.2,
    "batch": 512,
    "learning_rate": 0.001,
    "epochs": 20,
    "patience": 2,
    "long_length": 100,
    "nearest": 10,
    "recent": 10,
    "bits": 48,
}


@dataclass(frozen=True)
class Data:
    """One data set.

    Attributes:
        overrides: of the recipe.
        clicks: whether click probabilities are asked for, not lists.
        changes: of the settings that all share.
    """

    overrides: tuple[str, ...]
    clicks: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """The recipe of ours."""
        return CLICK_RECIPE if self.clicks else EVENT_RECIPE

    @property
    def settings(self) -> dict[str, Any]:
        """What all models share here."""
        return {**(CLICK_SETTINGS if self.clicks else EVENT_SETTINGS), **self.changes}


# Small data want more steps than these batches give in so few epochs.
SMALL_BATCH = {"batch": 32, "prefixes": 512}
DATASETS: dict[str, Data] = {
    "amazon-beauty-7core": Data(EVENT_DATA["amazon-beauty-7core"].overrides, changes=SMALL_BATCH),
    "ml-100k-clicks": Data(CLICK_DATA["ml-100k"].overrides, clicks=True),
    "ml-100k": Data(EVENT_DATA["ml-100k"].overrides, changes=SMALL_BATCH),
    "amazon-beauty": Data(EVENT_DATA["amazon-beauty"].overrides),
    "ml-1m": Data(("data.name=ml-1m", "data.min_item_events=5", LAST_TWO), changes={"length": 200, "dropout": 0.2}),
    "amazon-sports": Data(EVENT_DATA["amazon-sports"].overrides),
    "online-retail": Data(EVENT_DATA["online-retail"].overrides),
}
# By peer: systems that give lists, and systems that give click probabilities.
SYSTEMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "corral": (("sasrec", "two-tower", "lightgbm"), ("din", "dcnv2", "eta")),
    "recbole": (("sasrec",), ("din",)),
    "rectools": (("sasrec", "sasrec-catboost"), ()),
    "fuxictr": ((), ("din", "dcnv2", "eta")),
    "torch_rechub": (("two-tower",), ("din",)),
    "implicit": (("als",), ()),
}
WHAT = {
    "corral/two-tower": "a tower for the user (id, mean of the history) and one for the item; softmax over all items",
    "corral/lightgbm": "LightGBM over our SASRec's 100 candidates, with co-visitation",
    "rectools/sasrec-catboost": "CandidateRankingModel: SASRec and TF-IDF kNN, re-ranked by CatBoost",
    "torch_rechub/two-tower": "YoutubeDNN: a tower for the user, a plain embedding for the item; softmax over the "
    "clicked item and the shared number of random ones, drawn once",
}


@dataclass(frozen=True)
class Goal:
    """What ours should reach against the same model of a peer.

    Attributes:
        peer: whose.
        metric: of both rows.
        factor: ours / the peer's, or, where less is better, the peer's / ours.
        less: whether less is better.
        systems: of both; empty: all that both have.
    """

    peer: str
    metric: str
    factor: float
    less: bool = False
    systems: tuple[str, ...] = ()


GOALS = (
    Goal("recbole", "examples_per_second", 3),
    Goal("fuxictr", "examples_per_second", 2),
    Goal("torch_rechub", "examples_per_second", 2),
    Goal("recbole", "evaluation_seconds", 10, less=True, systems=("sasrec",)),
    *(Goal(peer, "peak_mb", 2, less=True) for peer in SYSTEMS if peer != "corral"),
)
