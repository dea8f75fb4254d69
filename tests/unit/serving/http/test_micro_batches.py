"""MicroBatches: gathers what comes together, answers each its own, and turns away what is too much."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from corral.serving.http.micro_batches import BusyError, MicroBatches


class Doubling:
    """Answers 2 x; notes its batches; waits while ``open`` is not set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        assert self.open.wait(10)
        if 13 in jobs:
            raise ValueError("thirteen")
        return [2 * job for job in jobs]


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def batches(
    doubling: Doubling, executor: ThreadPoolExecutor, most: int = 8, waiting: int = 100
) -> MicroBatches[int, int]:
    return MicroBatches(doubling, executor, most=most, gather_seconds=0.01, most_waiting=waiting)


def test_what_comes_together_is_one_call(doubling: Doubling, executor: ThreadPoolExecutor) -> None:
    async def main() -> list[int]:
        asks = batches(doubling, executor)
        return await asyncio.gather(*(asks.ask(job) for job in range(6)))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10]
    assert doubling.batches == [[0, 1, 2, 3, 4, 5]]


def test_sizes_bound_a_batch_but_not_a_single_job(doubling: Doubling, executor: ThreadPoolExecutor) -> None:
    async def main() -> list[int]:
        asks = batches(doubling, executor)
        return await asyncio.gather(*(asks.ask(size, size) for size in (5, 3, 1, 20, 2)))

    assert asyncio.run(main()) == [10, 6, 2, 40, 4]
    assert doubling.batches == [[5, 3], [1], [20], [2]]


def test_a_failing_job_fails_alone(doubling: Doubling, executor: ThreadPoolExecutor) -> None:
    async def main() -> list[object]:
        asks = batches(doubling, executor)
        return await asyncio.gather(*(asks.ask(job) for job in (1, 13, 3)), return_exceptions=True)

    first, failed, last = asyncio.run(main())
    assert (first, last) == (2, 6)
    assert str(failed) == "thirteen"


def test_jobs_nobody_waits_for_are_not_done(doubling: Doubling, executor: ThreadPoolExecutor) -> None:
    async def main() -> None:
        asks = batches(doubling, executor, most=1)
        doubling.open.clear()
        first = asyncio.create_task(asks.ask(1))
        while not doubling.batches:
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asks.ask(2)
        third = asyncio.create_task(asks.ask(3))
        await asyncio.sleep(0)
        doubling.open.set()
        assert (await first, await third) == (2, 6)

    asyncio.run(main())
    assert doubling.batches == [[1], [3]]


def test_too_many_are_turned_away_and_come_again(doubling: Doubling, executor: ThreadPoolExecutor) -> None:
    async def main() -> None:
        asks = batches(doubling, executor, most=1, waiting=3)
        doubling.open.clear()
        running = asyncio.create_task(asks.ask(0))
        while not doubling.batches:
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(asks.ask(job)) for job in (1, 2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await asks.ask(4)
        doubling.open.set()
        assert await asyncio.gather(running, *waiting) == [0, 2, 4, 6]
        assert await asks.ask(4) == 8

    asyncio.run(main())
