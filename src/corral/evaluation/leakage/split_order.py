"""The split itself: does training end before the test begins, and what does the split say of itself?"""

from __future__ import annotations

import numpy as np

from corral.data.split import Part, Split
from corral.evaluation.leakage.finding import Finding, Verdict

CHECK = "the split"
CUT_ADVICE = "a time cut must end one part before the next begins: make the split again (rule time-cut)"
OTHER_ADVICE = "figures are optimistic: judge a system by the time cut, compare with published ones by this"


def check_split_order(split: Split, time: np.ndarray | None) -> list[Finding]:
    """Events of an earlier part that are not before a later part.

    Args:
        split: the parts.
        time: of each event [N]; None where the log knows only an order.
    """
    said = [Finding(CHECK, f"rule {split.name}", Verdict.TOLD, split.warning)] if split.warning else []
    if time is None:
        return [*said, Finding(CHECK, "order in time", Verdict.SKIPPED, "the events have an order but no times")]
    found = []
    for earlier, later in ((Part.TRAIN, Part.VALID), (Part.TRAIN, Part.TEST), (Part.VALID, Part.TEST)):
        before, after = split.rows(earlier), split.rows(later)
        if not (len(before) and len(after)):
            continue
        names = (earlier.name.lower(), later.name.lower())
        late = int((time[before] >= time[after].min()).sum())
        subject, share = f"{names[0]} before {names[1]}", f"{late:,} of {len(before):,}"
        figure = f"{share} {names[0]} events at or after the first {names[1]} event"
        if not late:
            found.append(Finding(CHECK, subject, Verdict.CLEAN, figure))
        elif split.name == "time-cut":
            found.append(Finding(CHECK, subject, Verdict.LEAK, figure, CUT_ADVICE))
        else:
            found.append(Finding(CHECK, subject, Verdict.TOLD, figure, OTHER_ADVICE))
    return said + found
