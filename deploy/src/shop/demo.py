"""The `demo` verb: a shopper's walk through a running shop, shown as it happens. Knows no store.

It prints each request and each event, and waits for what the events bring about.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct
from rich.console import Console
from rich.text import Text

from bus.broker import BROKER_ERRORS
from bus.replay import follow
from feeds.jobs import Job
from shop import importing
from shop.client import ENDED, ShopClient, Unexpected, until
from shop.profiles import Profile
from shop.servers import amqp
from shop_contracts.envelope import Event
from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import OrderCancelledV1, OrderConfirmedV1
from shop_contracts.events.stock import (
    ReservationCommittedV1,
    ReservationRejectedV1,
    StockChangedV1,
)

SAMPLE = Path(__file__).with_name("sample") / "catalogue.ndjson"
WORDS = "headlamp"
SKU, UNITS = "funke-600", 2
SCARCE = "loeffel"
WITHIN = 120.0
REPLY_SECONDS = 30
AGAIN_SECONDS = 0.5
PATH_WIDTH, TYPE_WIDTH = 66, 27


class DemoFailed(Exception):
    """The shop did not do what the demo shows; the message says at which step."""


class Seen(Struct, frozen=True):
    """An event with the owner whose stream it stood in."""

    owner: str
    event: Event[Fact]


class Watch:
    """The owners' streams from now on; `show` is called with each new event while it is set."""

    def __init__(self, broker_url: str) -> None:
        self.broker_url = broker_url
        # the broker finds a stream's place by whole seconds; what is older is left out below
        self.began = datetime.now(UTC)
        self.seen: list[Seen] = []
        self.show: Callable[[Seen], None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Watch"]:
        """Follows every owner until the block is left."""
        readers = [asyncio.create_task(self._read(owner)) for owner in EVENTS]
        try:
            yield self
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, owner: str) -> None:
        since: int | datetime = self.began
        while True:
            with suppress(*BROKER_ERRORS):
                async for logged in follow(self.broker_url, owner, since):
                    since = logged.offset + 1
                    if logged.event.meta.time >= self.began:
                        self._note(Seen(owner, logged.event))
            await asyncio.sleep(AGAIN_SECONDS)

    def _note(self, seen: Seen) -> None:
        self.seen.append(seen)
        if self.show is not None:
            self.show(seen)

    async def of_order(self, order_id: str, *kinds: type[Fact]) -> None:
        """Wait until the order's events of these kinds were all seen."""

        async def missing() -> set[str]:
            found = {
                type(seen.event.data)
                for seen in self.seen
                if order_id in (seen.event.meta.subject, seen.event.meta.correlationid)
            }
            return {kind.__name__ for kind in set(kinds) - found}

        await until(missing, lambda names: not names, within=WITHIN)


class Walk:
    """A shopper with a notebook: asks the shop's edge, and writes down what comes back."""

    def __init__(self, client: ShopClient, watch: Watch, console: Console) -> None:
        self.client = client
        self.watch = watch
        self.console = console
        self.steps = 0

    def step(self, title: str) -> None:
        self.steps += 1
        self.console.print()
        self.console.print(Text(f"{self.steps}. {title}", style="bold"), soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(Text(f"   {text}"), soft_wrap=True)

    async def ask(
        self, method: str, path: str, body: Any = None, *, status: int = 200, **headers: str
    ) -> Any:
        """The answer to one request, printed; JSON is parsed. Raises DemoFailed."""
        timeout = aiohttp.ClientTimeout(total=REPLY_SECONDS)
        began = time.perf_counter()
        try:
            async with self.client.http.request(
                method, self.client.edge + path, json=body, headers=headers, timeout=timeout
            ) as answer:
                parsed = await (answer.json if "json" in answer.content_type else answer.text)()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DemoFailed(f"{method} {path}: {error or 'no answer'}") from error
        took = (time.perf_counter() - began) * 1000
        cached = answer.headers.get("X-Cache", "")
        line = Text(f"   {method:<5}")
        line.append(f"{path:<{PATH_WIDTH}} ")
        line.append(str(answer.status), style="green" if answer.status == status else "red")
        line.append(f" {took:6.0f} ms", style="dim")
        line.append("  from the cache" if cached == "hit" else "", style="dim")
        self.console.print(line, soft_wrap=True)
        if answer.status != status:
            raise DemoFailed(f"{method} {path} answered {answer.status}: {parsed}")
        return parsed

    def event(self, seen: Seen) -> None:
        """Print an event that the broker delivered."""
        meta = seen.event.meta
        line = Text("   event ", style="cyan")
        line.append(f"{seen.owner:<9}{meta.type.removeprefix('shop.'):<{TYPE_WIDTH}} ")
        line.append(f"{meta.subject} v{meta.entityversion}", style="dim")
        line.append(_levels(seen.event.data))
        self.console.print(line, soft_wrap=True)

    async def order(self, lines: dict[str, int]) -> str:
        """Put the lines into a new cart and order them; the order's id."""
        cart = await self.ask("POST", "/api/carts", status=201)
        path = f"/api/carts/{cart['cart_id']}"
        for sku, units in lines.items():
            # checkout hears of a price by event; right after an import it may still be on its way
            await self.client.add(cart["cart_id"], sku, units)
            cart = await self.ask("PUT", f"{path}/lines/{sku}", {"qty": units})
        self.say(f"the cart: {_lines(lines)}")
        placed = await self.ask(
            "POST",
            f"{path}/checkout",
            {"email": "ada@example.com", "payment": {"token": "tok_ok"}},
            status=202,
            **{"Idempotency-Key": secrets.token_hex(16)},
        )
        return str(placed["order_id"])

    async def ended(self, order_id: str) -> Any:
        """The order once it is over, printed."""
        path = f"/api/orders/{order_id}"
        try:
            await until(
                lambda: self.client.get(path),
                lambda order: order["status"] in ENDED,
                within=WITHIN,
            )
        except Unexpected as late:
            raise DemoFailed(f"the order did not end: {late}") from late
        return await self.ask("GET", path)

    async def level(self, sku: str) -> int:
        """The units of a SKU that can be ordered, printed with the rest."""
        level = await self.ask("GET", f"/api/products/{sku}/stock")
        self.say(
            f"{sku}: available {level['available']}, reserved {level['reserved']}, "
            f"on hand {level['on_hand']}"
        )
        return int(level["available"])


async def run(profile: Profile, console: Console) -> None:
    """Fill the shop with the sample and walk through it. Raises DemoFailed, ImportFailed."""
    watch = Watch(amqp(profile, "admin"))
    async with watch.running(), ShopClient.open(profile) as client:
        await client.reachable()
        walk = Walk(client, watch, console)
        try:
            await _fill(walk, profile)
            watch.show = walk.event
            await _browse(walk)
            await _buy(walk)
            await _buy_too_much(walk)
        except Unexpected as unexpected:
            raise DemoFailed(str(unexpected)) from unexpected
        finally:
            watch.show = None


async def _fill(walk: Walk, profile: Profile) -> None:
    walk.step(f"A merchant imports the sample catalogue ({SAMPLE.name})")
    done = await importing.run(profile, importing.Feed(files=[SAMPLE]), lambda _, __: None)
    for service, job in done.items():
        walk.say(f"{service:<9}{_counts(job)}")
    products = sum(job_rows(done["catalog"]))
    await until(
        lambda: walk.client.get("/api/search"),
        lambda answer: answer["total"] >= products,
        within=WITHIN,
    )
    await until(
        lambda: walk.client.found(SKU, in_stock="true"),
        lambda hits: bool(hits) and hits[0]["price"] is not None,
        within=WITHIN,
    )
    kinds = Counter(
        (seen.owner, seen.event.meta.type.removeprefix("shop.")) for seen in walk.watch.seen
    )
    for (owner, kind), count in sorted(kinds.items()):
        walk.say(f"events   {owner:<9}{kind:<{TYPE_WIDTH}} {count:>4}")
    if not kinds:
        walk.say("no event: what an import does not change is not told")


async def _browse(walk: Walk) -> None:
    walk.step(f"A shopper looks for a {WORDS}")
    await walk.ask("GET", "/")
    answer = await walk.ask("GET", f"/api/search?q={WORDS}&in_stock=true")
    for hit in answer["hits"]:
        stock = "in stock" if hit["in_stock"] else "sold out"
        walk.say(f"{hit['name']}: {_money(hit['price'], hit['currency'])}, {stock}")
    slug = next((hit["slug"] for hit in answer["hits"] if SKU in hit["skus"]), None)
    if slug is None:
        raise DemoFailed(f"{SKU} is not among the hits for {WORDS}")
    await walk.ask("GET", f"/p/{slug}")
    await walk.ask("GET", f"/p/{slug}")


async def _buy(walk: Walk) -> None:
    walk.step(f"She orders {UNITS} of {SKU}")
    before = await walk.level(SKU)
    order_id = await walk.order({SKU: UNITS})
    order = await walk.ended(order_id)
    await walk.watch.of_order(order_id, ReservationCommittedV1, OrderConfirmedV1)
    total = _money(order["total_minor"], order["currency"])
    walk.say(f"order {order['status']}: {total}; the page is {walk.client.edge}/orders/{order_id}")
    after = await walk.level(SKU)
    if (order["status"], after) != ("confirmed", before - UNITS):
        raise DemoFailed(f"the order is {order['status']} and stock went from {before} to {after}")


async def _buy_too_much(walk: Walk) -> None:
    walk.step("She orders more than there is: all of the order is held, or nothing")
    before = await walk.level(SCARCE)
    order_id = await walk.order({SKU: 1, SCARCE: before + 1})
    order = await walk.ended(order_id)
    await walk.watch.of_order(order_id, ReservationRejectedV1, OrderCancelledV1)
    for short in order["shortages"]:
        walk.say(f"short of {short['sku']}: {short['requested']} asked, {short['available']} there")
    walk.say(f"order {order['status']}: {order['reason']}")
    await walk.level(SCARCE)
    if order["status"] != "cancelled":
        raise DemoFailed(f"the order is {order['status']}")


def job_rows(job: Job) -> tuple[int, int, int]:
    """The rows that are in the shop now, by what became of them."""
    return job.counts.created, job.counts.updated, job.counts.unchanged


def _counts(job: Job) -> str:
    created, updated, unchanged = job_rows(job)
    failed = f", {job.counts.failed} failed" if job.counts.failed else ""
    return f"{created} created, {updated} updated, {unchanged} unchanged{failed}"


def _lines(lines: dict[str, int]) -> str:
    return ", ".join(f"{units} x {sku}" for sku, units in lines.items())


def _money(minor: int | None, currency: str) -> str:
    return "no price" if minor is None else f"{currency} {Decimal(minor).scaleb(-2):,.2f}"


def _levels(data: Fact) -> str:
    if not isinstance(data, StockChangedV1):
        return ""
    return f"  available {data.available}, reserved {data.reserved}, on hand {data.on_hand}"
