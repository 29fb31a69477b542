"""The saga over the real broker: the test plays stock, with nothing but the contracts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import aio_pika
import pytest
import uuid_utils.compat as uuids
from aiohttp.test_utils import TestClient

from bus.consumer import consume
from bus.relay import relay
from bus.sql import SqlOutbox
from chassis.database import Database
from chassis.problems import NotFound, Unavailable
from checkout import app, worker
from checkout.domain import Approved, Timers
from checkout.letters import Shop
from checkout.provider import Provider
from checkout.settings import Settings
from checkout.store import tables
from checkout.store.after import After
from checkout.store.carts import Carts
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from payments.app import Simulator
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, decode, derived_id, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import (
    OrderAuthorisedV1,
    OrderCancelledV1,
    OrderConfirmedV1,
    OrderPlacedV1,
)
from shop_contracts.events.stock import (
    ReservationCommitFailedV1,
    ReservationCommittedV1,
    ReservationHeldV1,
    ReservationRejectedV1,
)
from shop_contracts.types import Line, Shortage

pytestmark = pytest.mark.connected

Client = TestClient[Any, Any]
Reaction = Callable[[Fact], Fact | None]
PATIENCE_S = 20


class Stock:
    """Listens on checkout's exchange as an outside team would, and answers on stock's."""

    def __init__(self, channel: Any, answers: aio_pika.abc.AbstractExchange) -> None:
        self._channel = channel
        self._answers = answers
        self.heard: list[Event[Fact]] = []
        self.react: Reaction = sells
        self.repeats = 1

    async def hear(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        event = decode(message.body)
        self.heard.append(event)
        answer = self.react(event.data)
        if answer is not None:
            cause = event.meta.id
            made = new(answer, id=derived_id(cause, answer.KEY), entityversion=len(self.heard))
            for _ in range(self.repeats):
                await self.publish(made)

    async def publish(self, event: Event[Any]) -> None:
        message = aio_pika.Message(encode(event), content_type=CONTENT_TYPE)
        await self._answers.publish(message, event.meta.key)

    def kinds(self) -> list[type[Fact]]:
        return [type(event.data) for event in self.heard]


def sells(fact: Fact) -> Fact | None:
    match fact:
        case OrderPlacedV1():
            return ReservationHeldV1(
                order_id=fact.order_id,
                lines=[Line(sku=line.sku, qty=line.qty) for line in fact.lines],
                expires_at=datetime.now(UTC) + timedelta(minutes=15),
            )
        case OrderAuthorisedV1():
            return ReservationCommittedV1(order_id=fact.order_id, lines=fact.lines)
    return None


def has_too_little(fact: Fact) -> Fact | None:
    if not isinstance(fact, OrderPlacedV1):
        return None
    short = [
        Shortage(sku=line.sku, requested=line.qty, available=line.qty - 1) for line in fact.lines
    ]
    return ReservationRejectedV1(order_id=fact.order_id, shortages=short)


def loses(fact: Fact) -> Fact | None:
    if isinstance(fact, OrderAuthorisedV1):
        return ReservationCommitFailedV1(order_id=fact.order_id)
    return sells(fact)


@pytest.fixture
async def stock(broker_url: str) -> AsyncIterator[Stock]:
    connection = await aio_pika.connect(broker_url)
    channel = await connection.channel()
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(topology.exchange("checkout"), "#")
    stock = Stock(channel, await channel.get_exchange(topology.exchange("stock")))
    await queue.consume(stock.hear, no_ack=True)
    yield stock
    await connection.close()


@pytest.fixture
def processes(
    settings: Settings, own: Database, carts: Carts, broker_url: str, provider: Provider
) -> Callable[[], AbstractAsyncContextManager[None]]:
    """The worker and the relay, as their processes run them."""
    work = worker.Work(
        orders=Orders(own, app.timers(settings)),
        after=After(own),
        projections=Projections(own),
        carts=carts,
        provider=provider,
    )

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(coroutine)
            for coroutine in (
                consume(broker_url, "checkout", "stock", worker.STOCK_HANDLERS, work),
                consume(broker_url, "checkout", "catalog", worker.CATALOG_HANDLERS, work),
                relay(broker_url, "checkout", SqlOutbox(own.engine, tables.outbox)),
                *(loop(work) for loop in worker.LOOPS),
            )
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert [] == [task for task in tasks if not task.cancelled()]

    return run


@pytest.fixture
async def running(
    processes: Callable[[], AbstractAsyncContextManager[None]],
) -> AsyncIterator[None]:
    async with processes():
        yield


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await look()):
            await asyncio.sleep(0.05)
    return found


async def buy(client: Client, token: str = "tok_ok", sku: str = "LAMP-1") -> tuple[str, str]:
    async with client.post("/carts") as answer:
        cart = (await answer.json())["cart_id"]
    async with client.put(f"/carts/{cart}/lines/{sku}", json={"qty": 2}) as answer:
        assert 200 == answer.status
    async with client.post(
        f"/carts/{cart}/checkout",
        json={"email": "ada@example.com", "payment": {"token": token}},
        headers={"Idempotency-Key": uuids.uuid7().hex},
    ) as answer:
        assert 202 == answer.status
        return cart, (await answer.json())["order_id"]


async def ended(client: Client, order_id: str) -> Any:
    async def look() -> Any:
        async with client.get(f"/orders/{order_id}") as answer:
            view = await answer.json()
        return view if view["status"] in {"confirmed", "cancelled"} else None

    return await until(look)


async def heard(stock: Stock, kind: type[Fact]) -> Event[Any]:
    async def look() -> Any:
        return next((event for event in stock.heard if type(event.data) is kind), None)

    found: Event[Any] = await until(look)
    return found


async def test_an_order_is_confirmed_and_its_cart_is_gone(
    client: Client, stock: Stock, running: None
) -> None:
    cart, order_id = await buy(client)

    view = await ended(client, order_id)
    confirmed = await heard(stock, OrderConfirmedV1)

    assert ("confirmed", 5) == (view["status"], view["version"])
    assert 2_500 == confirmed.data.total_minor
    assert {order_id} == {event.meta.correlationid for event in stock.heard}

    async def gone() -> bool:
        async with client.get(f"/carts/{cart}") as answer:
            return answer.status == 404

    assert await until(gone)


async def test_every_answer_may_come_three_times(
    client: Client, stock: Stock, running: None, simulator: Simulator
) -> None:
    stock.repeats = 3
    _, order_id = await buy(client)

    view = await ended(client, order_id)
    await heard(stock, OrderConfirmedV1)

    assert ("confirmed", 5) == (view["status"], view["version"])
    assert {f"{order_id}:auth", f"{order_id}:capture"} == set(simulator.bank.answers)
    assert len(set(stock.kinds())) == len(stock.kinds())


async def test_too_little_stock_cancels_with_each_shortage(
    client: Client, stock: Stock, running: None, simulator: Simulator
) -> None:
    stock.react = has_too_little
    cart, order_id = await buy(client)

    view = await ended(client, order_id)

    assert ("cancelled", "out_of_stock") == (view["status"], view["reason"])
    assert [{"sku": "LAMP-1", "requested": 2, "available": 1}] == view["shortages"]
    assert {} == simulator.bank.answers
    async with client.get(f"/carts/{cart}") as answer:
        assert 2_500 == (await answer.json())["total_minor"]


async def test_a_declined_payment_cancels_and_tells_stock(
    client: Client, stock: Stock, running: None
) -> None:
    _, order_id = await buy(client, "tok_decline")

    view = await ended(client, order_id)
    cancelled = await heard(stock, OrderCancelledV1)

    assert ("cancelled", "payment_declined") == (view["status"], view["reason"])
    assert "payment_declined" == cancelled.data.reason
    assert [Line(sku="LAMP-1", qty=2)] == cancelled.data.lines


async def test_a_lost_answer_of_the_provider_is_asked_for_again_under_the_same_key(
    client: Client, stock: Stock, running: None, simulator: Simulator
) -> None:
    _, order_id = await buy(client, "tok_error_once")

    view = await ended(client, order_id)

    assert "confirmed" == view["status"]
    assert 2 == len(simulator.bank.answers)


@pytest.mark.parametrize(
    ("token", "reaction", "reason"),
    [("tok_ok", loses, "stock_lost"), ("tok_capture_refused", sells, "capture_refused")],
)
async def test_what_cannot_be_sold_is_not_charged(
    client: Client,
    stock: Stock,
    running: None,
    simulator: Simulator,
    token: str,
    reaction: Reaction,
    reason: str,
) -> None:
    stock.react = reaction
    _, order_id = await buy(client, token)

    view = await ended(client, order_id)

    assert ("cancelled", reason) == (view["status"], view["reason"])

    async def voided() -> bool:
        return f"{order_id}:void" in simulator.bank.answers

    assert await until(voided)


async def test_an_order_that_stock_never_answers_is_given_up(
    client: Client, stock: Stock, running: None, own: Database, make: Any
) -> None:
    impatient = Orders(own, Timers(stock=timedelta(0)))
    accepted = await impatient.place("c", "k" * 16, b"x" * 32, make.a_purchase(), make.a_quote())
    stock.react = lambda _: None

    view = await ended(client, str(accepted.order_id))

    assert "stock_timeout" == view["reason"]


async def test_a_price_and_a_name_come_by_event(
    client: Client, stock: Stock, running: None, broker_url: str, make: Any
) -> None:
    await stock.publish(make.price("BY-EVENT", EUR=333))
    connection = await aio_pika.connect(broker_url)
    async with connection, connection.channel() as channel:
        exchange = await channel.get_exchange(topology.exchange("catalog"))
        event = make.product("By event", "BY-EVENT")
        message = aio_pika.Message(encode(event), content_type=CONTENT_TYPE)
        await exchange.publish(message, event.meta.key)

    async with client.post("/carts") as answer:
        cart = (await answer.json())["cart_id"]

    async def named() -> bool:
        path = f"/carts/{cart}/lines/BY-EVENT"
        async with client.put(path, json={"qty": 1}) as answer:
            body = await answer.json()
        return answer.status == 200 and body["lines"][0]["name"] == "By event"

    assert await until(named)


async def test_an_order_that_was_accepted_while_all_else_was_down_is_confirmed_later(
    client: Client, stock: Stock, processes: Callable[[], AbstractAsyncContextManager[None]]
) -> None:
    _, order_id = await buy(client)
    async with client.get(f"/orders/{order_id}") as answer:
        before = (await answer.json())["status"]

    async with processes():
        view = await ended(client, order_id)

    assert ("placed", "confirmed") == (before, view["status"])


class OneAway:
    """Carts of which one cannot be reached."""

    def __init__(self, carts: Carts, away: str) -> None:
        self._carts = carts
        self._away = away

    async def settle(self, cart_id: str, *order: Any) -> None:
        if cart_id == self._away:
            raise Unavailable("Its node is away.")
        await self._carts.settle(cart_id, *order)


async def test_a_cart_out_of_reach_stands_in_the_way_of_no_other(
    carts: Carts, own: Database, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FAILED_SECONDS", 0.01)
    monkeypatch.setattr(worker, "CARTS", 2)
    orders, ids = Orders(own, Timers()), []
    for _ in range(5):
        cart = await carts.put((await carts.create()).id, "LAMP-1", 2)
        accepted = await orders.place(
            cart.id, "k" * 16, b"x" * 32, make.a_purchase(), make.a_quote()
        )
        await make.authorise(orders, str(accepted.order_id))
        await orders.apply(accepted.order_id, make.committed(accepted.order_id))
        for ask in await orders.claim_payments(1, timedelta(seconds=30)):
            await orders.answered(ask, Approved("ref"))
        ids.append(cart.id)
    away, *others = sorted(ids)
    work = worker.Work(
        orders=orders,
        after=After(own, Shop()),
        projections=Projections(own),
        carts=cast("Carts", OneAway(carts, away)),
        provider=cast("Provider", None),
    )

    settling = asyncio.create_task(worker.sold_carts(work))
    async with asyncio.timeout(PATIENCE_S):
        while len(waiting := await orders.sold_carts("", 100)) > 1:
            await asyncio.sleep(0.01)
    settling.cancel()
    await asyncio.wait([settling])

    assert [away] == [one.cart_id for one in waiting]
    for cart_id in others:
        with pytest.raises(NotFound):
            await carts.get(cart_id)
