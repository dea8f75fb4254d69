"""The systems and data sets of the RAR benchmark: one recipe with overrides, and what tuning may choose from."""

from __future__ import annotations

from dataclasses import dataclass

RECIPE = "ml-100k-clicks"
BACKBONES = (
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
)
# Patience ends a training, not this number: bare rankers that learn from ids alone take longest, and one that is cut
# short loses to its own evidence.
PATIENT = ("ranker_training.epochs=60",)
RANDOM = ("split={rule: random}",)
SAMPLED = ("ranker_training.label_at_least=null", "ranker_training.sampled_negatives=4")


@dataclass(frozen=True)
class Data:
    """One data set.

    Attributes:
        overrides: of the recipe.
        seeds: how many paired seeds.
        backbones: which of them run here.
        controls: backbones whose controls run here.
    """

    overrides: tuple[str, ...]
    seeds: int = 5
    backbones: tuple[str, ...] = BACKBONES
    controls: tuple[str, ...] = ()


DATASETS: dict[str, Data] = {
    "ml-100k": Data(("data.name=ml-100k",), controls=("deepfm", "din")),
    "ml-latest-small-2016": Data(("data.name=ml-latest-small-2016",)),
    "lib-sibgmu": Data(("data.name=lib-sibgmu", *SAMPLED)),
    "ml-100k-random": Data(("data.name=ml-100k", *RANDOM), backbones=("deepfm", "dcnv2", "din")),
    "ml-latest-small-2016-random": Data(
        ("data.name=ml-latest-small-2016", *RANDOM), backbones=("deepfm", "dcnv2", "din")
    ),
    "lib-sibgmu-random": Data(("data.name=lib-sibgmu", *SAMPLED, *RANDOM), backbones=("deepfm", "dcnv2", "din")),
    "ml-1m": Data(("data.name=ml-1m",), 3, ("deepfm", "dcnv2", "finalmlp", "din"), ("deepfm", "din")),
    "online-retail": Data(("data.name=online-retail", *SAMPLED), 1, ("deepfm", "dcnv2", "finalmlp", "din")),
}
# Every system reads the same as-of statistics; BACKBONE+plain does not.
AS_OF = ("ranker.as_of={}",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "": AS_OF,
    "+plain": (),
    "+rar": (*AS_OF, "ranker.rar={}"),
    "+rar-plus": (*AS_OF, "ranker.behaviour={}"),
}
# LightGBM reads the same numbers: as-of statistics, and with them what look-alikes did.
GBDT: dict[str, tuple[str, ...]] = {"": AS_OF, "+rar-plus": (*AS_OF, "ranker.behaviour={}")}
CONTROLS: dict[str, tuple[str, ...]] = {
    "+rar-random": (*AS_OF, "ranker.rar={selector: random}"),
    "+rar-zeroed": (*AS_OF, "ranker.rar={zeroed: true}"),
    "+rar-sum": (*AS_OF, "ranker.rar={pooling: sum}"),
    "+rar-users-only": (*AS_OF, "ranker.rar={pooling: users, alpha: 1.0}"),
    "+rar-items-only": (*AS_OF, "ranker.rar={pooling: items, alpha: 1.0}"),
    "+rar-alpha1": (*AS_OF, "ranker.rar={alpha: 1.0}"),
    "+rar-cosine": (*AS_OF, "ranker.rar={selector: cosine}"),
    "+rar-item-exposure": (*AS_OF, "ranker.rar={exposure: item}"),
    # By blocks few rows of a log of short visits have a user who was there before; by these nearly all.
    "+rar-folds": (*AS_OF, "ranker.rar={rule: folds}"),
    "+rar-static": (*AS_OF, "ranker.rar={rule: static}"),
    # Who asks is described by his history at the event: newcomers have look-alikes, too.
    "+rar-event": (*AS_OF, "ranker.rar={as_of_event: true}"),
    "+rar-own-static": (*AS_OF, "ranker.rar={keys: own, rule: static}"),
    "+rar-features": (*AS_OF, "ranker.rar={keys: features}"),
    "+rar-plus-random": (*AS_OF, "ranker.behaviour={shuffle: true}"),
    "+rar-plus-column": (*AS_OF, "ranker.behaviour={row: false}"),
    "+rar-plus-row": (*AS_OF, "ranker.behaviour={column: false}"),
    # The paper's learned matrix beside the observed one.
    "+rar-plus-matched": (*AS_OF, "ranker.rar={}", "ranker.behaviour={}"),
    "+rar-exposure-head": (*AS_OF, "ranker_training.exposure_head=0.1"),
    # Other ways to use neighbours: rows with labels, the user's own history searched (another model, its own settings).
    "+similar-rows": (*AS_OF, "ranker.similar_rows={}"),
    # What a long history brings without a search.
    "+history-100": (*AS_OF, "ranker.history_length=100"),
    "+eta": (*AS_OF, "ranker.kind=eta", "ranker.history_length=100"),
    "+sdim": (*AS_OF, "ranker.kind=sdim", "ranker.history_length=100"),
}
# What the paper does not give: one knob at a time, k = Ku = Ki.
SWEEPS: dict[str, tuple[str, ...]] = {
    **{f"+rar-k{k}": (*AS_OF, f"ranker.rar={{look_alikes: {k}, recall_items: {k}}}") for k in (0, 1, 5, 20, 50)},
    **{f"+rar-alpha{a}": (*AS_OF, f"ranker.rar={{alpha: {a}}}") for a in (0.5, 0.8, 0.95, 0.99)},
    **{f"+rar-bits{m}": (*AS_OF, f"ranker.rar={{bits: {m}, rerank: 0}}") for m in (16, 64, 128, 512)},
    **{f"+rar-blocks{t}": (*AS_OF, f"ranker.rar={{blocks: {t}}}") for t in (2, 32)},
    **{f"+rar-weights-{n}": (*AS_OF, f"ranker.rar={{normalisation: {n}}}") for n in ("sum", "softmax", "sum-to-one")},
    "+rar-recalled": (*AS_OF, "ranker.rar={keys: retriever, pool: recalled}"),
    "+rar-retriever": (*AS_OF, "ranker.rar={keys: retriever}"),
    **{f"+rar-plus-blocks{t}": (*AS_OF, f"ranker.behaviour={{blocks: {t}}}") for t in (2, 4, 16, 32)},
    **{f"+rar-plus-people{k}": (*AS_OF, f"ranker.behaviour={{people: {k}}}") for k in (10, 30, 300)},
    **{f"+rar-plus-history{k}": (*AS_OF, f"ranker.behaviour={{history_length: {k}}}") for k in (10, 30, 300)},
}
# What each backbone may choose from, bare, on the first data set and seed, by validation AUC; RAR takes what it chose.
TRIALS: tuple[tuple[str, ...], ...] = (
    (),
    ("ranker_training.learning_rate=0.003",),
    ("ranker_training.learning_rate=0.0003",),
    ("ranker.embedding_dropout=0.5", "ranker.dropout=0.4"),
    ("ranker.batch_norm=true",),
    ("ranker.id_dropout=0.3",),
)
