"""corral: two-stage recommenders whose stages teach each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.two_stage import TwoStage

__version__ = "0.1.0"
__all__ = ["TwoStage"]


def __getattr__(name: str) -> object:
    """``corral.TwoStage``, imported when it is asked for: with it come torch and all the rest."""
    if name == "TwoStage":
        from corral.two_stage import TwoStage

        return TwoStage
    raise AttributeError(f"module 'corral' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
