"""Loading SKUs into stock, and holds of three lines beside redis-benchmark with the same script.

On a Redis of its own, as the shop runs it. Holds are made by one process and by several of them,
each with 32 orders at a time; redis-benchmark sends the same EVALSHA with as many connections.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from rebuild_stock import BATCH, server
from rich.console import Console
from rich.table import Table

from stock.app import connect
from stock.parts import KEEP_MS
from stock.prices import PriceEntry
from stock.scripts import guarded, script_text
from stock.settings import Settings
from stock.store import StockStore
from stock.store.offers import Offer

AT_ONCE = 32
LINES = 3
WANTED = 1_000
PLENTY = 1_000_000_000
ORDERS = 1_000_000_000  # redis-benchmark draws order ids below this


async def load(store: StockStore, skus: int) -> float:
    """Seconds until so many SKUs have units and a price."""
    began = time.perf_counter()
    price = PriceEntry(currency="EUR", amount_minor=1_999)
    for first in range(0, skus, BATCH):
        names = [f"sku-{n:07}" for n in range(first, min(first + BATCH, skus))]
        await store.offers.put([Offer(sku=name, stock=100, prices=[price]) for name in names])
    return time.perf_counter() - began


async def hold(url: str, seconds: float) -> dict[str, Any]:
    """Hold orders for so long; how many, and how long each took in milliseconds."""
    took: list[float] = []
    async with connect(Settings(redis_url=url, redis_timeout=30)) as redis:
        store = StockStore(redis)
        end = time.perf_counter() + seconds

        async def buyer() -> None:
            while (began := time.perf_counter()) < end:
                lines = [(f"w-{n}", 1) for n in random.sample(range(WANTED), LINES)]
                if await store.holds.reserve(uuid4(), lines, uuid4()) != "held":
                    raise RuntimeError("a hold was refused")
                took.append((time.perf_counter() - began) * 1000)

        await asyncio.gather(*(buyer() for _ in range(AT_ONCE)))
    cuts = statistics.quantiles(took, n=100)
    return {"rate": len(took) / seconds, "p50": cuts[49], "p99": cuts[98]}


async def ours(url: str, seconds: float, processes: int) -> dict[str, float]:
    """The holds of so many processes together: their rate, and the median of their p99."""
    command = [sys.executable, __file__, f"--seconds={seconds}", f"--hold={url}"]
    running = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        for _ in range(processes)
    ]
    found = [json.loads((await each.communicate())[0]) for each in running]
    return {
        "rate": sum(each["rate"] for each in found),
        "p50": statistics.median(each["p50"] for each in found),
        "p99": statistics.median(each["p99"] for each in found),
    }


async def limit(redis: Any, port: int, connections: int, requests: int) -> dict[str, float]:
    """What redis-benchmark reaches with the script of a hold."""
    sha = await redis.script_load(guarded(script_text("reserve")))
    skus = [f"w-{n}" for n in range(LINES)]
    slot = StockStore(redis).slots[0]
    keys = [slot.hold("__rand_int__"), slot.exp, slot.ledger, slot.outbox]
    keys += [slot.marker("__rand_int__"), slot.hold(""), slot.fence("x")]
    for sku in skus:
        keys += [slot.quantity(sku), slot.moves(sku)]
    keys.append(slot.partitions)
    args = [
        "__rand_int__",
        str(uuid4()),
        str(uuid4()),
        "900000",
        str(KEEP_MS),
        "",
        "",
        "0",
        "",
        str(LINES),
    ]
    for sku in skus:
        args += [sku, "1", "0", str(uuid4()), ""]
    options = ["-p", str(port), "-c", str(connections), "-n", str(requests), "-r", str(ORDERS)]
    before = await redis.zcard(slot.exp)
    process = await asyncio.create_subprocess_exec(
        *("redis-benchmark", *options, "--csv", "EVALSHA", sha, str(len(keys)), *keys, *args),
        stdout=asyncio.subprocess.PIPE,
    )
    rows = (await process.communicate())[0].decode().splitlines()
    if await redis.zcard(slot.exp) - before < requests // 2:
        raise RuntimeError("redis-benchmark held nothing")
    titles, values = (
        [cell.strip('"') for cell in row.rsplit(",", 7)] for row in (rows[0], rows[-1])
    )
    row = dict(zip(titles[-7:], values[-7:], strict=True))
    return {
        "rate": float(row["rps"]),
        "p50": float(row["p50_latency_ms"]),
        "p99": float(row["p99_latency_ms"]),
    }


async def main(options: argparse.Namespace, console: Console) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with server(Path(name)) as settings, connect(settings) as redis:
            raw: Any = redis
            store = StockStore(redis)
            await store.install.make()
            empty = (await raw.info("memory"))["used_memory"]
            seconds = await load(store, options.skus)
            full = (await raw.info("memory"))["used_memory"]
            console.print(
                f"{options.skus:,} SKUs with units and a price: {seconds:.1f} s,"
                f" {options.skus / seconds:,.0f} SKUs/s, {(full - empty) / options.skus:,.0f} bytes"
                " of Redis each, with ledger and outbox",
                soft_wrap=True,
            )
            await store.offers.put([Offer(sku=f"w-{n}", stock=PLENTY) for n in range(WANTED)])
            port = int(settings.redis_url.rpartition(":")[2].partition("/")[0])
            runs: dict[str, list[dict[str, float]]] = {}
            for _ in range(options.rounds):
                for count in (1, options.processes):
                    at_once = count * AT_ONCE
                    runs.setdefault(f"redis-benchmark, {at_once} connections", []).append(
                        await limit(raw, port, at_once, options.requests)
                    )
                    runs.setdefault(f"our holds, {count} process(es)", []).append(
                        await ours(settings.redis_url, options.seconds, count)
                    )
    show(runs, console)


def show(runs: dict[str, list[dict[str, float]]], console: Console) -> None:
    """Medians, and each of ours as a ratio of the limit before it."""
    table = Table(title=f"Holds of {LINES} lines, fsync always")
    for column in ("what", "holds/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "what" else "right")
    middle = {
        name: {key: statistics.median(run[key] for run in each) for key in ("rate", "p50", "p99")}
        for name, each in runs.items()
    }
    for name, found in middle.items():
        table.add_row(name, *(f"{found[key]:,.1f}" for key in ("rate", "p50", "p99")))
    console.print(table)
    names = list(middle)
    for peer, own in zip(names[::2], names[1::2], strict=True):
        rate = middle[own]["rate"] / middle[peer]["rate"]
        p99 = middle[own]["p99"] / middle[peer]["p99"]
        console.print(
            f"{own}: [bold]{rate:.2f}x[/bold] of {peer} (to reach with one: 0.30x);"
            f" its p99 is {p99:.1f} times as long",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--skus", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--hold", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold:
        sys.stdout.write(json.dumps(asyncio.run(hold(given.hold, given.seconds))))
    else:
        asyncio.run(main(given, Console()))
