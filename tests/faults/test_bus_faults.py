"""RabbitMQ dies, hangs, drops its connections or runs out of memory: the shop goes on answering.

On a stack of its own (profile `faults`), whose broker may be broken without harm to other tests;
in the long form once more with every work queue dealt out to partitions.
"""

import asyncio
import os
import re
import secrets
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import pytest
from rich.console import Console

from shop import servers, services, setup
from shop.client import ShopClient, Unexpected, until
from shop.stack import Stack
from shop_contracts.events.checkout import OrderPlacedV1
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.topology import READS

pytestmark = pytest.mark.connected

SKUS = 10
OWNERS = ("catalog", "stock", "checkout")
SHORT, LONG = 15.0, 60.0
CUTS = 5
RECOVERS_WITHIN = 120.0


@pytest.fixture(
    scope="module", params=[0, pytest.param(3, marks=pytest.mark.long)], ids="partitions-{}".format
)
async def native(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """Every process of a shop whose broker is ours to break."""
    native = Stack.open("faults")
    before = native.up()
    with pytest.MonkeyPatch.context() as patch:
        for consumer in READS:
            patch.setenv(f"{consumer.upper()}_QUEUE_PARTITIONS", str(request.param))
        await asyncio.to_thread(setup.up, native, Console(quiet=True))
        ours = [one.name for one in services.prepare(native.profile, mariadb=native.mariadb)]
    yield native
    if before:
        await asyncio.to_thread(native.stop, *ours)
    else:
        await asyncio.to_thread(native.down)


@pytest.fixture(scope="module")
async def shop(native: Stack) -> AsyncIterator[ShopClient]:
    async with ShopClient.open(native.profile) as client:
        await client.reachable()
        await until(partial(warm, client), bool, within=RECOVERS_WITHIN)
        yield client


async def warm(shop: ShopClient) -> bool:
    """Whether a product goes all the way; a store that has just started may keep it waiting."""
    try:
        await shop.put_product()
    except Unexpected:
        return False
    return True


class Traffic:
    """What shoppers and operators do all the time, and what they were told; a refusal fails."""

    def __init__(self, shop: ShopClient, native: Stack) -> None:
        self._shop = shop
        self._native = native
        self.changes: dict[str, int] = defaultdict(int)
        self._over = False
        self.products = 0
        self.orders: list[str] = []
        self.deepest: dict[str, float] = defaultdict(float)
        self.oldest: dict[str, float] = defaultdict(float)

    @asynccontextmanager
    async def flowing(self, for_sale: str) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            does = [self._change(f"F-{secrets.token_hex(4)}") for _ in range(SKUS)]
            does += [self._publish(), self._order(for_sale), self._look()]
            for one in does:
                group.create_task(one)
            await asyncio.sleep(1)
            yield
            self._over = True

    async def _change(self, sku: str) -> None:
        while not self._over:
            body = {"stock": 1, "action": "increment"}
            await self._send("stock", "PUT", f"/products/{sku}/stock", body)
            self.changes[sku] += 1
            await asyncio.sleep(0.1)

    async def _publish(self) -> None:
        while not self._over:
            sku = f"L-{secrets.token_hex(4)}"
            product = {"name": f"Lamp {sku}", "variants": [{"sku": sku}]}
            await self._send("catalog", "POST", "/products", product)
            self.products += 1
            await asyncio.sleep(0.5)

    async def _order(self, sku: str) -> None:
        while not self._over:
            cart = (await self._send("checkout", "POST", "/carts", None))["cart_id"]
            await self._send("checkout", "PUT", f"/carts/{cart}/lines/{sku}", {"qty": 1})
            purchase = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
            placed = await self._send("checkout", "POST", f"/carts/{cart}/checkout", purchase)
            self.orders.append(placed["order_id"])
            await asyncio.sleep(1)

    async def _send(self, service: str, method: str, path: str, body: Any) -> Any:
        """Ask the service itself; the edge in front of it is not what is broken here."""
        async with self._shop.http.request(
            method,
            self._native.profile.url(service, path=path),
            json=body,
            headers=self._shop.admin | {"Idempotency-Key": secrets.token_hex(16)},
        ) as answer:
            text = await answer.text()
            assert answer.status in {200, 201, 202}, f"{method} {path}: {answer.status} {text}"
            return await answer.json()

    async def _look(self) -> None:
        while not self._over:
            for owner in OWNERS:
                depth, age = await outbox(self._shop, self._native, owner)
                self.deepest[owner] = max(self.deepest[owner], depth)
                self.oldest[owner] = max(self.oldest[owner], age)
            await asyncio.sleep(0.5)


async def outbox(shop: ShopClient, native: Stack, owner: str) -> tuple[float, float]:
    """The depth and the age of an outbox, as its relay tells them."""
    async with shop.http.get(native.profile.url(f"{owner}-relay", path="/metrics")) as answer:
        text = await answer.text()
    numbers = [
        re.search(rf'^shop_outbox_{name}\{{.*owner="{owner}".*\}} (\S+)$', text, re.MULTILINE)
        for name in ("depth", "age_seconds")
    ]
    depth, age = (float(found.group(1)) if found else 0.0 for found in numbers)
    return depth, age


def rabbitmqctl(native: Stack, *arguments: str) -> None:
    server = servers.rabbitmq(native.profile)
    *as_account, program = server.command
    command = [*as_account, program.replace("rabbitmq-server", "rabbitmqctl"), *arguments]
    subprocess.run(command, env=server.env, cwd=server.directory, check=True, capture_output=True)


def signalled(native: Stack, number: signal.Signals) -> None:
    (broker,) = (state for state in native.status() if state.name == "rabbitmq")
    assert broker.pid is not None
    os.killpg(broker.pid, number)


async def killed(native: Stack, seconds: float) -> None:
    """kill -9, twice; the supervisor starts it again."""
    for _ in range(2):
        await asyncio.to_thread(native.kill, "rabbitmq")
        await until(
            lambda: asyncio.to_thread(native.status),
            lambda states: any(s.name == "rabbitmq" and s.state == "ready" for s in states),
            within=RECOVERS_WITHIN,
        )
        await asyncio.sleep(seconds / 5)


async def cut(native: Stack, seconds: float) -> None:
    """Every connection is closed by the broker, again and again."""
    management = urlsplit(servers.management(native.profile))
    login = aiohttp.encode_basic_auth(management.username or "", management.password or "")
    api = f"http://{management.hostname}:{management.port}/api/connections"
    async with aiohttp.ClientSession(headers={"Authorization": login}) as http:
        for _ in range(CUTS):
            async with http.get(api) as answer:
                names = [connection["name"] for connection in await answer.json()]
            for name in names:
                await http.delete(f"{api}/{quote(name, safe='')}")
            await asyncio.sleep(seconds / CUTS)


async def stopped(native: Stack, seconds: float) -> None:
    """The process stands still: connections stay open and nobody answers."""
    signalled(native, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        signalled(native, signal.SIGCONT)


async def short_of_memory(native: Stack, seconds: float) -> None:
    """The memory alarm: the broker reads nothing from connections that publish."""
    await asyncio.to_thread(rabbitmqctl, native, "set_vm_memory_high_watermark", "0.00001")
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(rabbitmqctl, native, "set_vm_memory_high_watermark", "0.4")


Fault = Callable[[Stack, float], Awaitable[None]]
FAULTS: list[Fault] = [killed, cut, stopped, short_of_memory]


async def the_shop_bears(fault: Fault, seconds: float, shop: ShopClient, native: Stack) -> None:
    for_sale = await shop.put_product(stock=10_000)
    since = {owner: await shop.end_of(owner) for owner in OWNERS}
    traffic = Traffic(shop, native)

    async with traffic.flowing(for_sale):
        await fault(native, seconds)
        await asyncio.sleep(1)

    # what waited leaves
    for owner in OWNERS:
        await until(
            lambda owner=owner: outbox(shop, native, owner),
            lambda seen: seen == (0.0, 0.0),
            within=RECOVERS_WITHIN,
        )
    print(  # noqa: T201 - the proof
        f"{fault.__name__}: {sum(traffic.changes.values())} changes, {traffic.products} products, "
        f"{len(traffic.orders)} orders; outboxes at most {dict(traffic.deepest)} deep, "
        f"{ {owner: round(age, 1) for owner, age in traffic.oldest.items()} } s old"
    )

    # every change has its event, and each subject's come in order; what a relay tells of its
    # outbox is a second old, so the last ones may still be on their way
    async def versions() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {sku: [] for sku in traffic.changes}
        for logged in await shop.events("stock", since["stock"]):
            data = logged.event.data
            seen = found.get(data.sku) if isinstance(data, StockChangedV1) else None
            if seen is not None and logged.event.meta.entityversion not in seen:
                seen.append(logged.event.meta.entityversion)
        return found

    async def placed() -> set[str]:
        return {
            str(logged.event.data.order_id)
            for logged in await shop.events("checkout", since["checkout"])
            if isinstance(logged.event.data, OrderPlacedV1)
        }

    in_order = {sku: list(range(1, n + 1)) for sku, n in traffic.changes.items()}
    await until(versions, lambda seen: seen == in_order, within=RECOVERS_WITHIN)
    await until(placed, lambda seen: set(traffic.orders) <= seen, within=RECOVERS_WITHIN)

    # every order ends, and no consumer stays deaf: a new product finds its way through all of them
    ended = [await shop.ended(order_id) for order_id in traffic.orders]
    # stock has a minute to answer, so an order may give up meanwhile; it never hangs
    assert {order["reason"] for order in ended} <= {None, "stock_timeout"}
    sku = await shop.put_product(stock=1)
    assert "confirmed" == (await shop.ended(await shop.order((sku, 1))))["status"]
    await until(lambda: shop.found(sku, in_stock="true"), lambda hits: not hits)


@pytest.mark.parametrize("fault", FAULTS)
async def test_with_its_broker_broken_the_shop_answers_and_loses_nothing(
    fault: Fault, shop: ShopClient, native: Stack
) -> None:
    await the_shop_bears(fault, SHORT, shop, native)


@pytest.mark.long
@pytest.mark.parametrize("fault", [stopped, short_of_memory])
async def test_with_its_broker_gone_for_a_minute_the_shop_answers_and_loses_nothing(
    fault: Fault, shop: ShopClient, native: Stack
) -> None:
    await the_shop_bears(fault, LONG, shop, native)
