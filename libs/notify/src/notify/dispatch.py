"""Sends what is due, for ever: many receivers side by side, a few tries for each at once."""

import asyncio
from collections import Counter as Count
from typing import NoReturn
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from chassis.problems import Unavailable
from notify.book import Book, Due
from notify.sender import Sender

AT_ONCE = 64
EACH = 4
"""Tries for one receiver at once: a slow one takes no more of them than this."""
POLL_SECONDS = 0.5
SWEEP_SECONDS = 3_600.0

_log = structlog.stdlib.get_logger(__name__)
_tries = Counter("notify_tries", "Tries of deliveries, by channel and outcome.", ("to", "outcome"))
_given_up = Counter("notify_given_up", "Deliveries that are tried no more.", ("to",))
_waiting = Gauge("notify_waiting", "Deliveries that have not ended.")


async def dispatch(book: Book, sender: Sender, *, poll_seconds: float = POLL_SECONDS) -> NoReturn:
    """Claim and send for as long as the task lives; any number of processes may do so.

    Cancelled, it claims nothing more and finishes what it has in hand.
    """
    running: dict[asyncio.Task[None], UUID | None] = {}
    try:
        while True:
            try:
                found = await _claim(book, running)
                if not found:
                    _waiting.set(await book.waiting())
            except Unavailable as error:
                _log.warning("dispatch put off", reason=str(error))
                found = []
            for due in found:
                running[asyncio.create_task(_one(book, sender, due))] = due.webhook_id
            if running:
                done, _ = await asyncio.wait(
                    running, timeout=poll_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del running[task]
            else:
                await asyncio.sleep(poll_seconds)
    finally:
        if running:
            await asyncio.wait(running)


async def sweep(book: Book) -> NoReturn:
    """Forget what ended long ago, every hour."""
    while True:
        try:
            while await book.sweep():
                pass
        except Unavailable as error:
            _log.warning("sweep of deliveries put off", reason=str(error))
        await asyncio.sleep(SWEEP_SECONDS)


async def _claim(book: Book, running: dict[asyncio.Task[None], UUID | None]) -> list[Due]:
    free = AT_ONCE - len(running)
    if not free:
        return []
    shares = Count(webhook for webhook in running.values() if webhook is not None)
    busy = [webhook for webhook, share in shares.items() if share >= EACH]
    left = EACH - max((share for share in shares.values() if share < EACH), default=0)
    return await book.claim(free, busy, each=left)


async def _one(book: Book, sender: Sender, due: Due) -> None:
    result = await sender.send(due)
    channel = "webhook" if due.webhook_id else "mail"
    _tries.labels(channel, result.outcome).inc()
    # no address and no text: people's data stays out of logs
    _log.info(
        "tried",
        delivery=str(due.id),
        webhook=str(due.webhook_id or ""),
        number=due.tries + 1,
        outcome=result.outcome,
        status=result.status,
    )
    try:
        if await book.record(due, result):
            _given_up.labels(channel).inc()
            _log.error("given up", delivery=str(due.id), tries=due.tries + 1)
    except Unavailable as error:
        # its lease ends, and it is sent once more under the same id
        _log.warning("a try was not recorded", delivery=str(due.id), reason=str(error))
