"""A bundle: a recommender as a directory of tensors and JSON, written whole or not at all, checked on load.

```
manifest.json          format version, sha256 and bytes of every file, versions, data hash; its own sha256
settings.json          how the parts are built again, and how they are put together
retriever.safetensors, ranker.safetensors      weights
index/                 the item index
popularity.npy         train events per item
users.arrow items.arrow history_items.npy history_offsets.npy user_features/ item_features/
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from corral.data.atomic_directory import atomic_directory
from corral.data.tables import Tables
from corral.data.tensor_file import write_tensors
from corral.evaluation.calibration import Calibration
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage
from corral.ranking.held_out_correction import HeldOutCorrection
from corral.retrieval.faiss_index import open_index
from corral.retrieval.index_rule import IndexRule
from corral.retrieval.popularity import PopularityChannel
from corral.serving.manifest import MANIFEST_FILE, Manifest, read_manifest, verify_files, write_manifest
from corral.serving.module_spec import ModuleSpec
from corral.serving.recommender import TwoStageRecommender
from corral.serving.serving_tables import ServingTables
from corral.serving.table_bundle import read_tables, write_tables

SETTINGS_FILE = "settings.json"
_EVERY_BUNDLE = "retriever.safetensors"

# Builds a part from its spec and the tables; given by the caller, because names become classes only in cli.
Builder = Callable[[ModuleSpec, ServingTables], nn.Module]


def save_bundle(
    path: Path, recommender: TwoStageRecommender, *, data_name: str, data_hash: str, overwrite: bool = True
) -> None:
    """Write a recommender as a bundle.

    It is written beside ``path`` (``.NAME.writing-*``) and takes its place when all is on the disk: in one
    step on Linux, elsewhere by two renames. Until then an old bundle stays as it is, whatever happens.

    Args:
        path: the directory to make, or an old bundle to replace.
        recommender: with ``specs`` for its retriever and ranker.
        data_name: the data set it was trained on.
        data_hash: the hash of it.
        overwrite: False = refuse to replace an old bundle.

    Raises:
        FileExistsError: something that is no bundle stands there, or ``overwrite`` is False.
        ValueError: a spec is missing, or holds what JSON cannot.
    """
    modules = _modules(recommender)
    settings: dict[str, Any] = {
        "num_candidates": recommender.num_candidates,
        "serve_by": recommender.serve_by.value,
        "history_length": recommender.history_length,
        "batch_size": recommender.batch_size,
        "repeats": recommender.repeats,
        "mixture": None if recommender.mixture is None else asdict(recommender.mixture),
        "calibration": asdict(recommender.calibration),
        "index_rule": asdict(recommender.index_rule),
        "parts": {},
    }
    for name in modules:
        if name not in recommender.specs:
            raise ValueError(f"the recommender does not say how to build its {name}: pass specs={{{name!r}: ...}}")
        settings["parts"][name] = asdict(recommender.specs[name])
        try:
            same = json.loads(json.dumps(settings["parts"][name], allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"settings of the {name} cannot be written as JSON: {error}") from error
        if same != _listed(settings["parts"][name]):
            raise ValueError(f"settings of the {name} change when written as JSON: use text keys")
    # Not the manifest: the directory of a run has one, too.
    with atomic_directory(path, overwrite=overwrite, marker=_EVERY_BUNDLE) as files:
        settings["tables"] = write_tables(files, recommender.tables)
        for name, module in modules.items():
            # clones, because safetensors refuses tied weights; they are tied again by the module itself
            weights = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
            write_tensors(files.directory / f"{name}.safetensors", weights)
        recommender.index.save(files.directory / "index")
        files.array("popularity.npy", recommender.popularity.counts.cpu().numpy())
        files.text(SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")
        write_manifest(files.directory, {"name": data_name, "hash": data_hash})


def is_bundle(path: Path) -> bool:
    """Whether there is a bundle, whole or damaged: its manifest tells, or the weights that every bundle has."""
    return any((path / name).is_file() for name in (MANIFEST_FILE, _EVERY_BUNDLE))


def load_bundle(path: Path, build: Builder, device: torch.device | str = "cpu") -> TwoStageRecommender:
    """The recommender saved in a bundle; it answers bit for bit as the saved one did.

    Every file is checked first. If a bundle is replaced while it is read, this is noticed and refused.

    Args:
        path: the bundle.
        build: makes the retriever and the ranker from their specs and the bundle's tables.
        device: where the models go.

    Raises:
        FileNotFoundError: there is no bundle.
        ValueError: a file is missing or damaged (named), the bundle is of a newer format, or the weights are
            not those of the modules that ``build`` makes.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
    except FileNotFoundError as error:
        if is_bundle(path):
            raise ValueError(f"{path / MANIFEST_FILE} is missing; copy or export the bundle again") from error
        raise
    try:
        return _load(path, manifest, build, device)
    except FileNotFoundError as error:  # gone since it was checked, or never in the manifest
        raise ValueError(f"{path}: a file of the bundle is missing: {error}; copy or export it again") from error


def _load(path: Path, manifest: Manifest, build: Builder, device: torch.device | str) -> TwoStageRecommender:
    verify_files(path, manifest)
    settings = json.loads((path / SETTINGS_FILE).read_text())
    tables = read_tables(path, settings["tables"])
    specs = {name: ModuleSpec(**part) for name, part in settings["parts"].items()}
    parts: dict[str, Any] = {}
    for name, spec in specs.items():
        module = build(spec, tables)
        load_weights(path / f"{name}.safetensors", module)
        parts[name] = module.to(device).eval()
    mixture, counts = settings["mixture"], np.load(path / "popularity.npy", allow_pickle=False)
    return TwoStageRecommender(
        tables,
        parts["retriever"],
        open_index(path / "index"),
        PopularityChannel(torch.from_numpy(counts)),
        ranker=parts.get("ranker"),
        mixture=None if mixture is None else Mixture(**mixture),
        calibration=Calibration(**settings["calibration"]),
        num_candidates=settings["num_candidates"],
        serve_by=Stage(settings["serve_by"]),
        history_length=settings["history_length"],
        batch_size=settings["batch_size"],
        repeats=settings.get("repeats", False),
        index_rule=IndexRule(**settings.get("index_rule", {})),
        specs=specs,
    )


def load_weights(path: Path, module: nn.Module) -> None:
    """Put the weights of a safetensors file into a module.

    Raises:
        ValueError: names, shapes or types are not the module's; the message lists the first few.
    """
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    wanted: Mapping[str, Tensor] = module.state_dict()
    # Tables are as large as the data they hold, which only the file knows.
    grown = {
        f"{name}.{buffer}"
        for name, part in module.named_modules()
        if isinstance(part, Tables)
        for buffer in part._buffers
    }
    # Bundles of before there was a correction have none: it then changes nothing.
    later = {
        f"{name}.{buffer}"
        for name, part in module.named_modules()
        if isinstance(part, HeldOutCorrection)
        for buffer in part._buffers
    }
    wrong = [f"{name} is not in the file" for name in wanted if name not in weights and name not in later]
    wrong += [f"{name} is not in the module" for name in weights if name not in wanted]
    for name in weights.keys() & wanted.keys():
        mine, theirs = wanted[name], weights[name]
        fits = mine.shape == theirs.shape or (name in grown and mine.ndim == theirs.ndim)
        if not fits or mine.dtype != theirs.dtype:
            wrong.append(
                f"{name} is {list(theirs.shape)} {theirs.dtype} in the file, "
                f"{list(mine.shape)} {mine.dtype} in the module"
            )
    if wrong:
        raise ValueError(
            f"{path} does not hold the weights of the {type(module).__name__} that the settings describe: "
            + "; ".join(sorted(wrong)[:5])
        )
    module.load_state_dict(weights)


def _modules(recommender: TwoStageRecommender) -> dict[str, nn.Module]:
    modules = {}
    for name, part in (("retriever", recommender.retriever), ("ranker", recommender.ranker)):
        if part is None:
            continue
        if not isinstance(part, nn.Module):
            raise ValueError(f"the {name} is a {type(part).__name__}; only an nn.Module can be saved")
        modules[name] = part
    return modules


def _listed(value: Any) -> Any:
    """The value with tuples as lists, as JSON gives it back."""
    if isinstance(value, Mapping):
        return {key: _listed(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(one) for one in value]
    return value
