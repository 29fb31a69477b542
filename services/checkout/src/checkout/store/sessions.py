"""Who is signed in, in Redis: a token's hash and the customer's id. Knows no name and no address.

A session that Redis has lost costs its customer a new sign-in and nothing else. It ends some time
after it was last used, and at the latest some time after it began.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from uuid import UUID

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from chassis.problems import Unavailable
from chassis.redis import FAILED, Script
from checkout.store.problems import TooManySignIns

HERE = Path(__file__).parent
TOKEN_BYTES = 32


class Session(Struct, frozen=True, array_like=True):
    """What stands under a token's hash; `until` in seconds since 1970."""

    customer: UUID
    until: int


class Sessions:
    """The sessions of one Redis, under one prefix."""

    def __init__(self, redis: Redis, prefix: str, idle_s: int, most_s: int) -> None:
        self._redis = redis
        self._prefix = prefix
        self._idle_s = idle_s
        self._most_s = most_s

    async def begin(self, customer: UUID, instead_of: str | None = None) -> str:
        """The token of a new session; the one that the browser had before ends."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        until = int(time()) + self._most_s
        value = msgspec.json.encode(Session(customer, until))
        with _reachable():
            if instead_of is not None:
                await self.end(instead_of)
            # first the list: what is not on it could not be ended from elsewhere
            async with self._redis.pipeline(transaction=True) as pipe:
                # a pipeline's commands are sent by `execute`
                _ = pipe.zremrangebyscore(self._all(customer), 0, int(time()))
                _ = pipe.zadd(self._all(customer), {_digest(token): until})
                _ = pipe.expire(self._all(customer), self._most_s)
                await pipe.execute()
            lasts = min(self._idle_s, self._most_s)
            await self._redis.set(self._key(_digest(token)), value, ex=lasts)
        return token

    async def customer(self, token: str) -> UUID | None:
        """Whose session this is; using it makes it last."""
        key = self._key(_digest(token))
        with _reachable():
            value = await self._redis.getex(key, ex=self._idle_s)
            if value is None:
                return None
            session = msgspec.json.decode(value, type=Session)
            if session.until <= time():
                await self._redis.unlink(key)
                return None
        return session.customer

    async def end(self, token: str) -> None:
        """Sign out; a session that is over is over."""
        with _reachable():
            await self._redis.unlink(self._key(_digest(token)))

    async def end_all(self, customer: UUID) -> None:
        """Sign the customer out everywhere."""
        with _reachable():
            for digest in await self._redis.zrange(self._all(customer), 0, -1):
                await self._redis.unlink(self._key(str(digest)))
            await self._redis.unlink(self._all(customer))

    async def count(self, customer: UUID) -> int:
        """How many sessions the customer may still have open."""
        with _reachable():
            return int(await self._redis.zcount(self._all(customer), int(time()), "+inf"))

    def _key(self, digest: str) -> str:
        return f"{self._prefix}session:{digest}"

    def _all(self, customer: UUID) -> str:
        return f"{self._prefix}session:of:{customer.hex}"


class Limits:
    """How often somebody may ask for a sign-in; they are counted under a hash of who they are."""

    def __init__(self, redis: Redis, prefix: str, seconds: int) -> None:
        self._prefix = prefix
        self._seconds = seconds
        self._counting = Script(redis, (HERE / "count.lua").read_text())

    async def count(self, kind: str, who: str) -> tuple[int, int]:
        """How often it is with this time, and in how many seconds the count begins anew."""
        key = f"{self._prefix}limit:{kind}:{_digest(who)[:32]}"
        with _reachable():
            times, left = await self._counting([key], [self._seconds])
        return times, max(left, 1)

    async def refuse_more_than(self, most: int, kind: str, who: str) -> None:
        """Count it. Raises TooManySignIns."""
        times, left = await self.count(kind, who)
        if times > most:
            raise TooManySignIns(headers={"Retry-After": str(left)})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except FAILED as error:
        raise Unavailable("Sessions cannot be reached.") from error
