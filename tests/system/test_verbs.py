"""The verbs on two small finished runs: what they print, for people and as JSON, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich import get_console

from corral.cli.main import main
from corral.cli.run import open_recommender
from corral.cli.run_files import only_trainer, read_settings
from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world
from corral.evaluation.result import Evaluation
from corral.settings import dump_settings, load_settings, watchable

RECIPE = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 6}
ranker_training: {epochs: 1, batch_size: 256, num_negatives: 4}
evaluation: {num_candidates: 12, serve_by: fused}
"""
needs_altair = pytest.mark.skipif(find_spec("altair") is None, reason="corral[report] is not installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("verbs")
    Dataset.write(folder / "data", markov_world(60, 16, length=14).interactions)
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(folder / "data")))
    for seed in (0, 1):
        with pytest.raises(SystemExit) as leaving:
            main(["train", str(recipe), f"seed={seed}", "--run", str(folder / f"run-{seed}"), "-q"])
        assert not leaving.value.code
    return folder / "run-0", folder / "run-1"


def corral(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert not leaving.value.code, err
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a refused command says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    assert leaving.value.code == 2
    return capsys.readouterr().err


def test_validation_gives_what_the_settings_may_watch(runs: tuple[Path, Path]) -> None:
    settings = load_settings((runs[0] / "settings.yaml").read_text(), "run")
    for stage, names in watchable(settings).items():
        log = runs[0] / stage.removesuffix("_training") / "log.jsonl"
        record = json.loads(log.read_text().splitlines()[-1])
        given = {name for name in record if not name.startswith("loss/")} - {"epoch", "step", "seconds"}
        assert set(names) <= given


def test_explained_lists_show_every_score(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(get_console(), "_width", 120, raising=False)
    user = open_recommender(runs[0]).tables.users.ids[0].as_py()
    explained = corral(capsys, "recommend", runs[0], "--user", user, "-k", 3, "--explain")
    heading = next(line for line in explained.splitlines() if "item" in line)
    assert re.search(r"retriever score.*ranker logit.*score: fused", heading)
    plain = corral(capsys, "recommend", runs[0], "--user", user, "-k", 3)
    assert "ranker logit" not in plain
    rows = [
        json.loads(line)
        for line in corral(capsys, "recommend", runs[0], "--user", user, "-k", 3, "--explain", "--json").splitlines()
    ]
    for row in rows:
        assert all(f"{row[name]:.4f}" in explained for name in ("score", "retriever_score", "ranker_logit"))


@needs_altair
def test_a_report_of_two_runs_as_json(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rival = tmp_path / "rival"
    shutil.copytree(runs[1], rival)
    settings = (rival / "settings.yaml").read_text()
    assert settings.count("id_dropout:") == 1
    (rival / "settings.yaml").write_text(re.sub("id_dropout: .*", "id_dropout: 0.06", settings))
    runs = (runs[0], rival)
    page = tmp_path / "both.html"
    found = json.loads(corral(capsys, "report", *runs, "-o", page, "-q", "--json"))
    assert found["page"] == str(page)
    assert page.is_file()
    assert [run["run"] for run in found["runs"]] == [str(run) for run in runs]
    assert [run["system"] for run in found["runs"]] == ["run-0", "rival"]
    judged = [json.loads((run / "evaluation" / "evaluation.json").read_text())["metrics"] for run in runs]
    assert [run["metrics"] for run in found["runs"]] == judged
    assert [pair["metric"] for pair in found["differences"]] == ["ndcg@10", "recall@10"]
    for pair in found["differences"]:
        name = pair["metric"]
        assert (pair["first"], pair["second"]) == pytest.approx((judged[0][name], judged[1][name]))
        assert pair["difference"] == pytest.approx(pair["second"] - pair["first"])
        assert pair["low"] <= pair["difference"] <= pair["high"]
        assert 0 < pair["p"] <= 1
    assert found["not_comparable"] == {}


@needs_altair
def test_a_report_of_runs_judged_by_other_rules(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    file = other / "evaluation" / "evaluation.json"
    judged = json.loads(file.read_text())
    judged["protocol"]["history_rule"] = "another"
    file.write_text(json.dumps(judged))
    found = json.loads(corral(capsys, "report", runs[0], other, "-o", tmp_path / "both.html", "-q", "--json"))
    assert found["differences"] == []
    assert found["not_comparable"] == {"other": ["history_rule"]}


@needs_altair
def test_seeds_in_a_report_are_one_system(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = json.loads(corral(capsys, "report", *runs, "-o", tmp_path / "both.html", "-q", "--json"))
    assert [run["system"] for run in found["runs"]] == ["run", "run"]
    assert found["differences"] == []


@needs_altair
def test_a_report_of_one_run(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "one.html"
    assert corral(capsys, "report", runs[0], "-o", page, "-q") == f"{page}\n"
    found = json.loads(corral(capsys, "report", runs[0], "-o", page, "-q", "--json"))
    assert len(found["runs"]) == 1
    assert found["differences"] == []


def test_demo_as_json(
    runs: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings((runs[0] / "settings.yaml").read_text(), "run")
    monkeypatch.setattr("corral.cli.recipes.read_recipe", lambda name: settings)
    found = json.loads(corral(capsys, "demo", "--run", tmp_path / "demo", "--json"))
    assert found["metrics"]["ndcg@10"] == pytest.approx(
        json.loads((runs[0] / "evaluation" / "evaluation.json").read_text())["metrics"]["ndcg@10"]
    )
    assert (tmp_path / "demo" / "report.html").is_file() == (find_spec("altair") is not None)


def test_no_bundle_and_a_damaged_bundle_are_told_apart(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "neither a bundle nor a run" in refused(capsys, "recommend", tmp_path, "--user", 1)
    assert "neither a bundle nor a run" in refused(capsys, "recommend", tmp_path / "nothing", "--user", 1)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs[0], unfinished, ignore=shutil.ignore_patterns("bundle"))
    assert "the run has no bundle yet" in refused(capsys, "recommend", unfinished, "--user", 1)
    for name in ("manifest.json", "settings.json", "ranker.safetensors", "users.arrow", "popularity.npy"):
        run = tmp_path / name
        shutil.copytree(runs[0], run)
        (run / "bundle" / name).unlink()
        said = refused(capsys, "recommend", run, "--user", 1)
        assert f"{run / 'bundle' / name} is missing" in said
        assert "neither" not in said


@pytest.mark.parametrize(
    ("name", "size", "verbs"),
    [
        ("manifest.json", 10, ("report", "train")),
        ("evaluation/evaluation.json", 10, ("report", "compare")),
        ("evaluation/evaluation.npz", 100, ("compare",)),
        ("ranker/log.jsonl", 30, ("report",)),
    ],
)
@needs_altair
def test_damaged_files_of_a_run_are_named(
    runs: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    size: int,
    verbs: tuple[str, ...],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    os.truncate(run / name, size)
    words = {
        "report": ("report", run, "-o", tmp_path / "page.html", "-q"),
        "compare": ("compare", runs[1], run),
        "train": ("train", "--from", run, "--run", tmp_path / "next", "-q"),
    }
    for verb in verbs:
        said = refused(capsys, *words[verb])
        assert str(run / name) in said
        assert "damaged" in said
        assert "delete it and give the corral train command again" in said
    (run / name).unlink()  # as it says
    corral(capsys, "train", runs[0].parent / "small.yaml", "seed=0", "--run", run, "-q")
    corral(capsys, *words["report"])


def test_settings_of_a_run_that_are_no_text_are_named(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    (run / "settings.yaml").write_bytes(b"\xff\xfe")
    assert f"{run / 'settings.yaml'}: not UTF-8 text" in refused(capsys, "evaluate", run, "-q")


def test_a_second_training_of_a_run_is_refused_at_once(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its data are read; who only reads the run is not kept waiting."""
    words = ("train", runs[0].parent / "small.yaml", "seed=0", "--run", runs[0], "-q")
    with only_trainer(runs[0]):
        corral(capsys, "evaluate", runs[0], "-q")
        corral(capsys, "compare", *runs)
        with monkeypatch.context() as patch:
            patch.setattr("corral.cli.experiment.open_data", pytest.fail)
            assert f"{runs[0]}: is being trained by another process" in refused(capsys, *words)
        workers = refused(capsys, *words[:3], "scale.workers=2", *words[3:])
        assert f"{runs[0]}: is being trained by another process" in workers
    corral(capsys, *words)


def test_a_run_is_not_mixed_with_another(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = runs[0].parent / "small.yaml"
    said = refused(capsys, "train", recipe, "seed=5", "--run", runs[0])
    assert "holds a run with other settings" in said


def other_system(runs: tuple[Path, Path], folder: Path) -> list[Path]:
    """The same two runs under other settings, with better lists of some users."""
    copies = []
    for run in runs:
        copy = folder / run.name.replace("run", "wide")
        shutil.copytree(run, copy)
        settings = (copy / "settings.yaml").read_text()
        (copy / "settings.yaml").write_text(settings.replace("  size: 8", "  size: 16"))
        copies.append(copy)
    return copies


def test_seeds_are_one_system_and_systems_are_compared(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wide = other_system(runs, tmp_path)
    found = json.loads(corral(capsys, "compare", *runs, wide[1], "--metric", "ndcg@10", "--json"))
    assert [(one["system"], one["seeds"]) for one in found["systems"]] == [("run", [0, 1]), ("wide-1", [1])]
    judged = [json.loads((run / "evaluation" / "evaluation.json").read_text())["metrics"]["ndcg@10"] for run in runs]
    assert found["systems"][0]["metrics"]["ndcg@10"] == pytest.approx(
        {"mean": statistics.mean(judged), "sd": statistics.stdev(judged)}
    )
    assert found["systems"][1]["metrics"]["ndcg@10"] == {"mean": pytest.approx(judged[1]), "sd": None}
    (pair,) = found["differences"]
    assert (pair["system"], pair["against"], pair["metric"]) == ("wide-1", "run", "ndcg@10")
    assert pair["difference"] == pytest.approx(judged[1] - statistics.mean(judged))
    said = corral(capsys, "compare", *runs, *wide)
    assert "run " in said
    assert "wide " in said
    assert "not told apart" in said  # the same lists
    assert "NOT COMPARABLE" not in said


def test_the_same_seeds_again_are_another_system(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for run in runs:
        shutil.copytree(run, tmp_path / run.name)
    again = [tmp_path / run.name for run in runs]
    found = json.loads(corral(capsys, "compare", *runs, *again, "--json"))
    assert [one["runs"] for one in found["systems"]] == [[str(run) for run in runs], [str(run) for run in again]]
    assert len({one["system"] for one in found["systems"]}) == 2
    assert {pair["difference"] for pair in found["differences"]} == {0.0}


def judge_by_another_rule(run: Path) -> None:
    """As if."""
    file = run / "evaluation" / "evaluation.json"
    judged = json.loads(file.read_text())
    judged["protocol"]["history_rule"] = "another"
    file.write_text(json.dumps(judged))


def test_seeds_that_were_judged_otherwise_are_another_system(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One mean over both would be of different queries."""
    wide = other_system(runs, tmp_path)
    judge_by_another_rule(wide[1])
    for order in (wide, [*wide, *runs], [*runs, *wide]):
        found = json.loads(corral(capsys, "compare", *order, "--json"))
        assert {"wide-0", "wide-1"} <= {one["system"] for one in found["systems"]}
        strange = "wide-1" if order[0] != wide[1] else "wide-0"
        assert found["not_comparable"] == {strange: ["history_rule"]}


def test_seeds_of_a_continued_run_are_one_system(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    continued = [tmp_path / f"later-{seed}" for seed in (0, 1)]
    for run, later in zip(runs, continued, strict=True):
        shutil.copytree(run, later)
        settings = read_settings(run).model_copy(update={"continues": run})
        (later / "settings.yaml").write_text(dump_settings(settings))
    found = json.loads(corral(capsys, "compare", *runs, *continued, "--json"))["systems"]
    assert [(one["system"], one["seeds"]) for one in found] == [("run", [0, 1]), ("later", [0, 1])]


def test_a_list_for_a_history_alone_names_nobody(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    said = corral(capsys, "recommend", runs[0], "--history", "3,5", "-k", 2, "--json")
    assert [json.loads(line)["user_id"] for line in said.splitlines()] == [None, None]


def test_metrics_with_gaps_say_what_they_are_of(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A metric that a run's data do not define, one that half of the queries have, one of whole runs."""
    wide = other_system(runs, tmp_path)
    for run in wide:
        found = Evaluation.open(run / "evaluation")
        found.metrics["retriever/recall@10"] = float("nan")
        found.per_query["recall@10"][::2] = np.nan
        found.per_query["fused/recall@10"][::2] = np.nan
        shutil.rmtree(run / "evaluation")
        found.save(run / "evaluation")
    metrics = ("retriever/recall@10", "recall@10", "coverage@10")
    words = [word for name in metrics for word in ("--metric", name)]
    (told, other) = json.loads(corral(capsys, "compare", *runs, *wide, *words, "--json"))["systems"]
    assert other["metrics"]["retriever/recall@10"] == {"mean": None, "sd": None}
    assert told["metrics"]["retriever/recall@10"]["sd"] is not None
    said = " ".join(corral(capsys, "compare", *runs, *wide, *words).split())
    queries = len(Evaluation.open(runs[0] / "evaluation").per_query["recall@10"])
    assert re.search(rf"wide, recall@10: over the {queries // 2} of {queries} queries, of \d+ users, that have", said)
    assert "coverage@10: known of whole runs alone, so without an interval" in said
    assert "known of whole runs alone" in corral(capsys, "compare", *runs, *wide, "--metric", "coverage@10")


def test_other_rules_are_flagged_and_not_compared(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wide = other_system(runs, tmp_path)
    for run in wide:
        judge_by_another_rule(run)
    found = json.loads(corral(capsys, "compare", *runs, *wide, "--json"))
    assert (found["differences"], found["not_comparable"]) == ([], {"wide": ["history_rule"]})
    said = " ".join(corral(capsys, "compare", *runs, *wide).split())
    assert "NOT COMPARABLE: wide was judged by other rules than run" in said
    assert "another" in said
    assert "(other rules)" in said
    assert "Differences to" not in said


def test_what_cannot_be_compared_is_refused(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert f"{tmp_path}: no run (no settings.yaml)" in refused(capsys, "compare", runs[0], tmp_path)
    shutil.copytree(runs[1], tmp_path / "half", ignore=shutil.ignore_patterns("evaluation"))
    assert "half: the run is not finished (no evaluation)" in refused(capsys, "compare", runs[0], tmp_path / "half")
    assert "the same run twice" in refused(capsys, "compare", runs[0], runs[0])
    assert "did you mean 'ndcg@10'?" in refused(capsys, "compare", *runs, "--metric", "ndgc@10")


@pytest.mark.skipif(find_spec("mlflow") is None, reason="corral[mlflow] is not installed")
def test_track_sends_a_run_once(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sqlalchemy")
    import mlflow

    run = tmp_path / "sent"
    shutil.copytree(runs[0], run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert "2 epochs and the test metrics sent to sqlite:" in corral(capsys, "track", run, "--to", "mlflow")
    assert "nothing new" in corral(capsys, "track", run, "--to", "mlflow")
    (found,) = mlflow.search_runs(experiment_names=["corral"], output_format="list")
    assert found.data.params["retriever.kind"] == "sasrec"
    assert found.data.metrics["test/ndcg_at_10"] == Evaluation.open(run / "evaluation").metrics["ndcg@10"]
    assert found.data.tags["corral.data_hash"] == (run / "data_hash.txt").read_text().strip()
    noted = json.loads((run / "tracking.json").read_text())
    assert noted["mlflow"]["run"] == found.info.run_id
    (run / "tracking.json").write_text('{"mlflow": {"who": 1}}')
    assert "remove it, and the run is sent anew" in refused(capsys, "track", run, "--to", "mlflow")
    assert "no run (no settings.yaml)" in refused(capsys, "track", tmp_path / "nowhere", "--to", "mlflow")
