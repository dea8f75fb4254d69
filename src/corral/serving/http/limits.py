"""Limits of the service that depend on the machine; those of a request's contents are in ``bodies``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        body_bytes: of a request's body.
        seconds: to send a body, and again to be answered; a reload alone may take longer.
        batch_users: lists made by one call of the recommender; a request for more is a call of its own.
        gather_seconds: how long an idle service waits for more requests; while it computes they gather anyway.
        waiting_users: lists waiting to be made; beyond it requests are turned away.
    """

    body_bytes: int = 1 << 20
    seconds: float = 5.0
    batch_users: int = 256
    gather_seconds: float = 0.0
    waiting_users: int = 2_000

    def __post_init__(self) -> None:
        if min(self.body_bytes, self.seconds, self.batch_users, self.waiting_users) <= 0 or self.gather_seconds < 0:
            raise ValueError(f"limits must be positive, got {self}")
