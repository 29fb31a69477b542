"""Events in, deadlines and payments: all that moves an order on. Knows no driver."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeAlias, TypeVar

from msgspec import Struct
from opentelemetry import trace

from chassis import telemetry
from checkout.domain import Answer, DeadlinePassed, Op, Pending
from checkout.provider import Provider
from checkout.store.after import After, RefundAsk
from checkout.store.carts import Carts
from checkout.store.customers import Customers
from checkout.store.orders import Orders
from checkout.store.payments import Ask
from checkout.store.projections import Projections
from shop_contracts.envelope import Event
from shop_contracts.events.catalog import ProductPublishedV1, ProductWithdrawnV1
from shop_contracts.events.stock import (
    PriceChangedV1,
    ReservationCommitFailedV1,
    ReservationCommittedV1,
    ReservationExpiredV1,
    ReservationHeldV1,
    ReservationRejectedV1,
    ReservationReleasedV1,
)

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

A = TypeVar("A")

LEASE = timedelta(seconds=30)
DECIDED_LATER = timedelta(minutes=10)
"""When a refund that the provider has yet to decide is looked at, unless a webhook tells sooner."""
PROVIDER_SECONDS = 10
AT_ONCE, ROOM = 80, 16
"""Operations in hand, and for how many there must be room before more are claimed: a claim costs
the same for one as for many."""
PAYMENT_POLL_SECONDS = 0.25
REFUND_POLL_SECONDS = 0.2
SWEEP_SECONDS = 1.0
CART_SECONDS = 0.2
CARTS = 100
"""Sold carts that are settled together; where more wait, the next follow at once."""
FORGET_SECONDS, MARKS = 3_600.0, 1_000
ERASE_SECONDS = 60.0
FAILED_SECONDS = 1.0

Answered: TypeAlias = (
    ReservationHeldV1
    | ReservationRejectedV1
    | ReservationCommittedV1
    | ReservationCommitFailedV1
    | ReservationExpiredV1
    | ReservationReleasedV1
)


class Work(Struct, frozen=True, kw_only=True):
    """What the handlers and loops work on."""

    orders: Orders
    after: After
    projections: Projections
    carts: Carts
    provider: Provider


async def stock_answered(work: Work, event: Event[Answered]) -> None:
    """A step of the order's hold: the saga's table says what follows."""
    await work.orders.apply(event.data.order_id, event.data, event)


async def price_changed(work: Work, event: Event[PriceChangedV1]) -> None:
    """Carts are priced by the newest."""
    await work.projections.price_changed(event)


async def product_published(work: Work, event: Event[ProductPublishedV1]) -> None:
    """Lines are named by the newest."""
    await work.projections.product_published(event)


async def product_withdrawn(work: Work, event: Event[ProductWithdrawnV1]) -> None:
    """What is withdrawn cannot be ordered."""
    await work.projections.product_withdrawn(event)


async def payments(work: Work) -> NoReturn:
    """Ask the provider what the saga wants of it, in no transaction, until there is an answer."""
    await _ask_for_ever(
        work.orders.claim_payments,
        lambda ask: _ask(work, ask),
        PAYMENT_POLL_SECONDS,
        work.orders.asked,
    )


async def refunds(work: Work) -> NoReturn:
    """Ask the provider to give back what was asked for, until there is an answer."""
    await _ask_for_ever(work.after.claim, lambda ask: _ask_back(work, ask), REFUND_POLL_SECONDS)


async def _ask_for_ever(
    claim: Callable[[int, timedelta], Awaitable[list[A]]],
    ask: Callable[[A], Awaitable[None]],
    pause_s: float,
    wake: asyncio.Event | None = None,
) -> NoReturn:
    asking: set[asyncio.Future[None]] = set()

    async def step() -> bool:
        while AT_ONCE - len(asking) < ROOM:
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        room = AT_ONCE - len(asking)
        claimed = await claim(room, LEASE)
        for one in claimed:
            task = asyncio.ensure_future(ask(one))
            asking.add(task)
            task.add_done_callback(asking.discard)
        return len(claimed) == room

    try:
        await _for_ever(step, pause_s, wake)
    finally:
        # an answer that is not recorded now is asked for again when its lease is over
        if asking:
            await asyncio.wait(asking, timeout=PROVIDER_SECONDS)


async def deadlines(work: Work) -> NoReturn:
    """Let the orders know whose time has run out."""

    async def step() -> bool:
        for order_id in await work.orders.overdue():
            await work.orders.apply(order_id, DeadlinePassed())
        return False

    await _for_ever(step, SWEEP_SECONDS)


async def sold_carts(work: Work) -> NoReturn:
    """Take what was confirmed out of its cart, and then let the cart be ordered again.

    A cart that is out of reach, on a node that is away, stands in the way of no other.
    """
    after = ""

    async def step() -> bool:
        nonlocal after
        sold = await work.orders.sold_carts(after, CARTS)
        more = len(sold) == CARTS
        after = sold[-1].cart_id if more else ""
        settled = await asyncio.gather(
            *(work.carts.settle(one.cart_id, str(one.order_id), one.lines) for one in sold),
            return_exceptions=True,
        )
        if free := [one.order_id for one, lost in zip(sold, settled, strict=True) if not lost]:
            await work.orders.free_carts(free)
        for lost in settled:
            if lost is not None:
                raise lost
        return more

    await _for_ever(step, CART_SECONDS)


async def forgetting(work: Work) -> NoReturn:
    """Forget Idempotency-Keys, and which events were seen, after their time."""

    async def step() -> bool:
        await work.orders.forget_keys()
        return await work.orders.forget_seen(MARKS)

    await _for_ever(step, FORGET_SECONDS)


async def erasures(customers: Customers) -> NoReturn:
    """Take persons out of orders that have ended since their customers were erased."""
    await _for_ever(customers.finish_erasures, ERASE_SECONDS)


async def _ask(work: Work, ask: Ask) -> None:
    with tracer.start_as_current_span(
        f"payment {ask.op}",
        context=telemetry.extract(ask.traceparent),
        attributes={"shop.payment.attempt": ask.attempt},
    ):
        await _ask_once(work, ask)


async def _ask_back(work: Work, ask: RefundAsk) -> None:
    with tracer.start_as_current_span(
        "refund",
        context=telemetry.extract(ask.traceparent),
        attributes={"shop.payment.attempt": ask.attempt},
    ):
        await _ask_back_once(work, ask)


async def _ask_back_once(work: Work, ask: RefundAsk) -> None:
    try:
        async with asyncio.timeout(PROVIDER_SECONDS):
            answer = None
            if ask.attempt > 1:  # an attempt without an answer may have been carried out
                answer = await work.provider.refunded(ask.key, ask.ref)
            answer = answer or await work.provider.refund(ask.key, ask.ref, ask.amount_minor)
        if isinstance(answer, Pending):
            await work.after.pending(ask, answer, DECIDED_LATER)
        else:
            await work.after.answered(ask, answer)
    except Exception as error:  # noqa: BLE001 - no answer, for whatever reason: ask again
        log.warning("refund %s, attempt %d: %r", ask.refund_id, ask.attempt, error)
        with suppress(Exception):  # the lease ends by itself
            await work.after.later(ask, _pause(ask.attempt))


async def _ask_once(work: Work, ask: Ask) -> None:
    try:
        async with asyncio.timeout(PROVIDER_SECONDS):
            answer = None
            if ask.attempt > 1:  # an attempt without an answer may have been carried out
                answer = await work.provider.known(ask.op, ask.key, ask.ref)
            answer = answer or await _answer(work.provider, ask)
        await work.orders.answered(ask, answer)
    except Exception as error:  # noqa: BLE001 - no answer, for whatever reason: ask again
        log.warning("%s of order %s, attempt %d: %r", ask.op, ask.order_id, ask.attempt, error)
        with suppress(Exception):  # the lease ends by itself
            await work.orders.later(ask, _pause(ask.attempt))


def _pause(attempt: int) -> timedelta:
    return timedelta(seconds=min(2 ** min(attempt, 8) / 4, 60))


async def _answer(provider: Provider, ask: Ask) -> Answer:
    match ask.op:
        case Op.AUTH:
            return await provider.authorise(ask.key, ask.token, ask.amount_minor, ask.currency)
        case Op.CAPTURE:
            return await provider.capture(ask.key, ask.ref, ask.amount_minor)
        case Op.VOID:
            return await provider.void(ask.key, ask.ref)


async def _for_ever(
    step: Callable[[], Awaitable[bool]], pause_s: float, wake: asyncio.Event | None = None
) -> NoReturn:
    """Repeat the step, at once while it finds more to do; a failed one is tried again.

    `wake` ends a pause: this process knows of work. What others make is found by looking.
    """
    wake = wake or asyncio.Event()
    while True:
        wake.clear()
        try:
            more = await step()
        except Exception:
            log.exception("a step failed and is tried again")
            await asyncio.sleep(FAILED_SECONDS)
        else:
            if not more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await wake.wait()


Handler: TypeAlias = Callable[[Work, Event[Any]], Awaitable[None]]

STOCK_HANDLERS: dict[type[Any], Handler] = {
    ReservationHeldV1: stock_answered,
    ReservationRejectedV1: stock_answered,
    ReservationCommittedV1: stock_answered,
    ReservationCommitFailedV1: stock_answered,
    ReservationReleasedV1: stock_answered,
    ReservationExpiredV1: stock_answered,
    PriceChangedV1: price_changed,
}
CATALOG_HANDLERS: dict[type[Any], Handler] = {
    ProductPublishedV1: product_published,
    ProductWithdrawnV1: product_withdrawn,
}
LOOPS = (payments, refunds, deadlines, sold_carts, forgetting)
