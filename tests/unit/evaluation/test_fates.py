from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from corral.evaluation.fates import fates
from corral.evaluation.result import Stage


def test_fates_by_hand() -> None:
    """Places by stage 1, whether it was a candidate, places served (0: nowhere); one target a column."""
    judged = {
        "retriever": np.array([1, 40, 3, 80, 300, 0]),
        "candidates": np.array([1, 1, 1, 1, 0, 0]),
        "ranker": np.array([2, 10, 11, 70, 0, 0]),
    }
    what = fates(cast(Any, SimpleNamespace(targets=judged, served=Stage.RANKER)))
    assert what.found.tolist() == [True, True, False, False, False, False]
    assert what.lost.tolist() == [False, False, True, True, False, False]
    assert what.missed.tolist() == [False, False, False, False, True, True]
    assert what.promoted.tolist() == [False, True, False, False, False, False]
    assert what.demoted.tolist() == [False, False, True, False, False, False]


def test_stage_one_alone_may_show_more_than_its_candidates() -> None:
    """Five candidates; the third target stands at the eighth place of the list that is shown."""
    judged = {"retriever": np.array([1, 5, 8, 30]), "candidates": np.array([1, 1, 0, 0])}
    what = fates(cast(Any, SimpleNamespace(targets=judged, served=Stage.RETRIEVER)))
    assert what.found.tolist() == [True, True, True, False]
    assert what.missed.tolist() == [False, False, False, True]
    assert not what.lost.any()
    assert not what.promoted.any()
    assert not what.demoted.any()
