"""One try of one delivery, over HTTP or by mail. Knows no schedule and no database."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from notify import signing
from notify.addresses import NotAllowed, PublicResolver, allowed
from notify.book import Due, Result
from notify.mail import Mailer, MailPutOff, MailRefused

SECONDS = 8
"""For one try; shorter than a process has to end."""
CONNECT_SECONDS = 5
GOOD = range(200, 300)
# What a server says that is too busy: it may name the time to come back.
BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


class Sender:
    """Sends what is due; `http` connects to public addresses only."""

    def __init__(self, http: aiohttp.ClientSession, mailer: Mailer, *, loopback: bool) -> None:
        self._http = http
        self._mailer = mailer
        self._loopback = loopback

    async def send(self, due: Due) -> Result:
        """Try once; every way in which it can fail is a Result."""
        started = time.monotonic()
        result = await (self._call(due, due.url) if due.url else self._mail(due))
        took = round((time.monotonic() - started) * 1000)
        return msgspec.structs.replace(result, milliseconds=took)

    async def _call(self, due: Due, url: str) -> Result:
        headers = signing.headers(str(due.id), datetime.now(UTC), due.body, due.keys)
        headers["Content-Type"] = "application/json"
        try:
            async with self._http.post(
                allowed(url, loopback=self._loopback),
                data=due.body,
                headers=headers,
                # the address that was allowed is called, not one that it names
                allow_redirects=False,
            ) as answer:
                status = answer.status
                asked = answer.headers.get("Retry-After", "")
        except NotAllowed:
            return Result(outcome="address not allowed")
        except TimeoutError:
            return Result(outcome="timed out")
        except (aiohttp.ClientError, OSError):
            return Result(outcome="not reached")
        if status in GOOD:
            return Result(outcome="delivered", delivered=True, status=status)
        if status == HTTPStatus.GONE:
            return Result(outcome="gone", status=status, gone=True)
        wait = float(asked) if status in BUSY and asked.isdecimal() and len(asked) < 8 else None  # noqa: PLR2004 -- longer is no number of seconds
        return Result(outcome="refused", status=status, asked_wait=wait)

    async def _mail(self, due: Due) -> Result:
        if due.address is None:
            return Result(outcome="no address", final=True)
        try:
            await self._mailer.send(due.id, due.address, due.body)
        except MailRefused as error:
            return Result(outcome="refused", status=error.status, final=True)
        except MailPutOff:
            return Result(outcome="put off")
        except ValueError:
            return Result(outcome="no address", final=True)
        return Result(outcome="delivered", delivered=True)


@asynccontextmanager
async def public_session(
    resolver: AbstractResolver | None = None,
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that reaches public addresses only, keeps no cookie and knows no proxy."""
    upstream = resolver or aiohttp.ThreadedResolver(asyncio.get_running_loop())
    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(upstream), use_dns_cache=False, force_close=True, limit=0
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=SECONDS, sock_connect=CONNECT_SECONDS),
        headers={"User-Agent": "Shopstream"},
        auto_decompress=False,
        max_line_size=8190,
        max_field_size=8190,
        trust_env=False,
    ) as session:
        yield session
