"""Finding: what one check for leaks found, in one line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a check says."""

    CLEAN = "clean"
    TOLD = "told"
    """A fact to know when figures are read; no fault by itself."""
    LEAK = "leak"
    SKIPPED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    Attributes:
        check: what was asked.
        subject: of which input, column or part.
        verdict: the answer.
        figure: the number behind it.
        advice: what to do; "" where there is nothing to do.
    """

    check: str
    subject: str
    verdict: Verdict
    figure: str
    advice: str = ""
