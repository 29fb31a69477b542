"""Orders: accepted and completed a second, a race, a rush; beside a database, a broker, Vendure.

On a stack of its own (`orders`), which is emptied. An order is completed when it is confirmed: its
units sold, its payment captured, its events out. The time to drain what was accepted counts. Only
the order path runs (`OURS`): nobody searches, mails, draws invoices or keeps the journal. What
accepting costs is measured from filled carts, while nobody follows up on the orders. The last lines
are the ratios.
"""

import argparse
import asyncio
import itertools
import math
import os
import secrets
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import aio_pika
import aiohttp
import psutil
import sqlalchemy as sa
import uvloop
from measure import cpu_seconds
from msgspec import Struct
from rich.console import Console
from sqlalchemy.ext.asyncio import create_async_engine

from bus.broker import confirming, connected
from checkout.store import tables
from shop import setup, verify
from shop.secrets import api_key
from shop.servers import amqp
from shop.services import database_url
from shop.stack import Stack

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from vendure_shop import PLENTY as VENDURE_PLENTY
from vendure_shop import NotOrdered, Vendure, race, vendure

OURS = [
    *("checkout-api", "checkout-relay", "checkout-worker"),
    *("stock-api", "stock-relay", "stock-worker", "payments-simulator"),
]
STORES = ["redis-stock", "redis-carts", "rabbitmq", "mariadb"]
FOLLOWERS = ["checkout-relay", "checkout-worker", "stock-relay", "stock-worker"]
ACCEPTING = ["checkout-api", "mariadb", "redis-carts"]
POSTGRESQL = Path("/usr/lib/postgresql")
SKUS = [f"PLENTY-{n}" for n in range(200)]
LINES = 3
OURS_AT_ONCE, THEIRS_AT_ONCE = (32, 64), (8, 32)
DRAIN_SECONDS = 120


class Run(Struct, kw_only=True):
    """What became of the orders of one run."""

    accepted: list[str]
    accept_ms: list[float]
    accept_seconds: float
    whole_seconds: float
    outcome_ms: list[float]
    ends: Counter[str]
    cpu_ms: dict[str, float]

    @property
    def completed_per_s(self) -> float:
        """Confirmed orders a second, from the first request to the last confirmation."""
        return self.ends["confirmed"] / self.whole_seconds


class Alone(Struct, kw_only=True):
    """One kind of work with the machine to itself, and what it costs."""

    per_s: float
    cpu_us: float
    ms: list[float]


class Shop:
    """Our order path, as shoppers see it."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.http = http
        self._url = stack.profile.url("checkout")

    async def stocked(self, units: dict[str, int]) -> None:
        admin = {"Authorization": f"Bearer {api_key(self.stack.profile)}"}
        price = {"prices": [{"currency": "EUR", "amount_minor": 1_999}]}
        for sku, count in units.items():
            url = self.stack.profile.url("stock", path=f"/products/{sku}")
            for path, body in (("stock", {"stock": count, "action": "set"}), ("prices", price)):
                async with self.http.put(f"{url}/{path}", json=body, headers=admin) as answer:
                    answer.raise_for_status()
        last = list(units)[-1]
        cart = await self.cart()
        while (await self.line(cart, last)) != 200:
            await asyncio.sleep(0.05)

    async def cart(self) -> str:
        async with self.http.post(f"{self._url}/carts") as answer:
            return str((await answer.json())["cart_id"])

    async def line(self, cart: str, sku: str) -> int:
        url = f"{self._url}/carts/{cart}/lines/{sku}"
        async with self.http.put(url, json={"qty": 1}) as answer:
            await answer.read()
            return answer.status

    async def filled(self, skus: Sequence[str]) -> str:
        cart = await self.cart()
        for sku in skus:
            await self.line(cart, sku)
        return cart

    async def ordered(self, cart: str) -> str | None:
        """The accepted order's id; None where the shop says that it is too busy."""
        async with self.http.post(
            f"{self._url}/carts/{cart}/checkout",
            json={"email": "ada@example.com", "payment": {"token": "tok_ok"}},
            headers={"Idempotency-Key": secrets.token_hex(16)},
        ) as answer:
            said = await answer.json()
            if answer.status == 503:
                return None
            if answer.status != 202:
                raise RuntimeError(f"{answer.status}: {said}")
            return str(said["order_id"])

    def pids(self) -> dict[str, int]:
        names = {*OURS, *STORES}
        return {s.name: s.pid for s in self.stack.status() if s.name in names and s.pid}


async def run(
    shop: Shop, skus: Sequence[str], *, seconds: float, at_once: int, lines: int = LINES
) -> Run:
    """Shoppers who fill a cart and order it, again and again, without waiting for outcomes."""
    accepted: list[str] = []
    accept_ms: list[float] = []
    pids = shop.pids()
    before = {name: cpu_seconds([pid]) for name, pid in pids.items()}
    begun = time.time()
    wheel = itertools.cycle(skus)

    async def shopper() -> None:
        while time.time() < begun + seconds:
            cart = await shop.filled([next(wheel) for _ in range(lines)])
            asked = time.perf_counter()
            order = await shop.ordered(cart)
            if order:
                accept_ms.append((time.perf_counter() - asked) * 1_000)
                accepted.append(order)

    await asyncio.gather(*(shopper() for _ in range(at_once)))
    accept_seconds = time.time() - begun
    return await drained(shop, accepted, accept_ms, begun, accept_seconds, pids, before)


async def accepting(shop: Shop, skus: Sequence[str], *, count: int, at_once: int) -> Alone:
    """Only the 202: carts are filled before, and who would follow up on the orders is stopped."""
    wheel = itertools.cycle(skus)
    filled: list[str] = []
    accepted: list[str] = []
    ms: list[float] = []

    async def filler() -> None:
        while len(filled) < count:
            filled.append(await shop.filled([next(wheel) for _ in range(LINES)]))

    await asyncio.gather(*(filler() for _ in range(at_once)))
    await asyncio.to_thread(shop.stack.stop, *FOLLOWERS)
    carts = iter(filled)
    pids = [pid for name, pid in shop.pids().items() if name in ACCEPTING]
    before, begun = cpu_seconds(pids), time.perf_counter()

    async def shopper() -> None:
        for cart in carts:
            asked = time.perf_counter()
            if order := await shop.ordered(cart):
                ms.append((time.perf_counter() - asked) * 1_000)
                accepted.append(order)

    await asyncio.gather(*(shopper() for _ in range(at_once)))
    seconds, used = time.perf_counter() - begun, cpu_seconds(pids) - before
    await asyncio.to_thread(shop.stack.start, FOLLOWERS)
    await drained(shop, accepted, [], time.time(), 0, {}, {})
    return Alone(per_s=len(ms) / seconds, cpu_us=used * 1e6 / len(ms), ms=ms)


async def drained(
    shop: Shop,
    accepted: list[str],
    accept_ms: list[float],
    begun: float,
    accept_seconds: float,
    pids: dict[str, int],
    before: dict[str, float],
) -> Run:
    """Wait until every accepted order has ended; when and how stands in its history."""
    engine = create_async_engine(_database(shop.stack))
    order, step = tables.orders.c, tables.order_history.c
    ends = (
        sa.select(order.id, order.placed_at, order.status, step.at)
        .join(
            tables.order_history, sa.and_(step.order_id == order.id, step.version == order.version)
        )
        # ids are in the order of time: a look through all orders costs as much as orders do
        .where(order.id >= min(map(UUID, accepted), default=UUID(int=0)))
    )
    try:
        deadline = time.time() + DRAIN_SECONDS
        wanted = set(accepted)
        while True:
            async with engine.connect() as connection:
                rows = [r for r in await connection.execute(ends) if str(r.id) in wanted]
            done = [row for row in rows if row.status in {"confirmed", "cancelled"}]
            if len(done) == len(wanted) or time.time() > deadline:
                break
            await asyncio.sleep(0.5)
    finally:
        await engine.dispose()
    last = max((row.at.timestamp() for row in done), default=begun)
    used = {name: cpu_seconds([pid]) - before[name] for name, pid in pids.items()}
    return Run(
        accepted=accepted,
        accept_ms=accept_ms,
        accept_seconds=accept_seconds,
        whole_seconds=max(last - begun, accept_seconds),
        outcome_ms=[(row.at - row.placed_at).total_seconds() * 1_000 for row in done],
        ends=Counter(row.status for row in rows),
        cpu_ms={name: 1_000 * spent / max(len(accepted), 1) for name, spent in used.items()},
    )


async def our_race(shop: Shop, buyers: int, units: int) -> Counter[str]:
    """So many buyers at once for so few units."""
    sku = f"RACE-{secrets.token_hex(4)}"
    await shop.stocked({sku: units})
    carts = [await shop.filled([sku]) for _ in range(buyers)]
    begun, asked = time.time(), time.time()
    orders = await asyncio.gather(*(shop.ordered(cart) for cart in carts))
    found = [order for order in orders if order]
    return (await drained(shop, found, [], begun, time.time() - asked, {}, {})).ends


async def rush(shop: Shop, shoppers: int, units: int, seconds: float) -> Run:
    """So many shoppers come within so many seconds for so few units; each has a cart."""
    sku = f"RUSH-{secrets.token_hex(4)}"
    await shop.stocked({sku: units})
    accepted: list[str] = []
    accept_ms: list[float] = []
    begun = time.time()

    async def shopper(number: int) -> None:
        await asyncio.sleep(seconds * number / shoppers)
        cart = await shop.filled([sku])
        asked = time.perf_counter()
        while (order := await shop.ordered(cart)) is None:
            await asyncio.sleep(1)  # Retry-After of a full queue
        accept_ms.append((time.perf_counter() - asked) * 1_000)
        accepted.append(order)

    await asyncio.gather(*(shopper(number) for number in range(shoppers)))
    return await drained(shop, accepted, accept_ms, begun, time.time() - begun, {}, {})


async def commits(shop: Shop, seconds: float, at_once: int) -> Alone:
    """Single-row SQLAlchemy commits on the database of orders: what the limit is."""
    engine = create_async_engine(_database(shop.stack), pool_size=at_once)
    rows = sa.Table(
        "bench_rows", sa.MetaData(), sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("body", sa.LargeBinary(500)),
    )  # fmt: skip
    async with engine.begin() as connection:
        await connection.run_sync(rows.metadata.create_all)
    pids = [os.getpid(), *(pid for name, pid in shop.pids().items() if name == "mariadb")]
    ms: list[float] = []
    before, end = _cpu(pids), time.perf_counter() + seconds

    async def writer() -> None:
        while (asked := time.perf_counter()) < end:
            async with engine.begin() as connection:
                await connection.execute(
                    sa.insert(rows).values(id=secrets.token_hex(16), body=b"x" * 500)
                )
            ms.append((time.perf_counter() - asked) * 1_000)

    await asyncio.gather(*(writer() for _ in range(at_once)))
    used = _cpu(pids) - before
    async with engine.begin() as connection:
        await connection.run_sync(rows.metadata.drop_all)
    await engine.dispose()
    return Alone(per_s=len(ms) / seconds, cpu_us=used * 1e6 / len(ms), ms=ms)


async def confirms(stack: Stack, seconds: float, at_once: int) -> float:
    """Persistent messages confirmed by a quorum queue a second, so many in flight."""
    async with connected(amqp(stack.profile, "admin"), "bench") as connection:
        channel = await confirming(connection)
        queue = await channel.declare_queue(
            "bench", durable=True, arguments={"x-queue-type": "quorum"}
        )
        done, end = 0, time.perf_counter() + seconds

        async def publisher() -> None:
            nonlocal done
            while time.perf_counter() < end:
                message = aio_pika.Message(
                    b"x" * 500, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
                )
                await channel.default_exchange.publish(message, "bench")
                done += 1

        await asyncio.gather(*(publisher() for _ in range(at_once)))
        await queue.delete(if_unused=False, if_empty=False)
    return done / seconds


async def peer(shop: Vendure, *, seconds: float, at_once: int) -> tuple[float, list[float], int]:
    """Completed orders a second of Vendure, their times, and how many failed."""
    took: list[float] = []
    failed = 0
    wheel = itertools.cycle(range(1, VENDURE_PLENTY + 1))
    begun = time.perf_counter()

    async def shopper() -> None:
        nonlocal failed
        while time.perf_counter() < begun + seconds:
            asked = time.perf_counter()
            try:
                await shop.order([next(wheel) for _ in range(LINES)])
            except (NotOrdered, aiohttp.ClientError, TimeoutError):
                failed += 1
            else:
                took.append((time.perf_counter() - asked) * 1_000)

    await asyncio.gather(*(shopper() for _ in range(at_once)))
    return len(took) / (time.perf_counter() - begun), took, failed


def _cpu(pids: Sequence[int]) -> float:
    """CPU of these processes alone: ours has servers for children."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def _database(stack: Stack) -> str:
    return database_url(stack.profile, "checkout", mariadb=stack.mariadb)


def at(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else float("nan")


def tell(console: Console, title: str, run: Run) -> None:
    ends = ", ".join(f"{count} {end}" for end, count in run.ends.items())
    console.print(
        f"{title}: accepted {len(run.accepted) / run.accept_seconds:,.0f}/s, completed "
        f"{run.completed_per_s:,.0f}/s of {len(run.accepted)} ({ends}); 202 in p50 "
        f"{at(run.accept_ms, 0.5):.0f} p99 {at(run.accept_ms, 0.99):.0f} ms, outcome p50 "
        f"{at(run.outcome_ms, 0.5):,.0f} p99 {at(run.outcome_ms, 0.99):,.0f} ms",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if run.cpu_ms:
        shown = ", ".join(f"{name} {ms:.1f}" for name, ms in sorted(run.cpu_ms.items()))
        total = sum(run.cpu_ms.values())
        console.print(f"  CPU ms per order: {shown}; all {total:.1f}", highlight=False)


def tell_alone(console: Console, title: str, alone: Alone) -> None:
    console.print(
        f"{title}, 64 at once: {alone.per_s:,.0f}/s, {alone.cpu_us:,.0f} µs of CPU, p50 "
        f"{at(alone.ms, 0.5):.0f} p99 {at(alone.ms, 0.99):.0f} ms",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


async def completing(
    shop: Shop, other: Vendure | None, options: argparse.Namespace, console: Console
) -> tuple[float, float, float]:
    """Orders a second that we accept, that we complete, and that Vendure completes.

    Medians of the rounds; in each, what either shop does at the concurrency that suits it best.
    """
    rounds: list[Run] = []
    rates: list[float] = []
    for _ in range(options.rounds):
        ours: list[Run] = []
        for at_once in options.at_once:
            ours.append(await run(shop, SKUS, seconds=options.seconds, at_once=at_once))
            tell(console, f"ours, {at_once} at once", ours[-1])
        rounds.append(max(ours, key=lambda one: one.completed_per_s))
        best = 0.0
        for at_once in THEIRS_AT_ONCE:
            if other is None:
                break
            rate, took, failed = await peer(other, seconds=options.seconds, at_once=at_once)
            best = max(best, rate)
            console.print(
                f"Vendure, {at_once} at once: completed {rate:.1f}/s, whole order p50 "
                f"{at(took, 0.5):,.0f} p99 {at(took, 0.99):,.0f} ms, {failed} failed",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        rates.append(best)
    return (
        statistics.median(len(one.accepted) / one.accept_seconds for one in rounds),
        statistics.median(one.completed_per_s for one in rounds),
        statistics.median(rates),
    )


async def beside_commits(
    shop: Shop, options: argparse.Namespace, console: Console
) -> tuple[float, float, float]:
    """Commits a second, and accepting orders beside them: by rate, and by what it costs."""
    alone: list[Alone] = []
    limits: list[Alone] = []
    for _ in range(options.rounds):
        count = int(options.seconds * 100)
        alone.append(await accepting(shop, SKUS, count=count, at_once=64))
        tell_alone(console, "accepted from filled carts", alone[-1])
        limits.append(await commits(shop, options.seconds / 2, 64))
        tell_alone(console, "single-row commits", limits[-1])
    commit = statistics.median(one.per_s for one in limits)
    cost = statistics.median(one.cpu_us for one in limits)
    return (
        commit,
        statistics.median(one.per_s for one in alone) / commit,
        cost / statistics.median(one.cpu_us for one in alone),
    )


async def main(options: argparse.Namespace, console: Console) -> None:
    stack = Stack.open("orders", mariadb=not options.sqlite)
    async with AsyncExitStack() as kept:
        http = await kept.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
            )
        )
        shop = Shop(stack, http)
        await shop.stocked(dict.fromkeys(SKUS, 1_000_000))
        await run(shop, SKUS, seconds=2, at_once=options.at_once[0])
        other = None
        if options.peer:
            other = await kept.enter_async_context(vendure(stack.profile.var.parent / "bench"))
            await peer(other, seconds=5, at_once=4)
        accepted, completed, theirs = await completing(shop, other, options, console)
        ends = await our_race(shop, 100, 10)
        console.print(f"race, 100 buyers for 10 units: ours {dict(ends)}", highlight=False)
        if other is not None:
            placed = await race(other, 100, VENDURE_PLENTY + 1)
            console.print(f"race, 100 buyers for 10 units: Vendure places {placed}")
        if options.shoppers:
            hurry = await rush(shop, options.shoppers, options.shoppers // 10, options.within)
            tell(console, f"rush of {options.shoppers} within {options.within:.0f} s", hurry)
        commit, times, cheaper = await beside_commits(shop, options, console)
        confirm = await confirms(stack, options.seconds / 2, 64)
        console.print(f"confirmed messages, 64 at once: {confirm:,.0f}/s", highlight=False)
    found = await verify.settled(stack.profile, mariadb=stack.mariadb, within=120)
    console.print(f"verify: {len(found)} breaches {found[:3]}", highlight=False)
    console.print(
        f"accepted / single-row commits: [bold]{times:.2f}x[/bold] (to reach: 0.50x); by CPU "
        f"{cheaper:.2f}x; with carts filled and orders completed meanwhile "
        f"{accepted / commit:.2f}x",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"completed / confirmed messages: {completed / confirm:.3f}x", highlight=False)
    if theirs:
        ratio = completed / theirs
        console.print(f"completed / Vendure: [bold]{ratio:.1f}x[/bold] (to reach: 20x)")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="+", default=OURS_AT_ONCE, help="shoppers")
    parser.add_argument("--shoppers", type=int, default=5_000, help="of the rush; 0: none")
    parser.add_argument("--within", type=float, default=60, help="seconds in which they come")
    parser.add_argument("--sqlite", action="store_true", help="orders in SQLite, not MariaDB")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="without Vendure")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = arguments()
    shown = Console(width=120)
    if chosen.peer and not POSTGRESQL.exists():
        shown.print("without Vendure, which needs: apt-get install postgresql")
        chosen.peer = False
    private = Stack.open("orders", mariadb=not chosen.sqlite)
    private.down()
    for name in (*STORES, "checkout", "stock", "payments"):
        shutil.rmtree(private.profile.folder(name), ignore_errors=True)
    try:
        setup.up(private, Console(quiet=True), only=OURS)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            # the shoppers take their share of the same two cores
            runner.run(main(chosen, shown))
    finally:
        private.down()
