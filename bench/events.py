"""Relay and consumer, beside RabbitMQ's perf-test and a plain aio-pika consumer.

`./shop bench events` runs it on a private stack of its own, servers only. The relay publishes
persistent, mandatory and confirmed to one quorum queue: out of a list, so that the relay alone is
measured, and out of each store; perf-test does so with as many confirms outstanding. The consumer
counts each event once, with an inbox or a version guard in the step of the effect, and acks; the
plain one acks each message and does nothing. The last lines are the ratios.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aio_pika
import uvloop
from measure import Candidate, Load, Result, cpu_seconds, ratio
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bus import topology as deployed
from bus import wire
from bus.broker import connected
from bus.consumer import consume_batches
from bus.outbox import Entry, Outbox
from bus.publisher import Publisher
from bus.relay import BATCH, relay
from shop import servers, setup
from shop.profiles import ROOT
from shop.stack import Stack, StackFailed
from shop_contracts import topology
from shop_contracts.envelope import Event, encode
from shop_contracts.events.base import Fact

# the smallest service that has an outbox and an inbox in each store; tests kill it again and again
sys.path.insert(0, str(ROOT / "libs" / "bus" / "tests" / "programs"))
import ledger
from ledger import Ledger, change

PERF_TEST = Path(__file__).parent / "peers" / "perf-test.xml"
PEER = "perf-test"
OWNER, QUEUE = "search", "bench.work"
WORK = topology.queue(ledger.CONSUMER, ledger.OWNER)
SUBJECTS = 1_000
WARM_UP, SECONDS = 4, 6
PREFETCH = 200
IN_FLIGHT = 500
WINDOW = 2 * BATCH  # one batch is on its way while the next is sent
SERVERS = ["redis-stock", "rabbitmq", "elasticsearch", "mariadb"]


class Run(Struct, frozen=True):
    """One run: events, seconds, and the CPU seconds of the program that is measured."""

    events: int
    seconds: float
    cpu: float


class Listed:
    """An outbox in memory."""

    def __init__(self, events: Sequence[Event[Fact]]) -> None:
        self._events = events
        self._settled = 0

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        start = self._settled + len(behind)
        found = [Entry.of(None, event) for event in self._events[start : start + limit]]
        if not found:
            await asyncio.sleep(0.01)
        return found

    async def settle(self, entries: Sequence[Entry]) -> None:
        self._settled += len(entries)

    async def waiting(self) -> tuple[int, None]:
        return len(self._events) - self._settled, None


class Counted:
    """An outbox that tells when it is first asked, and when so many entries were settled."""

    def __init__(self, outbox: Outbox, count: int) -> None:
        self._outbox = outbox
        self._left = count
        self.begun, self.done = asyncio.Event(), asyncio.Event()

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        self.begun.set()
        return await self._outbox.pending(limit, behind)

    async def settle(self, entries: Sequence[Entry]) -> None:
        await self._outbox.settle(entries)
        self._left -= len(entries)
        if self._left <= 0:
            self.done.set()

    async def waiting(self) -> tuple[int, None]:
        return self._left, None


def ledgers(stack: Stack) -> dict[str, Ledger]:
    """One for each store, under names of their own."""
    profile = stack.profile
    urls = {
        "Redis": ("redis", servers.admin_redis(profile, "redis-stock")),
        "MariaDB": ("mariadb", servers.mariadb_url(profile, "admin", "checkout")),
        "Elasticsearch": ("elasticsearch", profile.url("elasticsearch")),
    }
    return {
        name: ledger.open_ledger(kind, {"LEDGER_URL": url, "LEDGER_PREFIX": "bench"})
        for name, (kind, url) in urls.items()
    }


async def declare(url: str) -> None:
    """The exchange and queue of the relay's runs, and the topology of the consumer's."""
    await deployed.apply(url)
    (work,) = (spec for spec in topology.TOPOLOGY.queues if spec.name == WORK)
    async with connected(url, "bench") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=dict(work.arguments))
        await queue.bind(topology.exchange(OWNER), "#")
        # perf-test is measured on a queue, and so is the relay: not on a stream beside it
        log = await channel.get_queue(topology.log(OWNER))
        await log.unbind(topology.exchange(OWNER), "#")


async def purge(url: str, name: str) -> None:
    async with connected(url, "bench") as connection:
        await (await (await connection.channel()).get_queue(name)).purge()


@asynccontextmanager
async def timed(count: int) -> AsyncIterator[list[Run]]:
    """Fills the list with the one run that the body was."""
    found: list[Run] = []
    started, used = time.perf_counter(), time.process_time()
    yield found
    found.append(Run(count, time.perf_counter() - started, time.process_time() - used))


@asynccontextmanager
async def running(coroutine: Awaitable[Any]) -> AsyncIterator[None]:
    """What runs for ever, for as long as the body does."""
    task = asyncio.ensure_future(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def forward(url: str, outbox: Outbox, count: int) -> Run:
    """The relay, from the moment in which it holds the lease until the outbox is empty."""
    await purge(url, QUEUE)
    counted = Counted(outbox, count)
    async with running(relay(url, OWNER, counted)):
        await counted.begun.wait()
        async with timed(count) as found:
            await counted.done.wait()
    return found[0]


async def fill(books: Ledger, count: int) -> None:
    """So many events into the outbox of a store."""
    await books.prepare()
    skus = [f"S-{n}" for n in range(SUBJECTS)]
    for _ in range(count // SUBJECTS):
        for start in range(0, SUBJECTS, 250):
            await books.raise_levels(skus[start : start + 250])


async def gathered(url: str, events: Sequence[Event[Fact]]) -> Run:
    """What the relay did before: aio-pika's publish for each event, 500 in flight."""
    await purge(url, QUEUE)
    async with connected(url, "bench") as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(topology.exchange(OWNER))
        async with timed(len(events)) as found:
            for start in range(0, len(events), IN_FLIGHT):
                await asyncio.gather(
                    *(
                        exchange.publish(_aio_pika(event), event.meta.key, mandatory=True)
                        for event in events[start : start + IN_FLIGHT]
                    )
                )
    return found[0]


def _aio_pika(event: Event[Fact]) -> aio_pika.Message:
    return aio_pika.Message(
        encode(event),
        content_type="application/cloudevents+json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=str(event.meta.id),
        type=event.meta.type,
        app_id=event.meta.source,
        timestamp=event.meta.time,
        headers={"partitionkey": event.meta.subject},
    )


async def perf_test(jars: Path, url: str, size: int) -> Run:
    """RabbitMQ's own: one producer, persistent, confirmed; the seconds after its warm-up."""
    await purge(url, QUEUE)
    process = await asyncio.create_subprocess_exec(
        *("java", "-cp", f"{jars}/*", "com.rabbitmq.perf.PerfTest", "--uri", url),
        *("--exchange", topology.exchange(OWNER), "--type", "topic"),
        *("--routing-key", "stock.changed.v1", "--queue", QUEUE, "--predeclared"),
        *("--producers", "1", "--consumers", "0", "--confirm", str(WINDOW)),
        *("--flag", "persistent", "--flag", "mandatory", "--size", str(size)),
        *("--time", str(WARM_UP + SECONDS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    talking = asyncio.create_task(process.communicate())
    # the virtual machine's start and its compiling are not what is compared
    await asyncio.sleep(WARM_UP)
    before = cpu_seconds([process.pid])
    await asyncio.sleep(SECONDS - 1)
    used = (cpu_seconds([process.pid]) - before) / (SECONDS - 1)
    output = (await talking)[0].decode()
    rates = [int(rate) for rate in re.findall(r"confirmed: (\d+) msg/s", output)][WARM_UP:]
    if not rates:
        raise RuntimeError(f"perf-test failed:\n{output}")
    return Run(int(statistics.mean(rates) * SECONDS), SECONDS, used * SECONDS)


async def stock_up(url: str, count: int) -> None:
    """So many events into the consumer's queue: each subject's in order."""
    await purge(url, WORK)
    events = [change(f"S-{n % SUBJECTS}", n // SUBJECTS + 1) for n in range(count)]
    async with connected(url, "bench") as connection:
        publisher = await Publisher.open(connection, "")
        for start in range(0, count, IN_FLIGHT):
            some = events[start : start + IN_FLIGHT]
            sent = [wire.message(event.meta, encode(event), key=WORK) for event in some]
            await (await publisher.send(sent)).confirmed()


async def consumed(url: str, books: Ledger, count: int) -> Run:
    """Our consumer, until every event has had its effect; the last acks are on their way then."""
    await books.prepare()
    await stock_up(url, count)
    left, done = count, asyncio.Event()

    async def handler(context: Ledger, events: Sequence[Event[Fact]]) -> None:
        nonlocal left
        await context.apply(events)
        left -= len(events)
        if left <= 0:
            done.set()

    consumer = consume_batches(url, ledger.CONSUMER, ledger.OWNER, handler, books)
    async with timed(count) as found, running(consumer):
        await done.wait()
    effects = await books.effects()
    assert count == sum(effect.times for effect in effects.values()), "not each event once"
    return found[0]


async def plain(url: str, count: int) -> Run:
    """aio-pika as its documentation shows it: a callback, one ack for each message, no effect."""
    await stock_up(url, count)
    left, done = count, asyncio.Event()

    async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal left
        async with message.process():
            left -= 1
        if not left:
            done.set()

    async with timed(count) as found, await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        await (await channel.get_queue(WORK)).consume(on_message)
        await done.wait()
    return found[0]


async def in_turn(
    ways: dict[str, Callable[[], Awaitable[Run]]], promises: dict[str, str], rounds: int
) -> dict[str, Result]:
    """Each way once per round, after one round to warm up."""
    results = {
        name: Result(
            Candidate(name, "", pids=(os.getpid(),), promises=promises.get(name, "")),
            [],
            [],
        )
        for name in ways
    }
    for turn in range(rounds + 1):
        for name, way in ways.items():
            run = await way()
            if turn:
                rate = run.events / run.seconds
                results[name].loads.append(Load(rate, 0, 0, 0, run.events))
                results[name].cpu_us.append(run.cpu * 1e6 / run.events)
    return results


def show(title: str, results: dict[str, Result], console: Console) -> None:
    """The runs as a table: medians, with the smallest and largest rate beside them."""
    table = Table(title=title)
    for column in ("what", "events/s", "min-max", "CPU µs/event", "what it promises"):
        table.add_column(column, justify="left" if column.startswith("what") else "right")
    for name, result in results.items():
        rates = [load.rate for load in result.loads]
        cpu = statistics.median(result.cpu_us)
        table.add_row(
            *(name, f"{result.rate:,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}"),
            *(f"{cpu:.0f}", result.candidate.promises),
        )
    console.print(table)


async def main(stack: Stack, jars: Path, console: Console, *, rounds: int, count: int) -> None:
    """Measure, show, and end with the ratios."""
    url = servers.amqp(stack.profile, "admin", "%2F")
    await declare(url)
    books = ledgers(stack)
    listed = [change(f"S-{n % SUBJECTS}", n // SUBJECTS + 1) for n in range(2 * count)]
    size = len(encode(listed[0]))

    def out_of(name: str) -> Callable[[], Awaitable[Run]]:
        async def run() -> Run:
            await fill(books[name], count)
            return await forward(url, books[name].outbox, count)

        return run

    def into(name: str) -> Callable[[], Awaitable[Run]]:
        return lambda: consumed(url, books[name], count)

    relayed = await in_turn(
        {
            "our relay": lambda: forward(url, Listed(listed), len(listed)),
            PEER: lambda: perf_test(jars, url, size),
            "aio-pika, gathered": lambda: gathered(url, listed[:count]),
            **{f"our relay out of {name}": out_of(name) for name in books},
        },
        {
            "our relay": "each event encoded, confirmed in batches of 500, settled",
            PEER: f"{size} bytes, window of {WINDOW}",
            "aio-pika, gathered": "what the relay did before",
        },
        rounds,
    )
    worked = await in_turn(
        {
            "plain aio-pika": lambda: plain(url, count),
            **{f"our consumer into {name}": into(name) for name in books},
        },
        {
            "plain aio-pika": "nothing: single acks",
            "our consumer into Redis": "inbox and effect in one script, appendfsync always",
            "our consumer into MariaDB": "inbox and effect in one transaction",
            "our consumer into Elasticsearch": "version guard in the document, compare-and-set",
        },
        rounds,
    )
    for one in books.values():
        await one.forget()
        await one.close()

    show(
        f"Relay: {size} bytes an event, persistent, confirmed, to a quorum queue", relayed, console
    )
    show("Consumer: from a quorum queue", worked, console)
    peer = relayed[PEER]
    for name in ("our relay", *(f"our relay out of {store}" for store in books)):
        ratio(console, name, relayed[name], peer, 0.5)
    ratio(console, "our relay", relayed["our relay"], relayed["aio-pika, gathered"], 1.0)
    for store, bar in (("Redis", 1.0), ("MariaDB", 0.7), ("Elasticsearch", 0.7)):
        name = f"our consumer into {store}"
        ratio(console, name, worked[name], worked["plain aio-pika"], bar)


def jars_in(folder: Path) -> Path:
    """perf-test and what it needs, from Maven Central; once."""
    if not list(folder.glob("perf-test-*.jar")):
        folder.mkdir(parents=True, exist_ok=True)
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
        subprocess.run(["mvn", "-q", "-f", str(PERF_TEST), *goal], check=True)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="bench", help="whose servers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=20_000, help="of one run, in thousands")
    options = parser.parse_args()
    console = Console(width=130)
    stack = Stack.open(options.profile, mariadb=True)
    stays = stack.up()
    try:
        setup.up(stack, Console(quiet=True), servers_only=True, only=SERVERS)
        jars = jars_in(stack.profile.folder("perf-test"))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(stack, jars, console, rounds=options.rounds, count=options.events))
    except StackFailed as failure:
        sys.exit(f"shop: {failure}")
    finally:
        if not stays:
            stack.down()
