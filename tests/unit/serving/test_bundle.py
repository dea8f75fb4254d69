"""Bundles: the same answers after a round trip; damaged or newer ones refused; killed writers harmless."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_system import MeanRetriever, SmallSystem, small_system

from corral.data import atomic_directory
from corral.data.features import FeatureTable
from corral.evaluation.calibration import Calibration
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage
from corral.retrieval.faiss_index import FaissIndex
from corral.retrieval.index_rule import IndexRule
from corral.serving.bundle import load_bundle, save_bundle
from corral.serving.manifest import FORMAT_VERSION, read_manifest
from corral.serving.module_spec import ModuleSpec
from corral.serving.recommender import TwoStageRecommender

USERS = [f"u{number:02d}" for number in range(8)]


@pytest.fixture
def system() -> SmallSystem:
    small = small_system()
    items = small.tables.items
    features = pl.DataFrame(
        {
            "item_id": items.ids.to_pylist()[:20],
            "genre": ["a", "b", None, "c"] * 5,
            "tags": [["x", "y"], [], None, ["y"]] * 5,
            "price": [1.0, None, 2.5, 4.0] * 5,
            "title": ["one", "two", None, "föur"] * 5,
        }
    )
    table = FeatureTable.build(features, "item_id", items, text_columns=["title"])
    small.tables = replace(small.tables, item_features=table)
    return small


def save(system: SmallSystem, path: Path, **settings: object) -> TwoStageRecommender:
    recommender = system.recommender(**settings)
    save_bundle(path, recommender, data_name="small", data_hash="abc")
    return recommender


def facts(answer: object) -> dict[str, object]:
    explanation = getattr(answer, "explanation", None)
    return {**vars(answer), "explanation": None, **(vars(explanation) if explanation else {})}


def assert_same_answers(one: TwoStageRecommender, two: TwoStageRecommender) -> None:
    for call in (
        lambda recommender: recommender.recommend([*USERS, "nobody"], 7, deny=["i03"], explain=True),
        lambda recommender: recommender.predict(USERS, [f"i{number:02d}" for number in range(8)]),
        lambda recommender: recommender.similar_items(["i01", "i09"], 5),
        lambda recommender: recommender.similar_users(USERS, 5),
    ):
        first, second = (facts(call(each)) for each in (one, two))
        assert first.keys() == second.keys()
        for name, value in first.items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == second[name].tobytes(), name  # bit for bit, NaN too
            else:
                assert value == second[name], name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ranker": False},
        {"mixture": Mixture(0.35), "num_candidates": 9, "history_length": 3, "batch_size": 4},
        {"mixture": Mixture(0.35), "serve_by": Stage.RETRIEVER, "calibration": Calibration(1.25, -0.1, 7)},
        {"index_rule": IndexRule(17, 0.5)},
    ],
)
def test_round_trip_is_bit_identical(system: SmallSystem, tmp_path: Path, settings: dict[str, object]) -> None:
    saved = save(system, tmp_path / "bundle", **settings)
    loaded = load_bundle(tmp_path / "bundle", system.build)
    assert_same_answers(saved, loaded)
    assert loaded.index_rule == saved.index_rule
    assert vars(loaded.tables.histories).keys() == vars(saved.tables.histories).keys()
    # and what was loaded can be saved
    save_bundle(tmp_path / "again", loaded, data_name="small", data_hash="abc")
    for path in sorted((tmp_path / "bundle").rglob("*")):
        if path.is_file():
            again = tmp_path / "again" / path.relative_to(tmp_path / "bundle")
            assert path.read_bytes() == again.read_bytes(), path.name


def test_feature_tables_come_back(system: SmallSystem, tmp_path: Path) -> None:
    save(system, tmp_path / "bundle")
    table = load_bundle(tmp_path / "bundle", system.build).tables.item_features
    wanted = system.tables.item_features
    assert list(table.columns) == ["genre", "tags", "price", "title"]
    for name, column in wanted.columns.items():
        again = table.columns[name]
        assert again.kind is column.kind
        np.testing.assert_array_equal(again.values, column.values)
        assert again.vocabulary == column.vocabulary
        if column.offsets is not None:
            np.testing.assert_array_equal(again.offsets, column.offsets)
        if column.texts is not None:
            assert again.texts.equals(column.texts)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="FAISS is not installed")
@pytest.mark.parametrize("build", [FaissIndex.flat, FaissIndex.ivf, FaissIndex.hnsw])
def test_faiss_indexes_come_back(system: SmallSystem, tmp_path: Path, build: type) -> None:
    system.index = build(system.index.vectors, system.index.items)
    saved = save(system, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle", system.build)
    assert isinstance(loaded.index, FaissIndex)
    assert loaded.index.description == saved.index.description
    assert_same_answers(saved, loaded)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="FAISS is not installed")
def test_without_faiss_its_bundle_is_searched_exactly(
    system: SmallSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = save(system, tmp_path / "exact")
    system.index = FaissIndex.ivf(system.index.vectors, system.index.items)  # type: ignore[assignment]
    save(system, tmp_path / "bundle")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level(logging.WARNING, "corral.index"):
        loaded = load_bundle(tmp_path / "bundle", system.build)
    assert "30 items are searched exactly" in caplog.text
    assert loaded.index.description["kind"] == "exact"
    assert_same_answers(exact, loaded)


def test_manifest_tells_the_facts(system: SmallSystem, tmp_path: Path) -> None:
    save(system, tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.data == {"name": "small", "hash": "abc"}
    assert manifest.versions["torch"] == str(torch.__version__)
    on_disk = {
        path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*") if path.is_file()
    }
    assert set(manifest.files) == on_disk - {"manifest.json"}
    assert {path.suffix for path in map(Path, on_disk)} == {".json", ".safetensors", ".npy", ".arrow"}


def bundle_files() -> list[str]:
    return [
        "manifest.json",
        "settings.json",
        "retriever.safetensors",
        "ranker.safetensors",
        "index/index.safetensors",
        "index/index.json",
        "popularity.npy",
        "users.arrow",
        "items.arrow",
        "history_items.npy",
        "history_offsets.npy",
        "item_features/000.values.npy",
        "item_features/000.vocabulary.arrow",
        "item_features/001.offsets.npy",
        "item_features/003.texts.arrow",
    ]


@pytest.mark.parametrize("name", bundle_files())
def test_damage_is_refused_by_the_file_s_name(system: SmallSystem, tmp_path: Path, name: str) -> None:
    save(system, tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    whole = path.read_bytes()
    file = path.name.replace(".", r"\.")

    def refused() -> None:
        with pytest.raises(ValueError, match=f"{file}.*(damaged|missing)"):
            load_bundle(tmp_path / "bundle", system.build)

    # one bit flipped, all over the file: head, every region, tail
    places = sorted({0, 1, len(whole) - 1, *range(0, len(whole), max(1, len(whole) // 24))})
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        refused()
    for length in {0, 1, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused()
    path.write_bytes(whole + b"\n")
    refused()
    path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=f"{file} is missing"):
        load_bundle(tmp_path / "bundle", system.build)
    path.write_bytes(whole)
    load_bundle(tmp_path / "bundle", system.build)


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_another_user_may_serve_it(system: SmallSystem, tmp_path: Path, mask: int) -> None:
    """As far as the umask lets: the weights are as readable as all else."""
    before = os.umask(mask)
    try:
        save(system, tmp_path / "bundle")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bundle").rglob("*") if path.is_file()}
    assert {"retriever.safetensors", "index.safetensors", "manifest.json"} <= modes.keys()
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)


def test_no_bundle(system: SmallSystem, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        load_bundle(tmp_path / "nothing", system.build)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(ValueError, match="not the manifest of a corral bundle"):
        load_bundle(tmp_path / "other", system.build)


def test_newer_bundle_says_which_corral_is_needed(system: SmallSystem, tmp_path: Path) -> None:
    save(system, tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    contents = json.loads(path.read_text())
    contents |= {"format_version": FORMAT_VERSION + 1, "corral": "9.8.7", "sha256": "computed otherwise"}
    path.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"bundle format 2, written by corral 9\.8\.7.*install corral 9\.8\.7"):
        load_bundle(tmp_path / "bundle", system.build)


def test_a_manifest_cannot_name_files_outside(system: SmallSystem, tmp_path: Path) -> None:
    from corral.serving import manifest

    save(system, tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    contents = json.loads(path.read_text())
    contents["files"]["../secret"] = {"bytes": 0, "sha256": ""}
    path.write_bytes(manifest._serialised(contents))
    with pytest.raises(ValueError, match=r"outside of the bundle: \.\./secret"):
        load_bundle(tmp_path / "bundle", system.build)


def test_weights_that_do_not_fit_are_refused(system: SmallSystem, tmp_path: Path) -> None:
    save(system, tmp_path / "bundle")

    def wider(spec: ModuleSpec, tables: object) -> torch.nn.Module:
        return MeanRetriever(32, 5)

    with pytest.raises(ValueError, match=r"retriever\.safetensors.*table\.weight is \[32, 4\].*\[32, 5\]"):
        load_bundle(tmp_path / "bundle", wider)

    def other(spec: ModuleSpec, tables: object) -> torch.nn.Module:
        return torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"bias is not in the file; table\.weight is not in the module"):
        load_bundle(tmp_path / "bundle", other)

    def halved(spec: ModuleSpec, tables: object) -> torch.nn.Module:
        return MeanRetriever(32, 4).half()

    with pytest.raises(ValueError, match=r"torch\.float32 in the file.*torch\.float16 in the module"):
        load_bundle(tmp_path / "bundle", halved)


def test_what_cannot_be_built_again_is_not_saved(system: SmallSystem, tmp_path: Path) -> None:
    recommender = system.recommender()
    for specs, words in (
        ({}, "how to build its retriever"),
        ({"retriever": ModuleSpec("mean")}, "how to build its ranker"),
        ({"retriever": ModuleSpec("mean", {"size": {1}}), "ranker": ModuleSpec("bias")}, "retriever .* JSON"),
        ({"retriever": ModuleSpec("mean", {"size": float("nan")})}, "retriever .* JSON"),
        ({"retriever": ModuleSpec("mean", {"by": {1: 2}})}, "text keys"),
    ):
        recommender.specs = specs
        with pytest.raises(ValueError, match=words):
            save_bundle(tmp_path / "bundle", recommender, data_name="small", data_hash="abc")
    assert list(tmp_path.iterdir()) == []


def test_tuples_in_settings_are_fine(system: SmallSystem, tmp_path: Path) -> None:
    recommender = system.recommender()
    recommender.specs["ranker"] = ModuleSpec("bias", {"hidden": (8, 4)})
    save_bundle(tmp_path / "bundle", recommender, data_name="small", data_hash="abc")
    assert load_bundle(tmp_path / "bundle", system.build).specs["ranker"].settings == {"hidden": [8, 4]}


def test_nothing_else_is_overwritten(system: SmallSystem, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError):
        save(system, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    recommender = save(system, tmp_path / "bundle")
    with pytest.raises(FileExistsError):
        save_bundle(tmp_path / "bundle", recommender, data_name="", data_hash="", overwrite=False)


def test_failure_while_writing_leaves_the_old_bundle(
    system: SmallSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save(system, tmp_path / "bundle")
    other = small_system(seed=5).recommender()

    def full(directory: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(other.index, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_bundle(tmp_path / "bundle", other, data_name="small", data_hash="abc")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert_same_answers(old, load_bundle(tmp_path / "bundle", system.build))


def dies_after(steps: int, path: Path, other: TwoStageRecommender) -> int:
    """Replace a bundle in a child process that kills itself at its ``steps``-th change of the disk's order.

    Returns:
        How many steps were left, at most 200; -1 if it was killed.
    """
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return -1 if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
    left = steps

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    for name in ("fsync", "rename", "replace", "rmdir", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    atomic_directory._exchange = dying(atomic_directory._exchange)  # type: ignore[assignment]
    save_bundle(path, other, data_name="new", data_hash="new")
    os._exit(left)


@pytest.mark.skipif(sys.platform != "linux", reason="one-step exchange of directories is Linux's")
def test_killed_writer_leaves_one_whole_bundle(system: SmallSystem, tmp_path: Path) -> None:
    path, other = tmp_path / "bundle", small_system(seed=5).recommender()
    old = save(system, path)
    total = 200 - dies_after(200, path, other)  # how many steps a whole save takes
    assert 20 < total < 200
    assert read_manifest(path).data["name"] == "new"
    seen = set()
    for steps in range(total + 1):
        save(system, path)
        left = dies_after(steps, path, other)
        assert left == (0 if steps == total else -1)
        name = read_manifest(path).data["name"]
        seen.add(name)
        assert_same_answers(old if name == "small" else other, load_bundle(path, system.build))
    assert seen == {"small", "new"}


def test_a_run_is_no_bundle_to_replace(tmp_path: Path, system: SmallSystem) -> None:
    """The directory of a run holds a manifest, too, and all that was trained."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    (run / "settings.yaml").write_text("seed: 0")
    with pytest.raises(FileExistsError, match="not ours to replace"):
        save_bundle(run, system.recommender(), data_name="made up", data_hash="0")
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "settings.yaml"]
