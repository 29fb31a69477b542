"""Follows stock's own stream and tells those who wait. Knows no driver.

It begins again some minutes before where it stopped: a SKU's version tells what is no news. Any
number of processes may follow, and all of them together tell each only once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import NoReturn

import structlog

from bus import replay
from bus.broker import BROKER_ERRORS, pause
from bus.replay import Logged
from chassis.problems import Unavailable
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1
from stock.waiting import Priced, Waiting, amounts

OWNER = "stock"
BATCH = 200
BATCH_SECONDS = 0.02
# The stream finds a time by when an event was stored, by another clock than the event's.
MARGIN = timedelta(minutes=10)
REMEMBER_SECONDS = 5.0
PATIENCE_POLL_SECONDS = 5.0

_log = structlog.stdlib.get_logger(__name__)


async def follow(broker_url: str, waiting: Waiting) -> NoReturn:
    """Tell whoever waits for what the stream says, for as long as the task lives."""
    while True:
        try:
            at = await waiting.progress(OWNER)
            await _follow(broker_url, waiting, "first" if at is None else at - MARGIN)
        except (Unavailable, *BROKER_ERRORS) as error:
            _log.warning("the stream is followed again", error=type(error).__name__)
        await pause()


async def _follow(broker_url: str, waiting: Waiting, since: str | datetime) -> None:
    loop = asyncio.get_running_loop()
    remembered = 0.0
    async with (
        aclosing(replay.follow(broker_url, OWNER, since)) as stream,
        aclosing(_batches(stream)) as batches,
    ):
        async for batch in batches:
            told = await tell(waiting, batch)
            if told or loop.time() > remembered + REMEMBER_SECONDS:
                await waiting.come_to(OWNER, batch[-1].meta.time)
                remembered = loop.time()


async def _batches(stream: AsyncIterator[Logged]) -> AsyncGenerator[list[Event[Fact]]]:
    """What has arrived, soon after something has."""
    arrived: asyncio.Queue[Event[Fact]] = asyncio.Queue(BATCH)
    reading = asyncio.create_task(_read(stream, arrived))
    coming: asyncio.Task[Event[Fact]] | None = None
    try:
        while True:
            coming = asyncio.create_task(arrived.get())
            await asyncio.wait([coming, reading], return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                await reading  # it never ends without an error
            await asyncio.sleep(BATCH_SECONDS)
            yield [await coming, *(arrived.get_nowait() for _ in range(arrived.qsize()))]
    finally:
        ending = [task for task in (reading, coming) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


async def _read(stream: AsyncIterator[Logged], arrived: asyncio.Queue[Event[Fact]]) -> None:
    async for logged in stream:
        await arrived.put(logged.event)


async def tell(waiting: Waiting, events: Sequence[Event[Fact]]) -> int:
    """Tell those whose turn it is after these events; how many. Raises Unavailable.

    An event that cannot be worked costs its own alerts, not those of others.
    """
    try:
        return await _tell(waiting, events)
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 -- the one that it was is found below
        if len(events) == 1:
            _log.error("nobody was told", id=str(events[0].meta.id), exc_info=error)
            return 0
    return sum([await tell(waiting, [event]) for event in events])


async def _tell(waiting: Waiting, events: Sequence[Event[Fact]]) -> int:
    levels: list[tuple[str, int, int]] = []
    prices: list[Priced] = []
    for event in events:
        version = event.meta.entityversion
        match event.data:
            case StockChangedV1(sku=sku, available=available):
                levels.append((sku, version, available))
            case PriceChangedV1(sku=sku, prices=changed):
                prices.append(Priced(sku=sku, version=version, amounts=amounts(changed)))
    return await waiting.moved(levels) + await waiting.priced(prices)


async def patience(waiting: Waiting) -> NoReturn:
    """Offer what nobody took to the next in line."""
    while True:
        try:
            while await waiting.offer_again():
                pass
        except Unavailable as error:
            _log.warning("the next in line have to wait", reason=str(error))
        await asyncio.sleep(PATIENCE_POLL_SECONDS)
