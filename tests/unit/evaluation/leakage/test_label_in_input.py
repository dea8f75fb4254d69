"""Single columns against the label: what is too good or falls apart is found, what is merely useful is not."""

from __future__ import annotations

import numpy as np
import pytest

from corral.evaluation.click_metrics import auc
from corral.evaluation.leakage.finding import Verdict
from corral.evaluation.leakage.label_in_input import InputColumn, check_columns, strength

TRAIN, TEST = 4000, 2000
RANDOM = np.random.default_rng(0)
CHANCE = RANDOM.random(TRAIN + TEST)
LABEL = (RANDOM.random(TRAIN + TEST) < CHANCE).astype(np.float64)
LABELS = LABEL[:TRAIN], LABEL[TRAIN:]


def column(values: np.ndarray, name: str = "x") -> InputColumn:
    return InputColumn("item features", name, values[:TRAIN], values[TRAIN:])


def noise(n: int = TRAIN + TEST) -> np.ndarray:
    return RANDOM.normal(size=n)


def own_rates(group: np.ndarray) -> np.ndarray:
    """Mean label by group over train rows, as a careless feature: train rows hold their own label, test rows a prior
    that was the same for all."""
    total = np.bincount(group[:TRAIN], LABEL[:TRAIN], minlength=group.max() + 1)
    count = np.bincount(group[:TRAIN], minlength=group.max() + 1)
    return np.where(np.arange(len(group)) < TRAIN, (total / np.maximum(count, 1))[group], 0.5)


CODES = RANDOM.integers(2, 6, TRAIN + TEST)
HARMLESS = {
    "noise": noise(),
    "chance": CHANCE,
    "half chance": CHANCE + noise(),
    "constant": np.zeros(TRAIN + TEST),
    "missing": np.full(TRAIN + TEST, np.nan),
    "codes": CODES,
    "many codes": RANDOM.integers(2, 1500, TRAIN + TEST),
    "each its own code": np.arange(2, TRAIN + TEST + 2),
    "later codes": np.where(np.arange(TRAIN + TEST) < TRAIN, CODES, CODES + 50),
    "many values": RANDOM.integers(0, 30, (TRAIN + TEST, 4)),
}
LEAKS = {
    "the label": LABEL,
    "its opposite": 1 - LABEL,
    "a code of it": np.where(LABEL == 1, 7, 3),
    "nearly": LABEL + 0.2 * noise(),
    "not monotone": np.where(LABEL == 1, np.sign(noise()), 0.0) + 0.01 * noise(),
    "missing where not clicked": np.where(LABEL == 1, noise(), np.nan),
    "one of its values": np.stack([RANDOM.integers(2, 30, TRAIN + TEST), np.where(LABEL == 1, 40, 0)], 1),
}
APART = {
    "own rate of few rows": own_rates(RANDOM.integers(0, TRAIN // 3, TRAIN + TEST)),
    "the label, in train only": np.where(np.arange(TRAIN + TEST) < TRAIN, LABEL + 0.7 * noise(), noise()),
}


def test_a_column_of_two_values_by_hand() -> None:
    """Its encoding is itself, so its strength is its own AUC."""
    values = (CHANCE > 0.4).astype(np.float64)
    found = strength(column(values), *LABELS)
    assert found.test == pytest.approx(auc(LABELS[1], values[TRAIN:]))
    assert found.train == pytest.approx(auc(LABELS[0], values[:TRAIN]), abs=0.02)
    assert strength(column(-values), *LABELS).test == pytest.approx(found.test)
    assert strength(column(np.where(values == 1, 4, 9)), *LABELS).test == pytest.approx(found.test)


def test_the_chance_itself_is_as_strong_as_can_be() -> None:
    found = strength(column(CHANCE), *LABELS)
    assert found.train == pytest.approx(auc(LABELS[0], CHANCE[:TRAIN]), abs=0.01)
    assert found.test == pytest.approx(auc(LABELS[1], CHANCE[TRAIN:]), abs=0.01)


@pytest.mark.parametrize("name", ["noise", "constant", "missing", "many codes", "each its own code", "many values"])
def test_what_says_nothing_is_near_one_half(name: str) -> None:
    found = strength(column(HARMLESS[name]), *LABELS)
    assert abs(found.train - 0.5) < 0.04
    assert abs(found.test - 0.5) < 0.04


def test_silent_on_harmless_columns() -> None:
    members = [column(values, name) for name, values in HARMLESS.items()]
    (finding,) = check_columns({"item features": members}, *LABELS)
    assert finding.verdict is Verdict.CLEAN
    assert finding.subject == "item features"
    assert finding.figure.startswith(f"best of {len(HARMLESS)}: chance, AUC alone 0.8")


@pytest.mark.parametrize("name", LEAKS)
def test_a_column_that_knows_the_label_is_found(name: str) -> None:
    clean, leak = column(HARMLESS["codes"], "codes"), column(LEAKS[name], name)
    found = check_columns({"item features": [clean, leak]}, *LABELS)
    assert [(one.subject, one.verdict) for one in found] == [
        (f"item features: {name}", Verdict.LEAK),
        ("item features", Verdict.CLEAN),
    ]
    assert "written down after the click" in found[0].advice
    assert ("equals the label" in found[0].figure) == (name not in ("nearly", "not monotone"))


@pytest.mark.parametrize("name", APART)
def test_a_column_that_falls_apart_is_found(name: str) -> None:
    (finding,) = check_columns({"item features": [column(APART[name], name)]}, *LABELS)
    assert finding.verdict is Verdict.LEAK
    assert "labels of the train rows themselves" in finding.advice
    (silent,) = check_columns({"item features": [column(APART[name], name)]}, *LABELS, apart=0.5)
    assert silent.verdict is Verdict.CLEAN


def test_a_test_that_turns_is_not_apart() -> None:
    """Weak on train and the other way round later: the data moved."""
    turned = np.where(np.arange(TRAIN + TEST) < TRAIN, CHANCE, 1 - CHANCE) + 0.6 * noise()
    found = strength(column(turned), *LABELS)
    assert found.train - found.test > 0.2
    (finding,) = check_columns({"item features": [column(turned)]}, *LABELS)
    assert finding.verdict is Verdict.CLEAN


def test_of_computed_inputs_it_is_told() -> None:
    columns = {"evidence": [column(LABEL, "x"), column(APART["the label, in train only"], "y"), column(CHANCE, "z")]}
    (finding,) = check_columns(columns, *LABELS, computed={"evidence"})
    assert finding.verdict is Verdict.TOLD
    assert finding.figure.startswith("1 of 3 very good, 1 fall apart: x, AUC alone 1.000")
    (finding,) = check_columns({"evidence": [column(CHANCE, "z")]}, *LABELS, computed={"evidence"})
    assert finding.verdict is Verdict.CLEAN


def test_the_mark_is_the_callers() -> None:
    (finding,) = check_columns({"x": [column(CHANCE)]}, *LABELS, too_good=0.7)
    assert finding.verdict is Verdict.LEAK


def test_one_label_is_no_label() -> None:
    for train, test in ((np.ones(TRAIN), LABELS[1]), (LABELS[0], np.zeros(TEST)), (LABELS[0], np.zeros(0))):
        values = column(CHANCE)
        (finding,) = check_columns({"x": [InputColumn("x", "y", values.train, values.test[: len(test)])]}, train, test)
        assert finding.verdict is Verdict.SKIPPED
