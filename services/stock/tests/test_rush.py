"""A rush for few units over several API processes: as many sold as there are, none left over.

The figures are printed: `pytest -s -m long -k some services/stock/tests/test_rush.py`.
"""

import asyncio
import hashlib
import json
import os
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
async def serving(settings: Settings, folder: Path, count: int) -> AsyncIterator[list[str]]:
    """The addresses of so many API processes of one store."""
    keys = folder / "keys.json"
    entry = {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["reservations:write"]}
    keys.write_text(json.dumps({"rush": entry}))
    async with AsyncExitStack() as stack:
        urls = [
            await stack.enter_async_context(_process(settings, keys, folder, str(number)))
            for number in range(count)
        ]
        async with asyncio.timeout(600), aiohttp.ClientSession() as session:
            for url in urls:
                while not await _ready(session, url):
                    await asyncio.sleep(0.1)
        yield urls


@asynccontextmanager
async def _process(settings: Settings, keys: Path, folder: Path, name: str) -> AsyncIterator[str]:
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
        yield f"http://127.0.0.1:{port}"
    finally:
        api.kill()
        await api.wait()


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def rush(
    urls: list[str], sku: str, buyers: int, during: Callable[[], Any] | None = None
) -> dict[UUID, int]:
    """The answer to each buyer, who asks again until there is one."""
    turn = asyncio.Semaphore(AT_ONCE)
    outcomes: dict[UUID, int] = {}
    middle = asyncio.Event()

    async def buy(session: aiohttp.ClientSession, number: int) -> None:
        id_ = uuid4()
        body = {"id": str(id_), "lines": [{"sku": sku, "qty": 1}]}
        async with turn:
            for attempt in range(600):
                url = urls[(number + attempt) % len(urls)]
                try:
                    async with session.post(f"{url}/reservations", json=body) as answer:
                        status = answer.status
                except (aiohttp.ClientConnectionError, TimeoutError):
                    status = 503
                if status != 503:
                    break
                await asyncio.sleep(0.1)
            outcomes[id_] = status
            if len(outcomes) >= buyers // 4:
                middle.set()

    async def disturb() -> None:
        await middle.wait()
        if during is not None:
            await asyncio.to_thread(during)

    headers = {"Authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        await asyncio.gather(disturb(), *(buy(session, number) for number in range(buyers)))
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
    async with serving(settings, tmp_path, size.processes) as urls:
        for number in range(size.rounds):
            sku = f"rush-{number}"
            async with connect(patient) as redis:
                store = StockStore(redis)
                await store.install.make()
                await store.quantities.adjust(sku, Adjust(stock=size.units, action=Action.SET))
                answers = await rush(urls, sku, size.buyers, restart if restarts else None)

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
