"""Names become classes: the one place where settings are turned into data, models, samplers and objectives."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corral.data import embedded
from corral.data.dataset import Dataset
from corral.data.features import FeatureTable
from corral.data.interactions import Interactions
from corral.data.readers import amazon, lastfm, lib_sibgmu, movielens
from corral.data.split import Split, given, leave_last_two_out, time_cut
from corral.ranking.ctr.dcnv2 import DCNV2
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.ctr.din import DIN
from corral.ranking.ctr.fm import FM
from corral.ranking.ctr.lr import LR
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.feature_fields import NumericScale, fit_scales
from corral.retrieval.gru4rec import GRU4Rec
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.popularity import PopularityRetriever
from corral.retrieval.sasrec import SASRec
from corral.retrieval.two_tower import TwoTower
from corral.sampling.popularity import PopularitySampler
from corral.sampling.sampler import Sampler
from corral.sampling.uniform import UniformSampler
from corral.settings import DataSettings, Settings, SplitSettings, load_settings

# Data sets that a recipe may call by name: the embedded one, and folders of CORRAL_DATA in their makers' formats.
NAMED_DATA: dict[str, Callable[[Path], Interactions]] = {
    "ml-100k": movielens.read,
    "ml-1m": movielens.read,
    "ml-latest-small-2016": movielens.read,
    "amazon-beauty": amazon.read,
    "amazon-sports": amazon.read,
    "lastfm-2k": lastfm.read,
    "lib-sibgmu": lib_sibgmu.read,
}
SAMPLERS = ("uniform", "popularity")


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("corral.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def read_recipe(recipe: str, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a shipped recipe (by name) or of a YAML file (by path), with ``a.b=c`` overrides.

    Raises:
        ValueError: there is no such recipe, or its settings are wrong.
    """
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"recipe {recipe}: no such file")
        return load_settings(path.read_text(encoding="utf-8"), str(path), tuple(overrides))
    if recipe not in recipe_names():
        raise ValueError(
            f"recipe {recipe!r} is not known: {', '.join(recipe_names())}; or give the path of a YAML file"
        )
    text = files("corral.recipes").joinpath(f"{recipe}.yaml").read_text(encoding="utf-8")
    return load_settings(text, recipe, tuple(overrides))


def cache_directory() -> Path:
    """Where Datasets made from named data are kept: CORRAL_CACHE, else the user's cache directory."""
    if "CORRAL_CACHE" in os.environ:
        return Path(os.environ["CORRAL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "corral"


def _fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of a folder's files: enough to see that the source changed."""
    return sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.is_file())


def open_data(data: DataSettings) -> Dataset:
    """The Dataset a recipe asks for; named data is read from its maker's files once and kept in the cache.

    Raises:
        ValueError: neither or both of name and path, an unknown name, or CORRAL_DATA does not have it.
    """
    if (data.name is None) == (data.path is None):
        raise ValueError("data: give either name or path")
    filters = (data.min_user_events, data.min_item_events, data.iterate)
    if data.path is not None:
        if filters != (1, 1, False):
            raise ValueError("data: filters are applied when a Dataset is made (corral data add), not when it is used")
        return Dataset.open(data.path)
    assert data.name is not None
    if data.name == embedded.NAME:
        folder = Path(str(files("corral.data.embedded")))
    else:
        root = os.environ.get("CORRAL_DATA")
        if data.name not in NAMED_DATA:
            raise ValueError(f"data.name={data.name!r}: known are {', '.join((embedded.NAME, *NAMED_DATA))}")
        if root is None:
            raise ValueError(
                f"data.name={data.name!r} is read from a folder of that name under CORRAL_DATA, which is not set; "
                f"fetch the data (corral data get) and set CORRAL_DATA, or train on data.path=DATASET"
            )
        folder = Path(root) / data.name
        if not folder.is_dir():
            raise ValueError(f"data.name={data.name!r}: {folder} does not exist")
    key = hashlib.sha256(json.dumps([filters, _fingerprint(folder)]).encode()).hexdigest()[:12]
    path = cache_directory() / "datasets" / f"{data.name}-{key}"
    if path.exists():
        try:
            return Dataset.open(path)
        except ValueError:
            pass  # damaged, or of another version: made again from the source
    interactions = embedded.online_retail() if data.name == embedded.NAME else NAMED_DATA[data.name](folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    return Dataset.write(
        path,
        interactions,
        name=data.name,
        min_user_events=data.min_user_events,
        min_item_events=data.min_item_events,
        iterate=data.iterate,
        overwrite=path.exists(),
    )


def make_split(dataset: Dataset, settings: SplitSettings) -> Split:
    """The split a recipe asks for."""
    if settings.rule == "time-cut":
        return time_cut(
            dataset, settings.valid_fraction, settings.test_fraction, settings.valid_from, settings.test_from
        )
    return leave_last_two_out(dataset) if settings.rule == "leave-last-two-out" else given(dataset)


def make_sampler(kind: str, catalogue: Tensor, counts: Tensor) -> Sampler:
    """A sampler over the catalogue [M]; ``counts`` are train events by item row."""
    if kind == "popularity":
        return PopularitySampler(catalogue, counts[catalogue])
    return UniformSampler(catalogue)


def _scales(spec: dict[str, Any], key: str) -> dict[str, NumericScale]:
    return {name: NumericScale(*values) for name, values in (spec.get(key) or {}).items()}


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


def make_retriever(spec: dict[str, Any], users: FeatureTable, items: FeatureTable, counts: Tensor) -> nn.Module:
    """A retriever from its settings.

    Args:
        spec: fields of one of the retriever settings, and ``user_scales``, ``item_scales``, ``sparse``.
        users: features by user row.
        items: features by item row.
        counts: train events by item row.
    """
    makers: dict[str, Callable[[], nn.Module]] = {
        "popularity": lambda: PopularityRetriever(counts),
        "mf": lambda: MatrixFactorization(
            users.rows,
            items.rows,
            size=spec["size"],
            user_dropout=spec["user_dropout"],
            sparse=spec["sparse"],
        ),
        "two-tower": lambda: TwoTower(
            users.rows,
            items.rows,
            users,
            items,
            user_scales=_scales(spec, "user_scales"),
            item_scales=_scales(spec, "item_scales"),
            size=spec["size"],
            hidden=spec["hidden"],
            dropout=spec["dropout"],
            history_length=spec["history_length"],
            user_id=spec["user_id"],
            item_id=spec["item_id"],
            sparse=spec["sparse"],
        ),
        "gru4rec": lambda: GRU4Rec(
            items.rows,
            size=spec["size"],
            hidden=spec["hidden"],
            layers=spec["layers"],
            dropout=spec["dropout"],
            max_length=spec["max_length"],
        ),
        "sasrec": lambda: SASRec(
            items.rows,
            size=spec["size"],
            max_length=spec["max_length"],
            blocks=spec["blocks"],
            heads=spec["heads"],
            dropout=spec["dropout"],
        ),
    }
    return makers[spec["kind"]]()


def make_ranker(spec: dict[str, Any], users: FeatureTable, items: FeatureTable) -> nn.Module:
    """A ranker from its settings; arguments as for :func:`make_retriever`."""
    kind, size = spec["kind"], 1 if spec["kind"] == "lr" else spec["field_size"]
    fields = Fields(
        users.rows,
        items.rows,
        users,
        items,
        field_size=size,
        user_scales=_scales(spec, "user_scales"),
        item_scales=_scales(spec, "item_scales"),
        id_dropout=spec["id_dropout"],
        sparse=True,
    )
    sizes = (size, fields.num_context_fields, fields.num_item_fields)
    hidden, dropout = spec["hidden"], spec["dropout"]
    makers: dict[str, Callable[[], nn.Module]] = {
        "lr": lambda: LR(*sizes),
        "fm": lambda: FM(*sizes),
        "deepfm": lambda: DeepFM(*sizes, hidden=hidden, dropout=dropout),
        "dcnv2": lambda: DCNV2(*sizes, hidden=hidden, dropout=dropout),
        "din": lambda: DIN(*sizes, hidden=hidden, dropout=dropout, attention_size=spec["attention_size"]),
    }
    ctr: Any = makers[kind]()
    return FieldRanker(fields, ctr, embedding_dropout=spec["embedding_dropout"], history_length=spec["history_length"])


def choose_device(name: str) -> torch.device:
    """``auto``: the first CUDA device, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: {error}") from error
