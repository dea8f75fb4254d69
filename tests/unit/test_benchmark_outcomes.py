"""What is kept of a run compares systems as its evaluations would; published results outlive their runs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from corral.evaluation.fates import fates
from corral.evaluation.result import Evaluation
from corral.evaluation.significance import compare

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RULES = {"split": "leave-last-two-out", "queries_hash": "abc"}
QUERIES = 60


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded = SimpleNamespace(**{name: importlib.import_module(name) for name in ("outcomes", "results")})
    monkeypatch.setattr(loaded.outcomes, "FOLDER", tmp_path / "outcomes")
    monkeypatch.setattr(loaded.results, "ROOT", tmp_path)
    yield loaded
    for name in ("outcomes", "results"):
        del sys.modules[name]


def evaluation(seed: int) -> Evaluation:
    """Sixty users, one target each; the served list is the ranker's."""
    random = np.random.default_rng(seed)
    recalled, ranked = (random.integers(0, 31, QUERIES) for _ in range(2))
    gains = np.where((ranked > 0) & (ranked <= 10), 1 / np.log2(1 + np.maximum(ranked, 1)), 0.0)
    targets = {
        "query": np.arange(QUERIES),
        "group": random.integers(0, 4, QUERIES).astype(np.int8),
        "retriever": recalled,
        "ranker": ranked,
        "candidates": recalled,
    }
    per_query = {"ndcg@10": gains.astype(np.float32)}
    queries = {"user": 2 + random.permutation(QUERIES)}
    return Evaluation({"ndcg@10": gains.mean()}, per_query, queries, targets, RULES, {"serve_by": "ranker"})


def row_of(system: str, seed: int) -> dict[str, object]:
    metrics = {"ndcg@10": 0.0}
    return {"dataset": "d", "system": system, "seed": seed, "metrics": metrics, "protocol": RULES, "served": "ranker"}


def test_what_is_kept_says_what_the_evaluation_said(modules: SimpleNamespace) -> None:
    whole, row = evaluation(0), row_of("a/b", 0)
    modules.outcomes.keep(whole, modules.outcomes.path_of(row))
    back = modules.outcomes.restore(row)
    np.testing.assert_allclose(back.per_query["ndcg@10"], whole.per_query["ndcg@10"], atol=1e-7)
    for name in ("found", "lost", "missed", "promoted", "demoted"):
        np.testing.assert_array_equal(getattr(fates(back), name), getattr(fates(whole), name))
    np.testing.assert_array_equal(back.targets["group"], whole.targets["group"])


def test_two_systems_compare_as_by_their_evaluations(modules: SimpleNamespace) -> None:
    wholes = {(system, seed): evaluation(7 * seed + len(system)) for system in ("one", "other") for seed in (0, 1)}
    for (system, seed), whole in wholes.items():
        whole.queries["user"] = 2 + np.arange(QUERIES)
        modules.outcomes.keep(whole, modules.outcomes.path_of(row_of(system, seed)))
    rows = [[row_of(system, seed) for seed in (0, 1, 2)] for system in ("one", "other")]  # seed 2: nothing kept
    found = modules.outcomes.comparison(*rows, [])
    gap = compare(*([wholes[system, seed] for seed in (0, 1)] for system in ("one", "other")))
    assert (found["system"], found["against"], found["seeds"]) == ("other", "one", 2)
    assert found["difference"] == pytest.approx(gap.difference, abs=1e-7)
    assert (found["low"], found["high"]) == pytest.approx((gap.low, gap.high), abs=1e-7)
    # What was published over more seeds than have outcomes stays; over fewer, it is made anew.
    known = {"dataset": "d", "system": "other", "against": "one", "gain": 9.0}
    assert modules.outcomes.comparison(*rows, [{**known, "seeds": 3}])["gain"] == 9.0
    assert modules.outcomes.comparison(*rows, [{**known, "seeds": 1}]) == found


def test_other_rules_and_several_targets_are_refused(modules: SimpleNamespace) -> None:
    whole = evaluation(0)
    for system in ("one", "other"):
        modules.outcomes.keep(whole, modules.outcomes.path_of(row_of(system, 0)))
    elsewhere = row_of("other", 0) | {"protocol": {**RULES, "split": "time-cut"}}
    with pytest.raises(ValueError, match="time-cut"):
        modules.outcomes.comparison([row_of("one", 0)], [elsewhere], [])
    whole.queries["user"] = np.full(QUERIES, 2)
    with pytest.raises(ValueError, match="one target a user"):
        modules.outcomes.keep(whole, modules.outcomes.path_of(row_of("one", 1)))


def test_an_interval_over_seeds_by_hand(modules: SimpleNamespace) -> None:
    """Users' variance is the seeds' mean, (.01^2 + .02^2) / 2; the seeds' is that of .02 and .06, halved.

    The latter alone is uncertain: by Satterthwaite (.00025 + .0004)^2 / .0004^2 = 2.640625 degrees of freedom.
    """
    bench = importlib.import_module("bench_rar")
    aucs = {("fm", 0): 0.70, ("fm", 1): 0.70, ("fm+rar", 0): 0.72, ("fm+rar", 1): 0.76, ("fm+rar", 2): 0.9}
    errors = {0: 0.01, 1: 0.02, 2: 9.0}
    rows = [
        {**row_of(system, seed), "metrics": {"auc": value}}
        | ({"standard_error": errors[seed]} if "+" in system else {})
        for (system, seed), value in aucs.items()
    ]
    (found,) = bench.gaps(rows)  # seed 2 has no bare model beside it
    assert (found["system"], found["against"], found["seeds"]) == ("fm+rar", "fm", 2)
    assert found["difference"] == pytest.approx(0.04)
    reach = stats.t.ppf(0.975, 2.640625) * (0.00025 + 0.0008 / 2) ** 0.5
    assert (found["low"], found["high"]) == pytest.approx((0.04 - reach, 0.04 + reach))
    assert reach > 1.7 * 1.96 * (0.00025 + 0.0008 / 2) ** 0.5
    assert bench.interval(found) == f"{0.04 - reach:+.4f} to {0.04 + reach:+.4f}"
    assert found["ri"] == pytest.approx(0.74 / 0.70 - 1)
    assert found["ri_above_half"] == pytest.approx(0.24 / 0.20 - 1)


@pytest.mark.parametrize(("of_users", "by_normal"), [(0.0, 0.75), (0.5, 0.89), (2.0, 0.96)])
def test_intervals_cover_what_they_say(modules: SimpleNamespace, of_users: float, by_normal: float) -> None:
    """Of two seeds whose training spreads by 1: nine tenths at least, where 1.96 errors cover as few as seven."""
    bench, random = importlib.import_module("bench_rar"), np.random.default_rng(0)
    draws, seeds = 4_000, 2
    each = random.normal(size=(draws, 1)) * of_users + random.normal(size=(draws, seeds))
    of_seeds, missed = each.var(1, ddof=1) / seeds, np.abs(each.mean(1))
    error = np.sqrt(of_users**2 + of_seeds)
    reach = np.array([bench.quantile(of_users**2, one, seeds) for one in of_seeds]) * error
    assert 0.9 < (missed < reach).mean() < 0.96
    assert (missed < 1.96 * error).mean() < by_normal
    assert bench.quantile(0.01, 0.0, 1) == pytest.approx(1.96, abs=1e-3)


def test_one_seed_is_not_counted_among_several(modules: SimpleNamespace) -> None:
    bench = importlib.import_module("bench_rar")

    def pair(backbone: str, seeds: int, low: float) -> dict[str, object]:
        ends = {"difference": low + 0.01, "low": low, "high": low + 0.02}
        return {"dataset": "ml-100k", "system": f"{backbone}+rar", "seeds": seeds, **ends}

    pairs = [pair("fm", 2, 0.01), pair("lr", 5, -0.03), pair("din", 1, 0.02), pair("lightgbm", 5, 0.01)]
    head, _, line = bench.counts_of_gains(pairs)
    assert "| interval above 0, several seeds | of users alone above 0, one seed |" in head
    assert line == "| ml-100k | rar | 3 | 2 | 1 of 2 | 1 of 1 | +0.0200 |"
    assert bench.interval(pairs[2]) == "+0.0200 to +0.0400, users alone"


def test_an_error_is_that_of_users(modules: SimpleNamespace, tmp_path: Path) -> None:
    """Of fifty users; the same logits differ by nothing in every draw."""
    bench = importlib.import_module("bench_rar")
    random = np.random.default_rng(0)
    labels, users = np.arange(200) % 2 == 0, np.arange(200) // 4
    for system, logits in (("fm", labels + random.normal(size=200)), ("fm+rar", random.normal(size=200))):
        place = tmp_path / f"d-{system}-0"
        place.mkdir()
        np.savez(place / "test.npz", labels=labels, users=users, **{system: logits.astype(np.float32)})
    error = bench.standard_error(tmp_path, row_of("fm+rar", 0))
    assert 0.01 < error < 0.1
    assert bench.standard_error(tmp_path, row_of("fm", 0)) == 0.0


def test_the_corrected_are_compared_with_the_corrected(modules: SimpleNamespace, tmp_path: Path) -> None:
    """And the corrected bare model with the bare one: what the correction is worth is nobody else's gain."""
    bench = importlib.import_module("bench_rar")
    names = {system: bench.compared_with(system) for system in ("fm", "fm+corrected", "fm+rar", "fm+rar-corrected")}
    assert names == {"fm": "fm", "fm+corrected": "fm", "fm+rar": "fm", "fm+rar-corrected": "fm+corrected"}
    for system in ("fm", "fm+rar-plus"):
        assert bench.trained(bench.corrected_name(system)) == bench.trained(system) == system
    random = np.random.default_rng(0)
    labels, users = np.arange(200) % 2 == 0, np.arange(200) // 4
    for system in ("fm", "fm+rar"):  # corrected alike, different before
        place = tmp_path / f"d-{system}-0"
        place.mkdir()
        order = {system: random.normal(size=200), bench.corrected_name(system): labels * 0.1}
        np.savez(place / "test.npz", labels=labels, users=users, **order)
    assert bench.standard_error(tmp_path, row_of("fm+rar-corrected", 0)) == 0.0
    assert bench.standard_error(tmp_path, row_of("fm+corrected", 0)) > 0.01
    aucs = {"fm": 0.70, "fm+corrected": 0.75, "fm+rar": 0.72, "fm+rar-corrected": 0.74}
    rows = [{**row_of(system, 0), "metrics": {"auc": auc}, "standard_error": 0.0} for system, auc in aucs.items()]
    found = {gap["system"]: gap["difference"] for gap in bench.gaps(rows)}
    assert found == pytest.approx({"fm+corrected": 0.05, "fm+rar": 0.02, "fm+rar-corrected": -0.01})


def test_published_rows_stay_where_no_run_replaces_them(modules: SimpleNamespace, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "results" / "corr.json"
    page.parent.mkdir(parents=True)
    page.write_text(json.dumps({"rows": [row_of("a", 0), row_of("a", 1)], "protocol": {}}))
    again = row_of("a", 1) | {"served": "fused"}
    assert modules.results.with_published("corr", [again, row_of("b", 0)]) == [row_of("a", 0), again, row_of("b", 0)]
    assert modules.results.with_published("other", [again]) == [again]
    # Elsewhere, and where a run has several rows.
    first, second = ({**row_of("a", 0), "step": step} for step in (1, 2))
    (tmp_path / "steps.json").write_text(json.dumps({"rows": [first, second], "protocol": {}}))
    again = {**second, "metrics": {"ndcg@10": 0.5}}
    assert modules.results.with_published("steps", [again], tmp_path, within="step") == [first, again]
