"""A shop that has outgrown one server of a kind: the addresses of clusters are all that changes."""

import asyncio
import re
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as policy
from functools import partial
from operator import eq, lt
from secrets import token_hex
from typing import TypeVar
from uuid import uuid4

import pytest
from rich.console import Console

from bus.consumer import consume
from bus.outbox import Entry
from bus.relay import relay
from bus.topology import apply
from shop import setup, verify
from shop.client import ENDED, ShopClient, Unexpected, until
from shop.servers import amqp
from shop.stack import Stack
from shop_contracts.envelope import Event, new
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = [pytest.mark.connected, pytest.mark.long]

T = TypeVar("T")

SKUS, CHANGES = 20, 6_000
OURS = "C-"
BROKERS = ["rabbitmq", "rabbitmq-2", "rabbitmq-3"]
KILLED = ["redis-stock-2", "redis-carts-3", "rabbitmq", "elasticsearch-3"]


class Changes:
    """An outbox in memory that hands out changes a few at a time, for as long as there are any."""

    def __init__(self, total: int) -> None:
        versions: dict[str, int] = defaultdict(int)
        self.left: list[Entry] = []
        for ref in range(total):
            sku = f"{OURS}{ref % SKUS}"
            versions[sku] += 1
            data = StockChangedV1(
                sku=sku, on_hand=ref, reserved=0, available=ref, cause=Cause.ADJUSTED
            )
            self.left.append(Entry.of(ref, new(data, id=uuid4(), entityversion=versions[sku])))
        self.all = [entry.event for entry in self.left]

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        await asyncio.sleep(0.15)
        # some of them may have been settled meanwhile
        given = {entry.ref for entry in behind}
        return [entry for entry in self.left if entry.ref not in given][: min(limit, 60)]

    async def settle(self, entries: Sequence[Entry]) -> None:
        gone = {entry.ref for entry in entries}
        self.left = [entry for entry in self.left if entry.ref not in gone]

    async def waiting(self) -> tuple[int, None]:
        return len(self.left), None


class Reader:
    """A read model with a version guard, and whether it ever went back."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.version: dict[str, int] = defaultdict(int)
        self.skipped: list[tuple[str, int]] = []

    async def take(self, event: Event[StockChangedV1]) -> None:
        sku, version = event.data.sku, event.meta.entityversion
        if not sku.startswith(OURS):
            return  # the shop that sold here before may have left one in the queue
        if version > self.version[sku] + 1:
            self.skipped.append((sku, version))
        self.version[sku] = max(version, self.version[sku])
        self.seen.add(str(event.meta.id))

    async def count(self) -> int:
        return len(self.seen)


@pytest.fixture(scope="module")
async def nodes(stack: object) -> AsyncIterator[Stack]:
    """Three nodes of each, without anything in them."""
    nodes = Stack.open("nodes")
    await asyncio.to_thread(nodes.down)
    # a cluster that was stopped waits for whoever stopped last: each run forms a new one
    shutil.rmtree(nodes.profile.var)
    nodes = Stack.open("nodes")
    await asyncio.to_thread(setup.up, nodes, Console(), servers_only=True)
    yield nodes
    await asyncio.to_thread(nodes.down)


@pytest.fixture
async def selling(nodes: Stack) -> AsyncIterator[Stack]:
    """The same with our processes; none is left to hold the lease of another test's relay."""
    await asyncio.to_thread(nodes.deploy)
    await asyncio.to_thread(nodes.start)
    yield nodes
    await asyncio.to_thread(nodes.stop, *[s.name for s in nodes.status() if _ours(s.name)])


async def dies(nodes: Stack, name: str) -> None:
    """The node is killed, and has come back."""

    def back() -> bool:
        (state,) = (each for each in nodes.status() if each.name == name)
        return state.state == "ready" and state.restarts > before

    (before,) = (each.restarts for each in nodes.status() if each.name == name)
    await asyncio.to_thread(nodes.kill, name)
    await until(partial(asyncio.to_thread, back), bool, within=600)


async def patiently(look: Callable[[], Awaitable[T]], holds: Callable[[T], object] = bool) -> T:
    """What `look` sees once it holds, though a node that is away makes it fail before."""

    async def tried() -> T | None:
        try:
            seen = await look()
        except Unexpected:
            return None
        return seen if holds(seen) else None

    found = await until(tried, bool, within=300)
    assert found is not None
    return found


async def order(shop: ShopClient, lines: Sequence[tuple[str, int]]) -> str:
    """The id of an order by somebody who tries again where a node is away, with one key."""
    cart = (await patiently(partial(shop.send, "POST", "/api/carts", status=201)))["cart_id"]
    for sku, qty in lines:
        await shop.add(cart, sku, qty)
    purchase = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
    key = {"Idempotency-Key": token_hex(16)}
    path = f"/api/carts/{cart}/checkout"
    placed = await patiently(partial(shop.send, "POST", path, purchase, status=202, **key))
    return str(placed["order_id"])


async def mails(nodes: Stack, service: str, to: str) -> list[EmailMessage]:
    """What a service has mailed to somebody."""
    folder = nodes.profile.folder("mails", service)
    found = [message_from_bytes(path.read_bytes(), policy=policy) for path in folder.glob("*.eml")]
    return [mail for mail in found if to == str(mail["To"])]


async def told(nodes: Stack, shop: ShopClient) -> list[str]:
    """The subjects of the mails to whoever waits for a product that comes back and gets cheaper."""
    sku = await patiently(partial(shop.put_product, price=1_000, stock=0))
    below = {"when": "price_below", "currency": "EUR", "below_minor": 900}
    for wish in ({"when": "back_in_stock"}, below):
        body = {"sku": sku, "email": "ada@people.example"} | wish
        await shop.send("POST", "/api/alerts", body, status=202)
    prices = {"prices": [{"currency": "EUR", "amount_minor": 800}]}
    await shop.send("PUT", f"/api/products/{sku}/prices", prices)
    await shop.send("PUT", f"/api/products/{sku}/stock", {"stock": 1, "action": "set"})

    async def subjects() -> list[str]:
        found = await mails(nodes, "stock", "ada@people.example")
        said = sorted(str(mail["Subject"]).replace(sku, "it") for mail in found)
        return [subject for subject in said if "We will tell" not in subject]

    return await patiently(subjects, lambda found: len(found) == 2)


async def merged(nodes: Stack, shop: ShopClient, sku: str) -> tuple[list[int], dict[str, int]]:
    """The lines that moved when a guest signed in, and when once more; the customer's cart."""
    cart = (await shop.send("POST", "/api/carts", status=201))["cart_id"]
    await shop.add(cart, sku, 2)
    address = f"{token_hex(4)}@people.example"
    await shop.send("POST", "/api/me/sign-in", {"email": address}, status=202)
    (mail,) = await patiently(partial(mails, nodes, "checkout", address))
    link = re.search(r"confirm\?token=([\w-]+)", mail.get_content())
    assert link is not None
    async with shop.http.post(f"{shop.edge}/api/me/session", json={"token": link[1]}) as answer:
        session = answer.cookies["__Host-session"].value
    cookie = {"Cookie": f"__Host-session={session}"}
    merges = [
        await shop.send("POST", "/api/me/cart", {"cart_id": cart}, **cookie) for _ in range(2)
    ]
    lines = {line["sku"]: line["qty"] for line in merges[-1]["cart"]["lines"]}
    return [merge["moved"] for merge in merges], lines


async def test_the_shop_sells_on_clusters_of_which_a_node_dies(selling: Stack) -> None:
    async def outcome(shop: ShopClient, id_: str) -> str:
        asked = partial(shop.get, f"/api/orders/{id_}")
        return str((await patiently(asked, lambda order: order["status"] in ENDED))["status"])

    async with ShopClient.open(selling.profile) as shop:
        await shop.reachable()
        # they lie in several partitions of stock
        skus = [await patiently(partial(shop.put_product, stock=20)) for _ in range(4)]
        lines = [(sku, 1) for sku in skus]
        assert "confirmed" == await outcome(shop, await order(shop, lines))
        for node in KILLED:
            orders = [await order(shop, lines) for _ in range(2)]
            gone = asyncio.create_task(dies(selling, node))
            orders += [await order(shop, lines) for _ in range(2)]
            assert ["confirmed"] * 4 == [await outcome(shop, id_) for id_ in orders], node
            await gone
            assert await patiently(partial(shop.found, skus[0]))
        left = [(await shop.get(f"/api/products/{sku}/stock"))["on_hand"] for sku in skus]
        subjects = await told(selling, shop)
        carts = await merged(selling, shop, skus[0])
    breaches = await verify.settled(selling.profile, mariadb=selling.mariadb, within=120)

    assert ["it costs €8.00 now", "it is back"] == subjects
    assert ([1, 0], {skus[0]: 2}) == carts
    assert [20 - 1 - 4 * len(KILLED)] * 4 == left
    assert [] == breaches


def _ours(name: str) -> bool:
    return name.rpartition("-")[2] in {"api", "relay", "worker", "notify", "journal", "simulator"}


async def changed(reader: Reader, event: Event[StockChangedV1]) -> None:
    await reader.take(event)


async def test_each_broker_of_a_cluster_may_die_in_its_turn(nodes: Stack) -> None:
    await apply(amqp(nodes.profile, "deploy"))
    outbox, reader = Changes(CHANGES), Reader()
    publishing = asyncio.create_task(relay(amqp(nodes.profile, "stock"), "stock", outbox))
    reading = asyncio.create_task(
        consume(amqp(nodes.profile, "search"), "search", "stock", {StockChangedV1: changed}, reader)
    )
    try:
        for n, node in enumerate(BROKERS, 1):
            await until(reader.count, partial(lt, CHANGES * n // (len(BROKERS) + 1)), within=120)
            await dies(nodes, node)
        await until(reader.count, partial(eq, CHANGES), within=120)
    finally:
        for task in (publishing, reading):
            task.cancel()
        await asyncio.gather(publishing, reading, return_exceptions=True)

    assert not outbox.left
    assert {str(event.meta.id) for event in outbox.all} == reader.seen
    assert [] == reader.skipped
