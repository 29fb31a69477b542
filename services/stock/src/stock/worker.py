"""What stock does by itself: steps of orders, the end of holds, imports. Knows no driver."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import structlog

from bus.consumer import Permanent
from chassis import telemetry
from chassis.problems import Unavailable
from feeds import jobs
from feeds.rows import Row
from shop_contracts.envelope import Event
from shop_contracts.events.checkout import (
    OrderAuthorisedV1,
    OrderCancelledV1,
    OrderPlacedV1,
    OrderRefundedV1,
)
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.types import Line
from stock import bulk
from stock.domain import TooManyLines
from stock.prices import MAX_PRICES, PriceEntry
from stock.store import StockStore
from stock.store.holds import Step
from stock.store.offers import Offer

SWEEP_SECONDS = 0.5
TURN_SECONDS = 0.2
IMPORT_POLL_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)
# A row with several offers has the first of these that one of them had.
_OUTCOMES = {
    "short": jobs.failed("insufficient-stock", "more units are reserved than the feed says exist"),
    "full": jobs.failed("too-many-prices", f"a SKU has at most {MAX_PRICES} prices"),
    "created": jobs.CREATED,
    "updated": jobs.UPDATED,
    "unchanged": jobs.UNCHANGED,
}


class TooEarly(Exception):
    """The event overtook another one of its order: try it again later."""


async def order_placed(store: StockStore, event: Event[OrderPlacedV1]) -> None:
    """Hold all lines of the order, or none; what its reservation holds becomes the order's."""
    lines = [(line.sku, line.qty) for line in event.data.lines]
    try:
        await store.holds.reserve(
            event.data.order_id,
            lines,
            event.meta.id,
            telemetry.inject(),
            event.data.reservation_id,
        )
    except TooManyLines as error:
        raise Permanent(str(error)) from error


async def order_authorised(store: StockStore, event: Event[OrderAuthorisedV1]) -> None:
    """Sell what the order holds."""
    await _finish(store, "commit", event.data.order_id, event.data.lines, event.meta.id)


async def order_cancelled(store: StockStore, event: Event[OrderCancelledV1]) -> None:
    """Give back what the order holds, or what it bought when the money could not be captured."""
    step: Step = "return" if event.data.reason is CancelReason.CAPTURE_REFUSED else "release"
    await _finish(store, step, event.data.order_id, event.data.lines, event.meta.id)


async def order_refunded(store: StockStore, event: Event[OrderRefundedV1]) -> None:
    """Put back for sale what the refund says is fit for it."""
    if not event.data.restocked:
        return
    pairs = [(line.sku, line.qty) for line in event.data.restocked]
    order = event.data.order_id
    try:
        outcome = await store.holds.restock(order, pairs, event.meta.id, telemetry.inject())
    except TooManyLines as error:
        raise Permanent(str(error)) from error
    if outcome == "early":
        raise TooEarly(f"nothing of order {order} is sold yet")
    if outcome == "conflict":
        raise Permanent(f"order {order} did not sell what is to be put back")


async def _finish(
    store: StockStore, step: Step, order: UUID, lines: Sequence[Line], cause: UUID
) -> None:
    pairs = [(line.sku, line.qty) for line in lines]
    try:
        outcome = await store.holds.finish(step, order, pairs, cause, telemetry.inject())
    except TooManyLines as error:
        raise Permanent(str(error)) from error
    if outcome == "conflict":
        # Parked for a person: checkout and stock disagree, and no repetition can heal that.
        raise Permanent(f"{step} does not fit what stock knows of order {order}")


async def sweep(store: StockStore) -> NoReturn:
    """End the holds whose time is over. Steps do so too where such a hold is in their way."""
    while True:
        try:
            while await store.holds.expire_due():
                pass
        except Unavailable as error:
            _log.warning("sweep put off", reason=str(error))
        await asyncio.sleep(SWEEP_SECONDS)


async def turn_prices(store: StockStore) -> NoReturn:
    """Tell of prices that begin or end by themselves, also those that did while nobody was up."""
    while True:
        try:
            while await store.prices.turn_due():
                pass
        except Unavailable as error:
            _log.warning("price boundaries put off", reason=str(error))
        await asyncio.sleep(TURN_SECONDS)


async def carry_imports(store: StockStore, spool: Path) -> NoReturn:
    """Run the jobs of the spool, one after the other, oldest first."""

    async def apply(rows: Sequence[Row]) -> Sequence[jobs.Outcome]:
        return await apply_rows(store, rows)

    while True:
        job = jobs.next_queued(spool)
        if job is None:
            await asyncio.sleep(IMPORT_POLL_SECONDS)
            continue
        try:
            kind = jobs.load(job).format
            if kind in bulk.KINDS:
                done = await bulk.carry(store, job, kind)
            else:
                done = await jobs.run(job, apply)
            _log.info("import ended", job=done.id, state=done.state, rows=done.rows)
        except Unavailable as error:
            _log.warning("import put off", job=job.name, reason=str(error))
            await asyncio.sleep(IMPORT_POLL_SECONDS)


async def apply_rows(store: StockStore, rows: Sequence[Row]) -> list[jobs.Outcome]:
    """Take over stock and prices of the rows' offers; one outcome for each row."""
    offers = [offer for row in rows for offer in row.offers]
    changes = iter(
        await store.offers.put(
            [
                Offer(
                    sku=offer.sku,
                    stock=offer.stock,
                    prices=[
                        PriceEntry(
                            currency=price.currency,
                            amount_minor=price.amount_minor,
                            list_minor=price.list_minor,
                        )
                        for price in offer.prices
                    ],
                )
                for offer in offers
            ],
            telemetry.inject(),
        )
    )
    outcomes = []
    for row in rows:
        seen = {next(changes) for _ in row.offers}
        outcomes.append(next((o for kind, o in _OUTCOMES.items() if kind in seen), jobs.UNCHANGED))
    return outcomes


HANDLERS: Mapping[type[Any], Callable[[StockStore, Event[Any]], Awaitable[None]]] = {
    OrderPlacedV1: order_placed,
    OrderAuthorisedV1: order_authorised,
    OrderCancelledV1: order_cancelled,
    OrderRefundedV1: order_refunded,
}
