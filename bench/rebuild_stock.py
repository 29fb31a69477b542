"""How long stock's journal takes to follow, and an empty Redis to be filled again from it.

On a Redis of its own and a SQLite file, or on the database at --database-url, which must be empty.
Each SKU has units and a price; some are held, and some moved before. The limit beside it is the
same number of hashes written in pipelines: what Redis itself takes.
"""

import argparse
import asyncio
import socket
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError
from rich.console import Console

from chassis.database import database
from stock import schema
from stock.app import connect
from stock.bookkeeping import Bookkeeper
from stock.domain import Action, Adjust
from stock.journal import Journal
from stock.prices import PriceEntry
from stock.rebuild import Heard, Rebuild
from stock.settings import Settings
from stock.store import StockStore
from stock.store.offers import Offer

BATCH = 1_000
WEEK_MS = 7 * 86_400_000


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Settings]:
    """A Redis as the shop runs it, with what it writes below `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "2gb"]
    process = await asyncio.create_subprocess_exec("redis-server", *options, stdout=DEVNULL)
    try:
        settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0", redis_timeout=30)
        async with connect(settings) as redis:
            for _ in range(200):
                try:
                    await redis.ping()
                    break
                except RedisError:
                    await asyncio.sleep(0.05)
        yield settings
    finally:
        process.terminate()
        await process.wait()


async def fill(store: StockStore, skus: int, holds: int) -> None:
    """Units and a price for each SKU, a second delivery for each tenth, orders that hold."""
    for first in range(0, skus, BATCH):
        price = PriceEntry(currency="EUR", amount_minor=1_999)
        names = [f"sku-{n:07}" for n in range(first, min(first + BATCH, skus))]
        await store.offers.put([Offer(sku=name, stock=100, prices=[price]) for name in names])
        more = Adjust(stock=10, action=Action.INCREMENT)
        await store.quantities.adjust_many([(name, more, None) for name in names[::10]])
    for n in range(holds):
        await store.holds.reserve(uuid4(), [(f"sku-{n % skus:07}", 1)], uuid4())


async def state(redis: Any) -> dict[str, Any]:
    """What the old one and the new one must both have: every hash, index and list."""
    found: dict[str, Any] = {}
    keys = [key async for key in redis.scan_iter(count=BATCH)]
    for first in range(0, len(keys), BATCH):
        some = keys[first : first + BATCH]
        pipe = redis.pipeline(transaction=False)
        for key in some:
            pipe.type(key)
        kinds = await pipe.execute()
        pipe = redis.pipeline(transaction=False)
        for key, kind in zip(some, kinds, strict=True):
            match kind:
                case "hash":
                    pipe.hgetall(key)
                case "zset":
                    pipe.zrange(key, 0, -1, withscores=True)
                case "list":
                    pipe.lrange(key, 0, -1)
                case _:
                    pipe.type(key)
        found |= dict(zip(some, await pipe.execute(), strict=True))
    return found


async def limit(redis: Any, hashes: int) -> float:
    """Seconds for so many hashes of five fields, in pipelines."""
    began = time.perf_counter()
    for first in range(0, hashes, BATCH):
        pipe = redis.pipeline(transaction=False)
        for n in range(first, min(first + BATCH, hashes)):
            pipe.hset(f"limit:{n}", mapping={"recv": 1, "avail": 1, "resv": 0, "sold": 0, "ver": 1})
        await pipe.execute()
    took = time.perf_counter() - began
    await redis.flushall()
    return took


async def main(options: argparse.Namespace, console: Console) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = options.database_url or f"sqlite+aiosqlite:///{folder / 'stock.sqlite'}"
        async with server(folder) as settings, database(url) as sql, connect(settings) as redis:
            await schema.HISTORY.migrate(sql)
            raw = await limit(redis, options.skus * 2)
            store, journal = StockStore(redis), Journal(sql)
            await store.install.make()
            books = Bookkeeper(redis, store.slots, journal, keep_ms=WEEK_MS)
            began = time.perf_counter()
            await fill(store, options.skus, options.holds)
            filled = time.perf_counter() - began
            entries = await redis.xlen(store.slots[0].ledger)
            # what has left the outbox is not brought back: let most of it leave
            await redis.xtrim(store.slots[0].outbox, maxlen=100)
            began = time.perf_counter()
            await books.catch_up()
            followed = time.perf_counter() - began
            before = await state(redis)
            await redis.flushall()
            began = time.perf_counter()
            done = await Rebuild(redis, store.slots, journal, keep_ms=options.keep_ms).run(Heard())
            took = time.perf_counter() - began
            same = options.keep_ms < WEEK_MS or before == await state(redis)
    tell(console, options, filled, entries, followed, done, took, raw)
    console.print(f"equal to the old one: [bold]{same}[/bold]")
    if not same:
        raise SystemExit(1)


def tell(
    console: Console,
    options: argparse.Namespace,
    filled: float,
    entries: int,
    followed: float,
    done: Any,
    took: float,
    raw: float,
) -> None:
    console.print(
        f"{options.skus:,} SKUs filled in {filled:.1f} s; "
        f"journal: {entries:,} entries in {followed:.1f} s, {entries / followed:,.0f}/s",
        highlight=False,
    )
    console.print(
        f"rebuilt in [bold]{took:.1f} s[/bold]: {done.skus:,} SKUs, {done.prices:,} prices, "
        f"{done.holds:,} holds, {done.movements:,} movements; {done.skus / took:,.0f} SKUs/s",
        highlight=False,
    )
    console.print(f"rebuild / the same hashes raw: [bold]{took / raw:.1f}x[/bold]")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skus", type=int, default=100_000)
    parser.add_argument("--holds", type=int, default=1_000)
    parser.add_argument("--keep-ms", type=int, default=WEEK_MS, help="of the ledger, brought back")
    parser.add_argument("--database-url", default="", help="an empty database; SQLite else")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(arguments(), Console(width=120)))
