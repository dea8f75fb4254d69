"""The systems and data sets of the CoRR benchmark: shipped recipes with overrides, and what tuning may choose from."""

from __future__ import annotations

from dataclasses import dataclass

CORE7 = ("data.name=amazon-beauty", "data.min_user_events=7", "data.min_item_events=7", "data.iterate=true")
LAST_TWO = ("split={rule: leave-last-two-out}",)
LONG = ("retriever.max_length=200", "retriever.dropout=0.2", "retriever.heads=2", "ranker.history_length=50")
DATASETS: dict[str, tuple[str, ...]] = {
    "amazon-beauty-7core": (*CORE7, *LAST_TWO),
    "ml-100k": ("data.name=ml-100k", "data.min_item_events=5", *LAST_TWO),
    "amazon-beauty": ("data.name=amazon-beauty", *LAST_TWO),
    "ml-1m": ("data.name=ml-1m", "data.min_item_events=5", *LAST_TWO, *LONG),
    "amazon-sports": ("data.name=amazon-sports", *LAST_TWO),
}
# Ids and history only, as the paper has it; served by the ranker only.
PLAIN = ("ranker.evidence=null", "evaluation.serve_by=ranker", "ranker.field_size=32")
UNIFORM = ("retriever_training.loss=sampled-softmax", "retriever_training.sampler=uniform")
PAPER = ("together.full_softmax=false", "together.certain_retriever=true")


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


WIDER, SLOWER, DROPPED = (
    ("ranker.field_size=32",),
    ("ranker_training.learning_rate=0.001",),
    ("ranker.embedding_dropout=0.5",),
)
APART = (WIDER, SLOWER, DROPPED, ("ranker_training.noisy_scores=true",), ("ranker_training.certain=true",))
JOINT = (
    WIDER,
    DROPPED,
    ("together.learning_rate=0.001",),
    ("together.max_per_user=0", "together.epochs=10"),
)
SYSTEMS: dict[str, System] = {
    "retriever-full-softmax": System("two-stage", ("ranker=null",)),
    "co-visitation": System("two-stage", ("ranker=null",)),
    "lightgbm": System("two-stage", ("ranker=null",), "retriever-full-softmax"),
    "independent-bce": System(
        "independent", ("retriever_training.loss=bce", "ranker_training.loss=bce"), trials=APART[:4]
    ),
    "independent-softmax": System("independent", UNIFORM, trials=APART),
    "independent-midx": System(
        "independent", (UNIFORM[0], "retriever_training.sampler=midx", "retriever_training.certain=true"), trials=APART
    ),
    "two-stage": System(
        "two-stage",
        (),
        "retriever-full-softmax",
        (
            *APART[:3],
            ("ranker_training.noisy_scores=false",),
            ("ranker_training.sampler=softmax",),
            ("ranker_training.sampler=top-k", "ranker_training.depth=20"),
        ),
    ),
    "icc": System("icc", trials=(*JOINT, ("together.gate_depth=3",))),
    "rankflow": System("rankflow", trials=(*JOINT, ("together.order_weight=1.0",))),
    "lcron": System("lcron", trials=(*JOINT, ("together.rejection=0.1",))),
    "corr": System("corr", trials=(*JOINT, ("together.distillation=0.3",), ("together.num_negatives=100",))),
}
SYSTEMS |= {
    f"{name}-plain": System(
        system.recipe,
        (*system.overrides, *(PAPER if name == "corr" else ()), *PLAIN),
        system.retriever_of or (name if "training" in "".join(system.overrides) or name == "two-stage" else None),
    )
    for name, system in list(SYSTEMS.items())
    if name not in ("retriever-full-softmax", "co-visitation", "lightgbm")
}
ABLATIONS = {
    "no-kd": ("together.distillation=0",),
    "uniform": ("together.sampler=uniform",),
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
    "no-evidence": ("ranker.evidence=null",),
    "no-score": ("ranker.evidence.score=false",),
    "clean-teacher": ("together.clean_teacher=true",),
}
SYSTEMS |= {
    f"corr-{name}": System("corr", (*SYSTEMS["corr"].overrides, *changes)) for name, changes in ABLATIONS.items()
}
LADDER = tuple(name for name in SYSTEMS if name.removesuffix("-plain") in SYSTEMS and not name.startswith("corr-"))
LADDER += ("corr-plain",)
FEW = ("retriever-full-softmax", "independent-midx", "two-stage", "lightgbm", "corr")
# What runs by default, cheapest data first: (data set, systems, seeds).
TIERS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("amazon-beauty-7core", LADDER, 5),
    ("ml-100k", LADDER, 5),
    ("amazon-beauty-7core", tuple(f"corr-{name}" for name in ABLATIONS), 3),
    ("amazon-beauty", FEW, 3),
    ("ml-1m", FEW, 1),
    ("amazon-sports", ("retriever-full-softmax", "corr"), 1),
)
