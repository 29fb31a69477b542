"""Processes die by kill -9 wherever it hurts; nothing is lost, and no effect happens twice.

Three processes per store (`programs/ledger.py`): a writer, a relay, a consumer. The checker reads
both sides when all is quiet and prints what it found.
"""

import asyncio
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import module_from_spec, spec_from_file_location
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import create_async_engine

from bus.broker import connected
from bus.topology import apply
from shop_contracts import topology

pytestmark = pytest.mark.connected

PROGRAM = Path(__file__).parent / "programs" / "ledger.py"
STORES = ["redis", "sqlite", "mariadb", "elasticsearch"]
STARTS_WITHIN = 60
DIES_WITHIN = 120
QUIET_WITHIN = 60
QUEUE = "search.stock"

RELAY = [
    "stock.relay.leased",
    "stock.relay.before_publish",
    "stock.relay.before_confirm",
    "stock.relay.after_confirm",
    "stock.relay.after_settle",
]
SETTLING = {
    "sqlite": "outbox.sql.settling",
    "mariadb": "outbox.sql.settling",
    "elasticsearch": "outbox.documents.settling",
}
CONSUMER = [f"{QUEUE}.{name}" for name in ("before_effect", "after_effect", "after_ack")]
RETRIES = [f"{QUEUE}.{name}" for name in ("before_retry", "after_retry")]


class Found(Struct, frozen=True):
    """What the checker says."""

    acked: int
    lost: int
    duplicated: int
    disorder: int
    invented: int

    def __str__(self) -> str:
        return f"acked {self.acked:,}, lost {self.lost}, duplicated effects {self.duplicated}"


class Rig:
    """One ledger and its processes."""

    def __init__(
        self, env: dict[str, str], program: ModuleType, nursery: asyncio.subprocess.Process
    ) -> None:
        self.env = env
        self.acks = Path(env["LEDGER_ACKS"])
        self.ledger = program.open_ledger(env["LEDGER_STORE"], env)
        self.running: dict[str, int] = {}
        self.deaths: dict[str, int] = {}
        self._program = program
        self._nursery = nursery
        self._starting = asyncio.Lock()
        self._born: asyncio.Queue[int] = asyncio.Queue()
        self._codes: dict[int, asyncio.Future[int]] = {}

    async def hear(self) -> None:
        """Take note of births and deaths, for as long as the nursery lives."""
        assert self._nursery.stdout is not None
        async for line in self._nursery.stdout:
            told = msgspec.json.decode(line, type=self._program.Born | self._program.Died)
            if isinstance(told, self._program.Born):
                self._codes[told.pid] = asyncio.get_running_loop().create_future()
                self._born.put_nowait(told.pid)
            else:
                self._codes[told.pid].set_result(told.code)

    async def start(self, name: str, failpoint: str = "", **env: str) -> None:
        """Start a process; of `consumer 2` the role is `consumer`."""
        assert self._nursery.stdin is not None
        role = name.split(maxsplit=1)[0]
        task = self._program.Task(
            role, {**self.env, **env, "FAILPOINT": failpoint}, str(self._log(role))
        )
        async with self._starting, asyncio.timeout(STARTS_WITHIN):
            self._nursery.stdin.write(msgspec.json.encode(task) + b"\n")
            self.running[name] = await self._born.get()

    async def ended(self, name: str) -> int:
        """Its exit code; negative is the signal that ended it."""
        return await asyncio.shield(self._codes[self.running[name]])

    async def died(self, name: str, failpoint: str) -> None:
        """Return when the failpoint has done its work."""
        async with asyncio.timeout(DIES_WITHIN):
            code = await self.ended(name)
        assert -signal.SIGKILL == code, f"{name} did not die at {failpoint}\n{self.log(name)}"
        self.deaths[failpoint] = self.deaths.get(failpoint, 0) + 1

    async def kill(self, name: str) -> None:
        if not self._codes[self.running[name]].done():
            os.kill(self.running[name], signal.SIGKILL)
        await self.ended(name)
        del self.running[name]

    def _log(self, role: str) -> Path:
        return self.acks.parent / f"{role}.log"

    def log(self, name: str) -> str:
        return self._log(name.split(maxsplit=1)[0]).read_text()[-3_000:]

    def acked(self) -> int:
        return self.acks.read_bytes().count(b"\n") if self.acks.exists() else 0

    async def quiet(self) -> None:
        """The writer stops; wait until the consumer has all that was committed, or gets no more."""
        await self.kill("writer")
        levels = await self.ledger.levels()
        left = {"": 1}
        while left:
            # what is far behind may take as long as it comes nearer
            before = left
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_WITHIN):
                    while left == before:
                        await asyncio.sleep(0.2)
                        effects = await self.ledger.effects()
                        times = {sku: effect.times for sku, effect in effects.items()}
                        left = {sku: n for sku, n in levels.items() if n > times.get(sku, 0)}
                        left = {sku: n - times.get(sku, 0) for sku, n in left.items()}
            if left == before:
                break
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_WITHIN):
                while (await self.ledger.outbox.waiting())[0]:
                    await asyncio.sleep(0.1)
        # what is repeated even now must not count
        await asyncio.sleep(1)

    async def progress(self) -> None:
        """Return when every subject has gone on."""
        before = await self.ledger.levels()
        async with asyncio.timeout(QUIET_WITHIN):
            while True:
                effects = await self.ledger.effects()
                if before and all(
                    sku in effects and effects[sku].times > level for sku, level in before.items()
                ):
                    return
                before = before or await self.ledger.levels()
                await asyncio.sleep(0.1)

    async def check(self) -> Found:
        """Compare what was promised with both stores."""
        levels, effects = await self.ledger.levels(), await self.ledger.effects()
        promised: dict[str, int] = {}
        lines = self.acks.read_text().splitlines()
        for line in lines:
            sku, version = line.split()
            promised[sku] = max(promised.get(sku, 0), int(version))
        times = {sku: effect.times for sku, effect in effects.items()}
        return Found(
            acked=len(lines),
            lost=sum(max(0, level - times.get(sku, 0)) for sku, level in levels.items())
            + sum(max(0, version - levels.get(sku, 0)) for sku, version in promised.items()),
            duplicated=sum(max(0, n - levels.get(sku, 0)) for sku, n in times.items()),
            disorder=sum(effect.disorder for effect in effects.values()),
            invented=len(set(times) - set(levels)),
        )


@pytest.fixture(scope="module")
def program() -> Iterator[ModuleType]:
    spec = spec_from_file_location("ledger", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["ledger"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ledger"]


@asynccontextmanager
async def rig(
    store: str, stack: Any, broker_url: str, tmp_path: Path, program: ModuleType, **env: str
) -> AsyncIterator[Rig]:
    """Empty stores and queues; at the end no process is left."""
    mine = f"crash{secrets.token_hex(3)}"
    urls: dict[str, Callable[[], str | None]] = {
        "redis": lambda: stack.redis_stock_url,
        "sqlite": lambda: f"sqlite+aiosqlite:///{tmp_path}/ledger.db",
        "mariadb": lambda: stack.mariadb_url,
        "elasticsearch": lambda: stack.elasticsearch_url,
    }
    url = urls[store]()
    if url is None:
        pytest.skip("MariaDB is not part of this stack: start it with --mariadb")
    if store == "mariadb":
        await _execute(url, f"CREATE DATABASE {mine}")
        url = sa.make_url(url).set(database=mine).render_as_string(hide_password=False)
    settings = {
        "LEDGER_STORE": store,
        "BROKER_URL": broker_url,
        "SHOP_PROFILE": "test",
        "LEDGER_URL": url,
        "LEDGER_PREFIX": mine,
        "LEDGER_ACKS": str(tmp_path / "acks"),
        "LEDGER_SUBJECTS": "80",
        "LEDGER_BATCH": "10",
        "LEDGER_PAUSE": "0.1",
        "LEDGER_CONSUMER": "batches",
    }
    await _purge(broker_url)
    nursery = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), store),
        env={**os.environ, "SHOP_PROFILE": "test"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    found = Rig(settings | env, program, nursery)
    hearing = asyncio.create_task(found.hear())
    try:
        await found.ledger.prepare()
        yield found
    finally:
        assert nursery.stdin is not None
        nursery.stdin.close()
        await nursery.wait()
        await hearing
        await found.ledger.forget()
        await found.ledger.close()
        if store == "mariadb":
            await _execute(stack.mariadb_url, f"DROP DATABASE {mine}")
        await _purge(broker_url)


async def _execute(url: str, statement: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sa.text(statement))
    await engine.dispose()


async def _purge(broker_url: str) -> None:
    async with connected(broker_url, "test") as connection:
        channel = await connection.channel()
        for spec in topology.TOPOLOGY.queues:
            if spec.name.startswith(QUEUE):
                await (await channel.get_queue(spec.name)).purge()


def points(store: str) -> dict[str, list[str]]:
    """Where each process is to die: every failpoint that this store passes."""
    in_sql = store in {"sqlite", "mariadb"}
    return {
        "writer": ["ledger.writer.after_commit", *["ledger.writer.before_commit"] * in_sql],
        "relay": RELAY + ([SETTLING[store]] if store in SETTLING else []),
        "consumer": CONSUMER + ["ledger.consumer.marked"] * (store != "redis"),
    }


async def dies_once(rig: Rig, role: str, points: Sequence[str], **env: str) -> None:
    """The process dies at each of these points, one after the other, while the others go on."""
    for point in points:
        await rig.start(
            role, f"{point}:kill:3" if "leased" not in point else f"{point}:kill", **env
        )
        await rig.died(role, point)
    await rig.start(role, **env)


@pytest.mark.parametrize("store", STORES)
async def test_killed_at_every_failpoint_nothing_is_lost_and_nothing_done_twice(
    store: str, stack: Any, broker_url: str, tmp_path: Path, program: ModuleType
) -> None:
    async with rig(store, stack, broker_url, tmp_path, program) as ledger:
        await asyncio.gather(*(dies_once(ledger, *one) for one in points(store).items()))
        await ledger.quiet()
        found = await ledger.check()
        print(f"{store}: {found}, {sum(ledger.deaths.values())} kills")  # noqa: T201 - the proof

    assert found.acked > 0
    assert Found(found.acked, 0, 0, 0, 0) == found
    assert {*chain(*points(store).values())} == set(ledger.deaths)


@pytest.mark.parametrize("store", ["redis", "sqlite"])
async def test_killed_around_a_retry_nothing_is_lost_and_nothing_done_twice(
    store: str, stack: Any, broker_url: str, tmp_path: Path, program: ModuleType
) -> None:
    env = {"LEDGER_CONSUMER": "one", "LEDGER_FAILS": "20", "LEDGER_SUBJECTS": "40"}
    async with rig(store, stack, broker_url, tmp_path, program, **env) as ledger:
        await ledger.start("writer")
        await ledger.start("relay")
        await dies_once(ledger, "consumer", RETRIES)
        await ledger.quiet()
        found = await ledger.check()
        print(f"{store}: {found}, {sum(ledger.deaths.values())} kills")  # noqa: T201 - the proof

    # what waits is overtaken by what follows, so the order is not that of the outbox here
    assert (0, 0, 0) == (found.lost, found.duplicated, found.invented)


@pytest.mark.parametrize("consumer", ["batches", pytest.param("one", marks=pytest.mark.long)])
async def test_a_partition_whose_consumer_is_killed_goes_on_in_order_at_another(
    consumer: str, stack: Any, new_broker_url: str, tmp_path: Path, program: ModuleType
) -> None:
    count = 3
    await apply(new_broker_url, partitions={"search": count})
    env = {"LEDGER_CONSUMER": consumer, "LEDGER_PARTITIONS": str(count), "LEDGER_SUBJECTS": "40"}
    async with rig("redis", stack, new_broker_url, tmp_path, program, **env) as ledger:
        for name in ("writer", "relay", "consumer 1"):
            await ledger.start(name)
        for dies, stays in (("consumer 1", "consumer 2"), ("consumer 2", "consumer 1")):
            await ledger.start(stays)
            await ledger.progress()
            await ledger.kill(dies)
            # nobody else is left to do it
            await ledger.progress()
        await ledger.quiet()
        found = await ledger.check()
        print(f"{consumer}: {found}, 2 kills")  # noqa: T201 - the proof

    assert found.acked > 0
    assert Found(found.acked, 0, 0, 0, 0) == found


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
async def test_killed_again_and_again_over_100_000_events_nothing_is_lost_or_done_twice(
    store: str, stack: Any, broker_url: str, tmp_path: Path, program: ModuleType
) -> None:
    seed = int(os.environ.get("CRASH_SEED", random.randrange(2**31)))
    wanted = int(os.environ.get("CRASH_EVENTS", "100000"))
    choose = random.Random(seed)
    # a bulk of many documents costs little more than one of few, and is not to run ahead
    batch, pause = (400, 0.5) if store == "elasticsearch" else (100, 0.1)
    env = {
        "LEDGER_PAUSE": str(pause),
        "LEDGER_BATCH": str(batch),
        "LEDGER_SUBJECTS": str(4 * batch),
    }
    async with rig(store, stack, broker_url, tmp_path, program, **env) as ledger:

        async def goes_down(role: str, own: list[str]) -> None:
            ahead: list[str] = []
            while ledger.acked() < wanted or not set(own) <= set(ledger.deaths):
                # each point as often as the others, and in between a kill at any moment
                ahead = ahead or choose.sample([*own, ""], len(own) + 1)
                point = ahead.pop()
                passes = 1 if "leased" in point else choose.randint(1, 12)
                await ledger.start(role, point and f"{point}:kill:{passes}")
                try:
                    async with asyncio.timeout(DIES_WITHIN if point else choose.uniform(2, 12)):
                        await ledger.ended(role)
                except TimeoutError:
                    point = f"{role} anywhere"
                    await ledger.kill(role)
                ledger.deaths[point] = ledger.deaths.get(point, 0) + 1
            await ledger.start(role)

        await asyncio.gather(*(goes_down(*one) for one in points(store).items()))
        await ledger.quiet()
        found = await ledger.check()
        kills = sum(ledger.deaths.values())
        print(f"{store}: {found}, {kills} kills, seed {seed}")  # noqa: T201 - the proof

    assert found.acked >= wanted
    assert {*chain(*points(store).values())} <= set(ledger.deaths)
    assert Found(found.acked, 0, 0, 0, 0) == found
