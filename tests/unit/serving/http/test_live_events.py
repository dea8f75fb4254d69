"""The stores of live events keep one contract; SQLite's file also survives what files meet."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import BINARY, MISSING, redis_server

from corral.serving.http.live_events import Event, LiveEvents, StoreError
from corral.serving.http.redis_events import RedisEvents
from corral.serving.http.sqlite_events import SqliteEvents

LOWEST, HIGHEST = -(2**63), 2**63 - 1


@pytest.fixture(scope="module")
def real_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server, where there is one to start."""
    if BINARY is None:
        pytest.skip(MISSING)
    with redis_server(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


def opened(kind: str, path: Path, request: pytest.FixtureRequest) -> LiveEvents:
    """An empty store."""
    if kind == "sqlite":
        return SqliteEvents(path)
    if kind == "fakeredis":
        return RedisEvents(fakeredis.FakeRedis())
    url = request.getfixturevalue("real_redis")
    redis.Redis.from_url(url).flushdb()
    return RedisEvents.at(url, 10.0)


every_store = pytest.mark.parametrize("kind", ["sqlite", "fakeredis", "redis-server"])


@pytest.fixture(params=["sqlite", "fakeredis", "redis-server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveEvents]:
    made = opened(request.param, tmp_path / "events.sqlite", request)
    yield made
    made.close()


def test_later_events_oldest_first(store: LiveEvents) -> None:
    store.append([Event("u", "late", 30), Event("u", "early", 10), Event("v", "other", 20)])
    store.append([Event("u", "middle", 20)])
    assert store.since(["u", "v", "w"], 9, 10) == {"u": ["early", "middle", "late"], "v": ["other"]}
    assert store.since(["u", "v"], 10, 10) == {"u": ["middle", "late"], "v": ["other"]}  # strictly later
    assert store.since(["u"], 9, 2) == {"u": ["middle", "late"]}  # the latest ones
    assert store.since(["u"], 30, 10) == {}
    assert store.since([], 0, 10) == {}
    store.check()


def test_an_event_sent_again_counts_once(store: LiveEvents) -> None:
    store.append([Event("u", "a", 1), Event("u", "a", 1), Event("u", "a", 2)])
    store.append([Event("u", "a", 1)])
    assert store.since(["u"], 0, 10) == {"u": ["a", "a"]}


def test_ids_keep_their_type_and_every_character(store: LiveEvents) -> None:
    ids = ["1", "ü'\";--", "a\0b", " ", "\u2028", "🐎", "1e3"]
    store.append([Event(1, number, HIGHEST) for number in (LOWEST, HIGHEST, 0)])
    store.append([Event(one, one, time) for time, one in enumerate(ids)])
    assert sorted(store.since([1], 0, 10)[1]) == [LOWEST, 0, HIGHEST]
    assert store.since(ids, -1, 10) == {one: [one] for one in ids}
    assert store.since([2, 1], HIGHEST, 10) == {}


events = st.lists(
    st.builds(
        Event, st.sampled_from([1, 2]), st.integers(0, 5), st.integers(-3, 3) | st.sampled_from([LOWEST, HIGHEST])
    ),
    max_size=12,
)


@every_store
@given(batches=st.lists(events, max_size=4), time=st.integers(-4, 4), last=st.integers(1, 5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_a_sorted_list(
    kind: str, request: pytest.FixtureRequest, batches: list[list[Event]], time: int, last: int
) -> None:
    """Each against Python; the order of equal times is the store's own."""
    store = opened(kind, Path(":memory:"), request)
    if isinstance(store, SqliteEvents):  # two connections to :memory: are two databases
        store._connections["read"] = store._connections["write"]
    kept: set[Event] = set()
    for batch in batches:
        store.append(batch)
        kept |= set(batch)
    for user in (1, 2):
        later = [event for event in kept if event.user == user and event.time > time]
        times = {(event.item, event.time) for event in later}
        found = store.since([user], time, 100).get(user, [])
        assert sorted(found) == sorted(item for item, _ in times)
        some = store.since([user], time, last).get(user, [])
        assert some == found[-last:]
        wanted = sorted(event.time for event in later)
        # each place of the list holds an item that has an event of the time due there
        assert all((item, due) in times for item, due in zip(found, wanted, strict=True))
    store.close()


def test_a_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    store = SqliteEvents(path)
    store.append([Event(1, 2, 3)])
    other = SqliteEvents(path)  # another server of this machine
    other.append([Event(1, 4, 5)])
    assert store.since([1], 0, 10) == {1: [2, 4]}
    store.close()
    other.close()
    again = SqliteEvents(path)
    assert again.since([1], 0, 10) == {1: [2, 4]}
    again.close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    store = SqliteEvents(tmp_path / "events.sqlite")
    for connection in store._connections.values():
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.close()


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    store = SqliteEvents(tmp_path / "events.sqlite")
    with pytest.raises(StoreError):
        store.append([Event(1, 2, 3), Event(1, None, 4)])  # type: ignore[arg-type]
    assert store.since([1], 0, 10) == {}
    store.append([Event(1, 2, 3)])  # and goes on
    assert store.since([1], 0, 10) == {1: [2]}
    store.close()


def test_many_threads(tmp_path: Path) -> None:
    store = SqliteEvents(tmp_path / "events.sqlite")

    def write_and_read(user: int) -> list[int | str]:
        for time in range(20):
            store.append([Event(user, time, time)])
        return store.since([user], -1, 100)[user]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write_and_read, range(8))) == [list(range(20))] * 8
    store.close()


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database at all, but long enough to look at " * 20)
    with pytest.raises(ValueError, match="text: cannot keep live events there"):
        SqliteEvents(text)
    with pytest.raises(ValueError, match="cannot keep live events there"):
        SqliteEvents(tmp_path / "no" / "folder")
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(ValueError, match="format 9; this corral reads up to 1"):
        SqliteEvents(newer)


@pytest.mark.skipif(BINARY is None, reason=MISSING)
def test_a_killed_redis_loses_no_acknowledged_event(tmp_path: Path) -> None:
    kept = []
    for number in range(3):
        with redis_server(tmp_path) as (url, process):
            store = RedisEvents.at(url, 10.0)
            assert store.since([1], -1, 100).get(1, []) == kept
            for time in range(10 * number, 10 * number + 10):
                store.append([Event(1, time, time)])
                kept.append(time)
            process.kill()  # SIGKILL
            process.wait()
            with pytest.raises(StoreError):
                store.check()
            store.close()


def test_a_redis_that_is_gone_is_a_store_error() -> None:
    server = fakeredis.FakeServer()
    store = RedisEvents(fakeredis.FakeRedis(server=server))
    server.connected = False
    for call in (store.check, lambda: store.append([Event(1, 2, 3)]), lambda: store.since([1], 0, 1)):
        with pytest.raises(StoreError):
            call()
    assert issubclass(redis.TimeoutError, redis.RedisError)


def test_a_forgotten_user_leaves_no_event(store: LiveEvents) -> None:
    store.append([Event(user, f"item {n}", n) for n in range(200) for user in ("gone-for-good", "other", 7)])
    assert store.forget("gone-for-good") == 200
    assert store.forget("gone-for-good") == 0
    assert store.since(["gone-for-good", "other"], 197, 9) == {"other": ["item 198", "item 199"]}
    if isinstance(store, SqliteEvents):  # nor in free pages, or in the log beside it
        assert all(b"gone-for-good" not in file.read_bytes() for file in store.path.parent.glob(f"{store.path.name}*"))
    assert store.forget(7) == 200
