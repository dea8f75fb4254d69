"""The systems and data sets of the CoRR benchmark: shipped recipes with overrides, and what tuning may choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LAST_TWO = "split={rule: leave-last-two-out}"


@dataclass(frozen=True)
class Data:
    """One data set.

    Attributes:
        overrides: of every recipe.
        ranker: of recipes with a ranker.
        training: by phase (retriever_training, ranker_training, together), of recipes that have it.
        finished: the run of bench_foundation (less its seed) that trains the same retriever by the full softmax.
    """

    overrides: tuple[str, ...]
    ranker: tuple[str, ...] = ()
    training: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    finished: str | None = None


SLOW = ("batch_size=64", "learning_rate=0.001", "low_precision=auto")
LONG = ("batch_size=32", "learning_rate=0.001", "low_precision=auto")
# As in the recipes amazon-beauty-sasrec and ml-1m-sasrec.
SLOW_RETRIEVER = (*SLOW, "epochs=16", "warmup_steps=200", "patience=4")
# As many epochs as the retriever has when it is alone.
SLOW_TOGETHER = (*SLOW, "epochs=16")
LONG_RETRIEVER = (*LONG, "epochs=30", "warmup_steps=200", "patience=8")
DATASETS: dict[str, Data] = {
    "amazon-beauty-7core": Data(
        ("data.name=amazon-beauty", "data.min_user_events=7", "data.min_item_events=7", "data.iterate=true", LAST_TWO)
    ),
    "ml-100k": Data(
        ("data.name=ml-100k", "data.min_item_events=5", LAST_TWO),
        training={"ranker_training": ("max_per_user=20",), "together": ("max_per_user=20",)},
    ),
    "amazon-beauty": Data(
        ("data.name=amazon-beauty", LAST_TWO),
        training={"retriever_training": SLOW_RETRIEVER, "ranker_training": SLOW, "together": SLOW_TOGETHER},
        finished="amazon-beauty-sasrec",
    ),
    "ml-1m": Data(
        (
            "data.name=ml-1m",
            "data.min_item_events=5",
            LAST_TWO,
            "retriever.max_length=200",
            "retriever.dropout=0.2",
            "retriever.heads=2",
        ),
        ("ranker.history_length=50",),
        {
            "retriever_training": LONG_RETRIEVER,
            "ranker_training": (*LONG, "max_per_user=8"),
            "together": (*LONG, "max_per_user=8", "epochs=24", "patience=8"),
        },
        "ml-1m-sasrec",
    ),
    "amazon-sports": Data(
        ("data.name=amazon-sports", LAST_TWO),
        training={"retriever_training": SLOW_RETRIEVER, "ranker_training": SLOW, "together": SLOW_TOGETHER},
    ),
    # Another domain: baskets, long histories.
    "online-retail": Data(
        ("data.name=online-retail", LAST_TWO),
        training={"ranker_training": ("max_per_user=8",), "together": ("max_per_user=8",)},
    ),
}
# Ids and history only, as the paper has it; served by the ranker only.
PLAIN = (
    "ranker.evidence=null",
    "ranker.linear=null",
    "evaluation.correction=false",
    "evaluation.serve_by=ranker",
    "ranker.field_size=32",
)
# The form that converges to the full softmax, for everybody who samples.
UNIFORM = (
    "retriever_training.loss=sampled-softmax",
    "retriever_training.certain=true",
    "retriever_training.sampler=uniform",
)
PAPER = ("together.full_softmax=false", "together.certain_retriever=true")
# Recipes that train one stage after the other.
APART_RECIPES = ("independent", "two-stage")


@dataclass(frozen=True)
class System:
    """One line of the table.

    Attributes:
        recipe: shipped.
        overrides: of it.
        retriever_of: the system whose finished retriever is taken: the same training, not done twice.
        trials: sets of overrides that tuning tries beside the plain ones, on one data set and seed.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    retriever_of: str | None = None
    trials: tuple[tuple[str, ...], ...] = ()


# Four settings a system: its recipe as shipped, and three more. Shared sizes: first trials of corr.
DROPPED = ("ranker.embedding_dropout=0.5",)
APART_TRIALS = (DROPPED, ("ranker_training.learning_rate=0.001",))
TOGETHER_TRIALS = (
    DROPPED,
    ("together.learning_rate=0.001",),
    (
        "together.warm_start=true",
        "retriever_training={loss: full-softmax, epochs: 8, batch_size: 16, learning_rate: 0.002, cosine: true}",
    ),
)
MORE_NEGATIVES = ("ranker_training.num_negatives=50",)
SYSTEMS: dict[str, System] = {
    "retriever-full-softmax": System("two-stage", ("ranker=null",)),
    "co-visitation": System("two-stage", ("ranker=null",)),
    "lightgbm": System("two-stage", ("ranker=null",), "retriever-full-softmax"),
    "independent-bce": System(
        "independent",
        ("retriever_training.loss=bce", "ranker_training.loss=bce"),
        trials=(*APART_TRIALS, MORE_NEGATIVES),
    ),
    "independent-softmax": System("independent", UNIFORM, trials=(*APART_TRIALS, MORE_NEGATIVES)),
    "independent-midx": System(
        "independent",
        (*UNIFORM[:2], "retriever_training.sampler=midx"),
        trials=(*APART_TRIALS, MORE_NEGATIVES),
    ),
    "two-stage": System(
        "two-stage", (), "retriever-full-softmax", (*APART_TRIALS, ("ranker_training.sampler=softmax",))
    ),
    "icc": System("icc", trials=TOGETHER_TRIALS),
    "rankflow": System("rankflow", trials=TOGETHER_TRIALS),
    "lcron": System("lcron", trials=TOGETHER_TRIALS),
    "corr": System("corr", trials=TOGETHER_TRIALS),
}
SYSTEMS |= {
    f"{name}-plain": System(
        system.recipe,
        (*system.overrides, *(PAPER if name == "corr" else ()), *PLAIN),
        system.retriever_of or (name if system.recipe in APART_RECIPES else None),
    )
    for name, system in list(SYSTEMS.items())
    if name not in ("retriever-full-softmax", "co-visitation", "lightgbm")
}
ABLATIONS = {
    "no-kd": ("together.distillation=0",),
    "uniform": ("together.sampler=uniform",),
    "in-batch": ("together.sampler=in-batch",),
    "top-k": ("together.sampler=top-k", "together.depth=20"),
    "top-k-random": ("together.sampler=top-k-random",),
    "exact": ("together.sampler=softmax",),
    "k8": ("together.num_codewords=8",),
    "k128": ("together.num_codewords=128",),
    "n100": ("together.num_negatives=100",),
    "exact-positive": (
        "together.full_softmax=false",
        "together.certain_retriever=true",
        "together.certain_ranker=true",
    ),
    "sampled": ("together.full_softmax=false",),
    "shared-table": ("together.shared_table=true", "ranker.field_size=128"),
    "alternating": ("together.alternating=true",),
    "no-evidence": ("ranker.evidence=null", "ranker.linear=null", "evaluation.correction=false"),
    "no-linear": ("ranker.linear=null",),
    "no-correction": ("ranker.linear=null", "evaluation.correction=false"),
    "early-linear": ("ranker.linear.late=false",),
    "no-score": ("ranker.evidence.score=false",),
    "clean-teacher": ("together.clean_teacher=true",),
}
SYSTEMS |= {
    f"corr-{name}": System("corr", (*SYSTEMS["corr"].overrides, *changes)) for name, changes in ABLATIONS.items()
}
# Both papers at once, and its controls; RAR needs a field of users, which corr does without.
RAR = {
    "corr-rar": (),
    "corr-rar-random": ("ranker.rar.selector=random",),
    "corr-rar-zeroed": ("ranker.rar.zeroed=true",),
    "corr-rar-profile": ("ranker.rar.keys=profile",),
    "corr-rar-recalled": ("ranker.rar.pool=recalled",),
    "corr-rar-alpha1": ("ranker.rar.alpha=1",),
    "corr-rar-users": ("ranker.rar=null",),
}
SYSTEMS |= {name: System("corr-rar", changes) for name, changes in RAR.items()}
LADDER = tuple(name for name in SYSTEMS if name.removesuffix("-plain") in SYSTEMS and not name.startswith("corr-"))
LADDER += ("corr-plain",)
# What the held-out correction is worth to the others: the same trainings without it.
UNCORRECTED = tuple(
    f"{name}-no-correction" for name in ("independent-bce", "independent-softmax", "independent-midx", "two-stage")
)
for name in UNCORRECTED:
    one = SYSTEMS[name.removesuffix("-no-correction")]
    SYSTEMS[name] = System(one.recipe, (*one.overrides, *ABLATIONS["no-correction"]), one.retriever_of)
FEW = ("retriever-full-softmax", "independent-midx", "two-stage", "lightgbm", "corr")
# What runs by default, cheapest data first: (data set, systems, seeds).
TIERS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("amazon-beauty-7core", LADDER, 5),
    ("ml-100k", LADDER, 5),
    ("amazon-beauty-7core", tuple(f"corr-{name}" for name in ABLATIONS), 3),
    ("amazon-beauty-7core", UNCORRECTED, 3),
    ("amazon-beauty-7core", tuple(RAR), 1),
    ("online-retail", (*FEW, "corr-rar"), 3),
    ("amazon-beauty", FEW, 3),
    ("ml-1m", FEW, 1),
    ("amazon-sports", ("retriever-full-softmax", "corr"), 1),
)
