"""Names become classes: the one place where settings are turned into splits, models and samplers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from corral.cli.own_parts import (
    NO_PARTS,
    OWN_CTR_MODEL,
    OWN_RANKER,
    OWN_RANKERS,
    OWN_RETRIEVER,
    OWN_SAMPLER,
    OwnParts,
)
from corral.cli.processor_flags import BFLOAT16, processor_flags
from corral.cli.ranker_inputs import RankerInputs, empty_evidence
from corral.cli.rar_parts import Enrichment
from corral.corr.multi_index_sampler import MultiIndexSampler
from corral.data.dataset import Dataset
from corral.data.features import FeatureTable
from corral.data.split import Split, given, leave_last_two_out, random_split, time_cut
from corral.ranking.ctr.autoint import AutoInt
from corral.ranking.ctr.bst import BST
from corral.ranking.ctr.dcnv2 import DCNV2
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.ctr.dien import DIEN
from corral.ranking.ctr.din import DIN
from corral.ranking.ctr.eta import ETA
from corral.ranking.ctr.fibinet import FiBiNET
from corral.ranking.ctr.finalmlp import FinalMLP
from corral.ranking.ctr.fm import FM
from corral.ranking.ctr.lr import LR
from corral.ranking.ctr.masknet import MaskNet
from corral.ranking.ctr.sdim import SDIM
from corral.ranking.ctr.xdeepfm import XDeepFM
from corral.ranking.evidence import Evidence, EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.joined_evidence import JoinedEvidence
from corral.ranking.ranker import FieldRanker
from corral.retrieval.feature_fields import NumericScale, fit_scales
from corral.retrieval.gru4rec import GRU4Rec
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.popularity import PopularityRetriever
from corral.retrieval.sasrec import SASRec
from corral.retrieval.two_tower import TwoTower
from corral.sampling.exact_softmax import ExactSoftmaxSampler
from corral.sampling.in_batch import InBatchSampler
from corral.sampling.popularity import PopularitySampler
from corral.sampling.sampler import Sampler
from corral.sampling.top_k import TopKRandomSampler, TopKSampler
from corral.sampling.uniform import UniformSampler
from corral.serving.module_spec import ModuleSpec
from corral.serving.serving_tables import ServingTables
from corral.settings import SplitSettings

# Kind -> the class, and which of its keywords are given: settings of the same names, and what the data give.
Parts = tuple[Callable[..., Any], tuple[str, ...]]
_TABLES = ("num_users", "num_items", "user_features", "item_features", "user_scales", "item_scales")
RETRIEVERS: dict[str, Parts] = {
    "popularity": (PopularityRetriever, ("counts",)),
    "mf": (MatrixFactorization, ("num_users", "num_items", "size", "user_dropout", "sparse")),
    "two-tower": (
        TwoTower,
        (*_TABLES, "size", "hidden", "dropout", "history_length", "user_id", "item_id", "sparse"),
    ),
    "gru4rec": (GRU4Rec, ("num_items", "size", "hidden", "layers", "dropout", "max_length", "sparse")),
    "sasrec": (SASRec, ("num_items", "size", "max_length", "blocks", "heads", "dropout", "item_std", "sparse")),
}
_MLP = ("hidden", "dropout", "batch_norm")
# The same for CTR models; every one is also given the sizes of its fields.
CTR_MODELS: dict[str, Parts] = {
    "lr": (LR, ()),
    "fm": (FM, ()),
    "deepfm": (DeepFM, _MLP),
    "dcnv2": (DCNV2, _MLP),
    "autoint": (AutoInt, (*_MLP, "layers", "heads", "attention_size")),
    "fibinet": (FiBiNET, (*_MLP, "bilinear")),
    "xdeepfm": (XDeepFM, (*_MLP, "cin")),
    "masknet": (MaskNet, (*_MLP, "parallel", "blocks", "block_size")),
    "finalmlp": (FinalMLP, (*_MLP, "heads", "gating")),
    "din": (DIN, (*_MLP, "attention_size")),
    "dien": (DIEN, (*_MLP, "state_size")),
    "bst": (BST, (*_MLP, "heads", "attention_size", "history_length")),
    "eta": (ETA, (*_MLP, "attention_size", "nearest", "recent", "bits")),
    "sdim": (SDIM, (*_MLP, "attention_size", "recent", "bits", "width")),
}


def make_split(dataset: Dataset, settings: SplitSettings) -> Split:
    """The split a recipe asks for."""
    if settings.rule == "time-cut":
        return time_cut(
            dataset, settings.valid_fraction, settings.test_fraction, settings.valid_from, settings.test_from
        )
    if settings.rule == "random":
        return random_split(dataset, settings.valid_fraction, settings.test_fraction, seed=settings.seed)
    return leave_last_two_out(dataset) if settings.rule == "leave-last-two-out" else given(dataset)


def make_sampler(
    kind: str,
    catalogue: Tensor,
    counts: Tensor,
    *,
    size: int,
    num_codewords: int,
    depth: int,
    seed: int,
    own: OwnParts = NO_PARTS,
) -> Sampler:
    """A sampler over the catalogue.

    Args:
        kind: its name in the settings.
        catalogue: item rows [M].
        counts: train events by item row.
        size: D, of the retriever's vectors.
        num_codewords: of midx.
        depth: k of top-k and top-k-random.
        seed: of what the sampler itself draws.
        own: where the sampler ``own`` comes from.
    """
    if kind == OWN_SAMPLER:
        return own.new_sampler(catalogue, counts[catalogue])
    if kind == "popularity":
        return PopularitySampler(catalogue, counts[catalogue])
    if kind == "midx":
        return MultiIndexSampler(catalogue, size=size, num_codewords=num_codewords, seed=seed)
    if kind == "in-batch":
        return InBatchSampler(catalogue)
    if kind == "softmax":
        return ExactSoftmaxSampler(catalogue, size=size)
    if kind == "top-k":
        return TopKSampler(catalogue, size=size, k=depth)
    if kind == "top-k-random":
        return TopKRandomSampler(catalogue, size=size, k=depth)
    return UniformSampler(catalogue)


def scale_specs(dataset: Dataset, split: Split) -> dict[str, dict[str, list[float]]]:
    """How numeric features are standardised, from users and items of train events: JSON values for a bundle."""
    train = split.part == 0
    tables = {
        "user_scales": (dataset.user_features, dataset.events.user),
        "item_scales": (dataset.item_features, dataset.events.item),
    }
    return {
        key: {name: [s.shift, s.scale] for name, s in fit_scales(table, np.asarray(rows[train])).items()}
        for key, (table, rows) in tables.items()
    }


def _from_tables(spec: Mapping[str, Any], users: FeatureTable, items: FeatureTable) -> dict[str, Any]:
    """The keywords of ``_TABLES``."""
    scales = {
        key: {name: NumericScale(*values) for name, values in (spec.get(key) or {}).items()}
        for key in ("user_scales", "item_scales")
    }
    sizes = {"num_users": users.rows, "num_items": items.rows}
    return {**sizes, "user_features": users, "item_features": items, **scales}


def make_retriever(
    spec: Mapping[str, Any],
    users: FeatureTable,
    items: FeatureTable,
    counts: Tensor,
    own: OwnParts = NO_PARTS,
) -> nn.Module:
    """A retriever from its settings.

    Args:
        spec: fields of one of the retriever settings, and ``user_scales``, ``item_scales``, ``sparse``.
        users: features by user row.
        items: features by item row.
        counts: train events by item row.
        own: where the retriever ``own`` comes from.
    """
    if spec["kind"] == OWN_RETRIEVER:
        return own.new_retriever(users, items)
    kind, names = RETRIEVERS[spec["kind"]]
    known = {**spec, **_from_tables(spec, users, items), "counts": counts}
    # An older bundle lacks what was not there yet: then it is as it was, the default.
    retriever: nn.Module = kind(**{name: known[name] for name in names if name in known})
    return retriever


def make_ranker(
    spec: Mapping[str, Any],
    users: FeatureTable,
    items: FeatureTable,
    inputs: RankerInputs | None = None,
    own: OwnParts = NO_PARTS,
) -> nn.Module:
    """A ranker from its settings.

    Args:
        spec: fields of the ranker settings, ``user_scales``, ``item_scales``, ``sparse``, and what was noted of the
            data (``RankerInputs.noted``).
        users: features by user row.
        items: features by item row.
        inputs: what it reads beside fields and history; None: the same with nothing in it, to load it into.
        own: where ``own-ctr-model`` and ``own-ranker`` come from.
    """
    if spec["kind"] == OWN_RANKER:
        return own.new_ranker(users, items)
    kind, names = (own.ctr_model_class(), ()) if spec["kind"] == OWN_CTR_MODEL else CTR_MODELS[spec["kind"]]
    size = 1 if kind is LR else spec["field_size"]
    fields = Fields(
        **_from_tables(spec, users, items),
        field_size=size,
        user_id=spec.get("user_id", True),
        id_dropout=spec["id_dropout"],
        sparse=spec.get("sparse", True),
    )
    named = empty_evidence(spec, users, items) if inputs is None else dict(inputs.evidence)
    late = named.pop("linear") if (spec.get("linear") or {}).get("late") else None
    bare = not named and late is None
    parts = list(named.values())
    known = JoinedEvidence(parts) if len(parts) > 1 else parts[0] if parts else None
    evidence_size = 0 if known is None else cast(Evidence, known).size
    score = bool(spec.get("evidence") and spec["evidence"]["score"])
    enrichment = spec.get("rar") and Enrichment(spec["rar"], fields, as_extra=kind is LR)
    # RAR's two fields are none of a history slot's.
    narrow_history = bool(enrichment) and getattr(kind, "uses_history", False)
    ctr = kind(
        size,
        fields.num_context_fields,
        fields.num_item_fields + (enrichment.more_fields if enrichment else 0),
        # A bundle older than a setting was made by the keyword's default.
        **{name: spec[name] for name in names if name in spec},
        **({"num_history_fields": fields.num_item_fields} if narrow_history else {}),
        num_extra=evidence_size + int(score) + (enrichment.more_extra if enrichment else 0),
    )
    ranker = FieldRanker(
        fields, ctr, embedding_dropout=spec["embedding_dropout"], history_length=spec["history_length"]
    )
    if bare and not enrichment:
        return ranker
    # What is read late comes to a ranker in training when that is over.
    informed = EvidenceRanker(ranker, known, score=score, late=late if inputs is None else None)
    return enrichment.around(informed) if enrichment else informed


def build_part(spec: ModuleSpec, tables: ServingTables, own: OwnParts = NO_PARTS) -> nn.Module:
    """A retriever or a ranker of a bundle, without its weights; ``add_items`` asks for this function."""
    whole = {"kind": spec.kind, **spec.settings}
    if spec.kind in (*CTR_MODELS, *OWN_RANKERS):
        return make_ranker(whole, tables.user_features, tables.item_features, own=own)
    counts = torch.zeros(tables.item_features.rows)
    return make_retriever(whole, tables.user_features, tables.item_features, counts, own)


def be_deterministic() -> None:
    """From here on this process computes with operations that give the same bits every time, or raises RuntimeError.

    On the CPU with the same number of threads they do so anyway; on a GPU some sums depend on the moment.
    """
    # cuBLAS asks for a fixed workspace, before it is used for the first time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def multiplies_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions of its own for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(BFLOAT16 & processor_flags())


def choose_device(name: str) -> torch.device:
    """``auto``: the first CUDA device, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: {error}") from error
