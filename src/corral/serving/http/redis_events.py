"""RedisEvents: live events in Redis, where servers on several machines share them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from corral.serving.http.live_events import Event, Id, StoreError

if TYPE_CHECKING:
    from redis import Redis

PREFIX = "corral:events:"
# Sixteen hexadecimal digits sort as the times they stand for: scores of a sorted set are floats, which would not do.
_LOWEST = 2**63


class RedisEvents:
    """A ``LiveEvents`` in Redis: one sorted set a user, ordered by its members' text.

    What an acknowledgement is worth is up to the server: with ``appendonly yes`` and ``appendfsync always`` it
    is on the disk; with Redis's defaults a crash may lose the last second.

    Args:
        redis: a client; its time-out bounds every call.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @classmethod
    def at(cls, url: str, timeout_seconds: float) -> RedisEvents:
        """The store at ``redis://host:port/number`` (or ``rediss://``)."""
        from redis import Redis

        return cls(Redis.from_url(url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds))

    def append(self, events: Sequence[Event]) -> None:
        """See ``LiveEvents``; all of them or none."""
        pipe = self._redis.pipeline(transaction=True)
        for event in events:
            pipe.zadd(_key(event.user), {_stamp(event.time) + json.dumps(event.item): 0.0})
        _run(pipe.execute)

    def since(self, users: Sequence[Id], time: int, last: int) -> dict[Id, list[Id]]:
        """See ``LiveEvents``; equal times in the order of the item ids' text."""
        pipe = self._redis.pipeline(transaction=False)
        for user in users:
            pipe.zrevrangebylex(_key(user), "+", f"({_stamp(time)}\x7f", 0, last)
        answers = _run(pipe.execute)
        return {
            user: [json.loads(member[16:]) for member in reversed(members)]
            for user, members in zip(users, answers, strict=True)
            if members
        }

    def forget(self, user: Id) -> int:
        """See ``LiveEvents``; Redis's own append-only file holds the id until it is next rewritten."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.zcard(_key(user))
        pipe.delete(_key(user))
        return int(_run(pipe.execute)[0])

    def check(self) -> None:
        """See ``LiveEvents``."""
        _run(self._redis.ping)

    def close(self) -> None:
        """See ``LiveEvents``."""
        self._redis.close()


def _key(user: Id) -> str:
    return PREFIX + json.dumps(user)


def _stamp(time: int) -> str:
    return f"{time + _LOWEST:016x}"


def _run(command: Callable[[], Any]) -> Any:
    from redis import RedisError

    try:
        return command()
    except RedisError as error:
        raise StoreError(f"redis: {type(error).__name__}") from error
