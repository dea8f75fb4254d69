"""MicroBatches: what many callers ask at about the same time, answered by one call in another thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class BusyError(Exception):
    """As many jobs are waiting as may."""


class MicroBatches(Generic[Job, Answer]):
    """Gathers jobs while the executor works, and for ``gather_seconds`` where it is idle.

    A job whose caller has gone (a time-out, a closed connection) before its batch begins is not done at all.
    If a batch of several fails, each of its jobs is tried alone: one caller's job cannot fail another's.

    Args:
        answer: called in the executor with the jobs; gives one answer for each.
        executor: of one thread, where the answers must not overlap.
        most: largest batch, in the units of the jobs' sizes; a single job may be larger.
        gather_seconds: how long an idle executor waits for company.
        most_waiting: sizes of all waiting jobs; beyond it callers are turned away.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Job]], Sequence[Answer]],
        executor: Executor,
        *,
        most: int,
        gather_seconds: float,
        most_waiting: int,
    ) -> None:
        self._answer, self._executor = answer, executor
        self._most, self._gather_seconds, self._most_waiting = most, gather_seconds, most_waiting
        self._jobs: deque[tuple[Job, int, asyncio.Future[Answer]]] = deque()
        self._waiting = 0
        self._runner: asyncio.Task[None] | None = None

    async def ask(self, job: Job, size: int = 1) -> Answer:
        """The answer to a job.

        Raises:
            BusyError: too many are waiting.
            Exception: whatever ``answer`` raised for this job alone.
        """
        if self._waiting and self._waiting + size > self._most_waiting:
            raise BusyError
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._jobs.append((job, size, future))
        self._waiting += size
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._gather_seconds)
        while self._jobs:
            batch = self._next()
            if not batch:
                continue
            outcomes = await loop.run_in_executor(self._executor, self._outcomes, [job for job, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _next(self) -> list[tuple[Job, asyncio.Future[Answer]]]:
        """The jobs of the next batch that somebody still waits for."""
        batch: list[tuple[Job, asyncio.Future[Answer]]] = []
        total = 0
        while self._jobs and (not batch or total + self._jobs[0][1] <= self._most):
            job, size, future = self._jobs.popleft()
            self._waiting -= size
            if not future.done():
                batch.append((job, future))
                total += size
        return batch

    def _outcomes(self, jobs: Sequence[Job]) -> Sequence[Answer | Exception]:
        try:
            return self._answer(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
        return [self._outcomes([job])[0] for job in jobs]
