"""A rush for few units over several API processes: as many sold as there are, none left over.

The figures are printed: `pytest -s -m long -k some services/stock/tests/test_rush.py`.
"""

import asyncio
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import aiohttp
import pytest
from msgspec import Struct
from msgspec.structs import replace

from stock.app import connect
from stock.domain import Action, Adjust
from stock.settings import Settings
from stock.store import StockStore

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]

KEY = "k_rush_0123456789abcdef0123456789abcdef"
AT_ONCE = 64
HEAD = (
    "POST /reservations HTTP/1.1\r\nHost: shop\r\n"
    f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
).encode()


class Rush(Struct, frozen=True):
    """So many buyers for so many units, so many times, at so many processes."""

    buyers: int
    units: int
    rounds: int
    processes: int


SHORT = Rush(buyers=150, units=10, rounds=1, processes=2)
LONG = Rush(buyers=10_000, units=100, rounds=50, processes=3)
SOME = Rush(buyers=1_000, units=100, rounds=3, processes=3)


@asynccontextmanager
async def serving(settings: Settings, folder: Path, count: int) -> AsyncIterator[list[int]]:
    """The ports of so many API processes of one store."""
    keys = folder / "keys.json"
    entry = {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["reservations:write"]}
    keys.write_text(json.dumps({"rush": entry}))
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(_process(settings, keys, folder, str(number)))
            for number in range(count)
        ]
        async with asyncio.timeout(600), aiohttp.ClientSession() as session:
            for port in ports:
                while not await _ready(session, port):
                    await asyncio.sleep(0.1)
        yield ports


@asynccontextmanager
async def _process(settings: Settings, keys: Path, folder: Path, name: str) -> AsyncIterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    env = os.environ | {
        "STOCK_REDIS_URL": settings.redis_url,
        "STOCK_KEY_PREFIX": settings.key_prefix,
        "STOCK_PROFILE": "test",
        "STOCK_PORT": str(port),
        "STOCK_API_KEYS_FILE": str(keys),
        "STOCK_DATABASE_URL": f"sqlite+aiosqlite:///{folder / name}.sqlite",
        "LOG_LEVEL": "CRITICAL",
    }
    api = await asyncio.create_subprocess_exec(sys.executable, "-m", "stock", "api", env=env)
    try:
        yield port
    finally:
        api.kill()
        await api.wait()


async def _ready(session: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


class Line:
    """A connection to one process, kept open, on which one buyer after the other asks.

    Bare bytes: a client that costs more than three servers would be what the rush waits for.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def hold(self, reservation: UUID, sku: str) -> int:
        """The status of the answer; 503 where there was none."""
        body = json.dumps({"id": str(reservation), "lines": [{"sku": sku, "qty": 1}]}).encode()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(HEAD % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 503
        return int(head.split(maxsplit=2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def rush(
    ports: list[int], sku: str, buyers: int, during: Callable[[], Any] | None = None
) -> dict[UUID, int]:
    """The answer to each buyer, who asks again until there is one."""
    outcomes: dict[UUID, int] = {}
    middle = asyncio.Event()
    waiting = iter(range(buyers))

    async def serve() -> None:
        lines = [Line(port) for port in ports]
        for number in waiting:
            id_ = uuid4()
            for attempt in range(600):
                status = await lines[(number + attempt) % len(lines)].hold(id_, sku)
                if status != 503:
                    break
                await asyncio.sleep(0.1)
            outcomes[id_] = status
            if len(outcomes) >= buyers // 4:
                middle.set()
        for line in lines:
            line.close()

    async def disturb() -> None:
        await middle.wait()
        if during is not None:
            await asyncio.to_thread(during)

    async with asyncio.timeout(600):
        await asyncio.gather(disturb(), *(serve() for _ in range(AT_ONCE)))
    return outcomes


async def sell(store: StockStore, sku: str, reservation: UUID) -> None:
    """What stock does for the order of a buyer who pays."""
    order = uuid4()
    assert "held" == await store.holds.reserve(order, [(sku, 1)], uuid4(), taking=reservation)
    assert "committed" == await store.holds.finish("commit", order, [(sku, 1)], uuid4())


@pytest.mark.parametrize(
    ("size", "restarts"),
    [
        pytest.param(SHORT, True, id="short-restart"),
        *(
            pytest.param(size, restarts, id=f"{name}-{how}", marks=pytest.mark.long)
            for name, size in (("some", SOME), ("long", LONG))
            for how, restarts in (("calm", False), ("restart", True))
        ),
    ],
)
async def test_a_rush_sells_exactly_the_units_there_are(
    redis_server: Any, tmp_path: Path, size: Rush, *, restarts: bool
) -> None:
    server = redis_server()
    settings = Settings(redis_url=server.url, redis_timeout=5)
    patient = replace(settings, redis_timeout=60)

    def restart() -> None:
        server.kill()
        server.start()

    started = time.monotonic()
    async with serving(settings, tmp_path, size.processes) as ports:
        for number in range(size.rounds):
            sku = f"rush-{number}"
            async with connect(patient) as redis:
                store = StockStore(redis)
                await store.install.make()
                await store.quantities.adjust(sku, Adjust(stock=size.units, action=Action.SET))
                answers = await rush(ports, sku, size.buyers, restart if restarts else None)

                assert {201: size.units, 409: size.buyers - size.units} == Counter(answers.values())
            async with connect(patient) as redis:
                store = StockStore(redis)
                held = await store.quantities.level(sku)
                assert (0, size.units) == (held.available, held.reserved)

                for reservation in [id_ for id_, status in answers.items() if status == 201]:
                    await sell(store, sku, reservation)

                level = await store.quantities.level(sku)
                assert (0, 0) == (level.available, level.reserved)
                sold = await cast("Any", redis).hget(store.slots[0].quantity(sku), "sold")
                assert size.units == int(sold)
                assert 0 == await redis.zcard(store.slots[0].exp)
            print(f"round {number + 1}: {time.monotonic() - started:.0f} s", flush=True)  # noqa: T201 -- tells how far
    print(  # noqa: T201 -- the figure is what a long run is for
        f"\n{size.rounds} rounds of {size.buyers} buyers for {size.units} units at"
        f" {size.processes} processes{', Redis killed in each' if restarts else ''}:"
        f" {size.units} sold in each, 0 left over, {time.monotonic() - started:.0f} s"
    )
