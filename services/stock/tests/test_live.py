"""Live stock as clients meet it: sockets to a listening server, the real Redis behind it."""

import asyncio
import itertools
import json
import os
import socket
import statistics
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import aiohttp
import msgspec
import psutil
import pytest
from aiohttp import WSCloseCode, WSMsgType
from redis.asyncio import Redis

from chassis.http.server import listening
from stock import domain, live
from stock.app import application
from stock.domain import Action, Adjust, Level
from stock.settings import Settings
from stock.store import StockStore

pytestmark = pytest.mark.connected

MANY = 1_000
FEW = 200
PER_SECOND = 500
PROBE = "probe"
# what may lie in the process and in the kernel's buffers of both ends
HELD_BYTES = 8 * live.BUFFER_BYTES


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        listening(application(settings), "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


@pytest.fixture
async def client(settings: Settings, redis: Redis) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(settings) as session:
        yield session


async def put(store: StockStore, sku: str, stock: int) -> None:
    await store.quantities.adjust(sku, Adjust(stock=stock, action=Action.SET))


async def told(listening: aiohttp.ClientWebSocketResponse) -> tuple[str, dict[str, Any]]:
    """The next message: its type, and the levels by SKU."""
    message = json.loads(await listening.receive_str(timeout=30))
    return message["type"], {level.pop("sku"): level for level in message["levels"]}


async def available(
    listening: aiohttp.ClientWebSocketResponse, sku: str, wanted: int
) -> dict[str, Any]:
    """The message that says `wanted`, however many stand before it."""
    while True:
        _, levels = await told(listening)
        if sku in levels and levels[sku]["available"] == wanted:
            found: dict[str, Any] = levels[sku]
            return found


async def refusal(
    client: aiohttp.ClientSession, path: str, headers: Mapping[str, str] = {}
) -> aiohttp.WSServerHandshakeError:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await client.ws_connect(path, headers=headers)
    return caught.value


async def test_a_client_hears_the_levels_first_and_then_what_changes(
    client: aiohttp.ClientSession, store: StockStore
) -> None:
    await put(store, "chair", 9)
    async with client.ws_connect("/ws/stock?sku=chair&sku=table") as chair:
        kind, levels = await told(chair)

        assert "snapshot" == kind
        assert {"available": 9, "label": "In stock", "version": 1} == levels["chair"]
        assert {"available": 0, "label": "Sold out", "version": 0} == levels["table"]

        await put(store, "chair", 3)
        kind, levels = await told(chair)

        assert "changes" == kind
        assert {"chair": {"available": 3, "label": "Only 3 left", "version": 2}} == levels


async def test_a_client_that_comes_back_hears_only_what_it_missed(
    client: aiohttp.ClientSession, store: StockStore
) -> None:
    await put(store, "chair", 9)
    await put(store, "table", 4)
    await put(store, "table", 5)
    since = "since=chair:1&since=table:1"
    async with client.ws_connect(f"/ws/stock?sku=chair&sku=table&{since}") as listening:
        kind, levels = await told(listening)

        assert "snapshot" == kind
        assert {"table"} == levels.keys()
        assert 2 == levels["table"]["version"]


async def test_every_process_hears_of_changes_by_itself(
    settings: Settings, store: StockStore
) -> None:
    await put(store, "chair", 1)
    async with (
        serving(settings) as one,
        serving(settings) as other,
        one.ws_connect("/ws/stock?sku=chair") as here,
        other.ws_connect("/ws/stock?sku=chair") as there,
    ):
        await put(store, "chair", 8)

        assert await available(here, "chair", 8) == await available(there, "chair", 8)


async def test_what_nobody_watches_any_more_is_forgotten(
    client: aiohttp.ClientSession, settings: Settings, store: StockStore
) -> None:
    app = application(settings)
    async with (
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        client.ws_connect(f"http://127.0.0.1:{port}/ws/stock?sku=chair") as listener,
    ):
        await told(listener)
        hub = app[live.HUB]

        assert {"chair"} == hub._watchers.keys() == hub._encoded.keys()

        await listener.close()
        async with asyncio.timeout(30):
            while hub._watchers or hub._encoded or hub._versions:
                await asyncio.sleep(0.02)


class Heard:
    """A source in which nothing moves; whether anybody listens to it."""

    def __init__(self) -> None:
        self.listened = asyncio.Event()
        self.left = asyncio.Event()

    async def moved(self) -> AsyncGenerator[set[str] | None]:
        self.listened.set()
        try:
            while True:
                yield None
        finally:
            self.left.set()

    async def levels(self, skus: Iterable[str]) -> list[Level]:
        return [domain.level(sku, 1, 0, 1) for sku in skus]


async def test_ledgers_are_read_while_somebody_watches() -> None:
    source = Heard()
    hub = live.Hub(source, places=2, pace=0.01)
    following = asyncio.create_task(hub.run())
    await asyncio.sleep(0)

    assert not source.listened.is_set()

    client: Any = live.Client(Mock(), Mock(), frozenset({"chair"}))
    for _ in range(2):
        async with asyncio.timeout(30):
            with hub.watching(client):
                await source.listened.wait()
                await client.wake.wait()

                assert not source.left.is_set()

            await source.left.wait()
        for each in (source.listened, source.left, client.wake):
            each.clear()
    following.cancel()


@pytest.mark.parametrize(
    ("origin", "forwarded", "status"),
    [
        (None, None, 101),
        ("https://shop.example", "shop.example", 101),
        ("https://app.example", "shop.example", 101),
        ("https://evil.example", "shop.example", 403),
        ("https://shop.example.evil.example", "shop.example", 403),
        ("null", "shop.example", 403),
        ("https://evil.example", None, 403),
    ],
)
async def test_only_pages_of_the_shop_and_of_allowed_sites_may_listen(
    settings: Settings, redis: Redis, origin: str | None, forwarded: str | None, status: int
) -> None:
    headers = {"Origin": origin} if origin else {}
    headers |= {"X-Forwarded-Host": forwarded} if forwarded else {}
    allowing = msgspec.structs.replace(settings, live_origins="https://app.example")
    async with serving(allowing) as client:
        if status == 101:
            async with client.ws_connect("/ws/stock?sku=chair", headers=headers) as listening:
                assert "snapshot" == (await told(listening))[0]
        else:
            assert status == (await refusal(client, "/ws/stock?sku=chair", headers)).status


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?sku=",
        "?sku=..%2F",
        "?sku=chair&since=chair",
        "?sku=chair&since=chair:-1",
        "?sku=chair&page=2",
        "?" + "&".join(f"sku=s{i}" for i in range(live.MAX_SKUS + 1)),
    ],
)
async def test_a_wrong_question_is_refused_before_the_upgrade(
    client: aiohttp.ClientSession, query: str
) -> None:
    assert 400 == (await refusal(client, f"/ws/stock{query}")).status


async def test_without_an_upgrade_it_is_a_problem(client: aiohttp.ClientSession) -> None:
    async with client.get("/ws/stock?sku=chair") as response:
        assert 400 == response.status
        assert "application/problem+json" == response.content_type


async def test_a_full_process_says_when_to_come_again(settings: Settings, redis: Redis) -> None:
    async with serving(msgspec.structs.replace(settings, live_clients=1)) as client:
        async with client.ws_connect("/ws/stock?sku=chair") as first:
            await told(first)
            second = await refusal(client, "/ws/stock?sku=chair")

            assert 503 == second.status
            assert second.headers is not None
            assert "5" == second.headers["Retry-After"]

        async with asyncio.timeout(30):  # the place is free once the first has gone
            while True:
                try:
                    async with client.ws_connect("/ws/stock?sku=chair") as third:
                        await told(third)
                        break
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("hello", WSCloseCode.POLICY_VIOLATION),
        (b"hello", WSCloseCode.UNSUPPORTED_DATA),
        ("x" * (live.MAX_MESSAGE + 1), WSCloseCode.MESSAGE_TOO_BIG),
    ],
)
async def test_a_client_that_talks_is_sent_away(
    client: aiohttp.ClientSession, sent: str | bytes, code: WSCloseCode
) -> None:
    async with client.ws_connect("/ws/stock?sku=chair") as listening:
        await told(listening)
        if isinstance(sent, str):
            await listening.send_str(sent)
        else:
            await listening.send_bytes(sent)
        message = await listening.receive(timeout=30)

        assert WSMsgType.CLOSE == message.type
        assert code == listening.close_code


async def test_a_client_is_asked_whether_it_lives_and_forgotten_when_it_does_not(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.2)
    app = application(settings)
    async with (
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession() as session,
    ):
        url = f"http://127.0.0.1:{port}/ws/stock?sku=chair"
        listener = await session.ws_connect(url, autoping=False)
        await told(listener)

        assert WSMsgType.PING == (await listener.receive(timeout=30)).type

        async with asyncio.timeout(30):  # it does not answer
            while app[live.HUB]._watchers:
                await asyncio.sleep(0.02)
        await listener.close()


async def test_a_client_that_takes_nothing_is_sent_away_and_costs_no_memory_any_more(
    settings: Settings, store: StockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(live, "GOODBYE_SECONDS", 0.1)
    skus = [f"many-{i}" for i in range(live.MAX_SKUS)]
    app = application(msgspec.structs.replace(settings, live_pace_seconds=0.01))
    async with listening(app, "127.0.0.1", 0, stop_timeout=1) as port:
        stopped = await _stopped(port, skus)
        hub = app[live.HUB]
        stock = 0
        async with asyncio.timeout(60):
            while not hub._watchers:
                await asyncio.sleep(0.01)
            while hub._watchers:
                stock += 1
                await asyncio.gather(*(put(store, sku, stock) for sku in skus))

        assert {} == hub._encoded
        assert settings.live_clients == hub._free
        stopped.close()


async def test_no_frame_is_compressed(client: aiohttp.ClientSession) -> None:
    async with client.ws_connect("/ws/stock?sku=chair", compress=15) as listening:
        assert 0 == listening.compress


async def test_a_process_that_ends_says_goodbye(settings: Settings, redis: Redis) -> None:
    async with aiohttp.ClientSession() as session:
        async with listening(application(settings), "127.0.0.1", 0, stop_timeout=1) as port:
            listener = await session.ws_connect(f"http://127.0.0.1:{port}/ws/stock?sku=chair")
            await told(listener)
            receiving = asyncio.create_task(listener.receive(timeout=30))

        assert WSMsgType.CLOSE == (await receiving).type
        assert WSCloseCode.GOING_AWAY == listener.close_code


class Listener:
    """A client that reads: what it was told last of each SKU, and how many bytes that took."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.taken = 0
        self.known: dict[str, int] = {}
        self.rung = 0
        self.rung_at = 0.0
        self._versions: dict[str, int] = {}

    async def listen(self) -> None:
        """Read until the socket closes; no SKU ever goes back to an older version."""
        async for message in self.socket:
            self.taken += len(message.data)
            for level in json.loads(message.data)["levels"]:
                sku, version = level["sku"], level["version"]
                assert self._versions.get(sku, -1) < version
                self._versions[sku] = version
                self.known[sku] = level["available"]
                if sku == PROBE:
                    self.rung, self.rung_at = version, asyncio.get_running_loop().time()


@pytest.mark.parametrize("clients", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
async def test_a_client_that_has_stopped_slows_no_other_and_all_end_on_the_right_numbers(
    settings: Settings, store: StockStore, clients: int
) -> None:
    """Prints what it measured: `pytest -s -m long -k slows services/stock/tests/test_live.py`."""
    skus = [f"rush-{number:02}" for number in range(live.MAX_SKUS)]
    for sku in [*skus, PROBE]:
        await put(store, sku, 0)
    rungs, pace = (5, 0.05) if clients == FEW else (50, settings.live_pace_seconds)
    async with (
        _process(msgspec.structs.replace(settings, live_pace_seconds=pace)) as (process, port),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as tasks,
    ):

        async def listen(watched: list[str]) -> Listener:
            url = f"http://127.0.0.1:{port}/ws/stock?{_asked(watched)}"
            listener = Listener(await session.ws_connect(url, max_msg_size=0))
            tasks.create_task(listener.listen())
            return listener

        idle = process.memory_info().rss
        listeners = [await listen([PROBE, *skus[number % 5 :: 5]]) for number in range(clients)]
        before = process.memory_info().rss
        rush, began = tasks.create_task(_rush(store, skus)), asyncio.get_running_loop().time()
        calm = await _climb(store, listeners, rungs)

        stopped = await _stopped(port, skus)
        twin = await listen(skus)  # asked for the same, and reads
        await _until(lambda: twin.taken > 4 * HELD_BYTES)
        with_it = await _climb(store, listeners, rungs)
        rush.cancel()
        changes = sum([(await store.quantities.level(sku)).version for sku in skus])
        rate = changes / (asyncio.get_running_loop().time() - began)
        for number, sku in enumerate(skus):
            await put(store, sku, 1_000 + number)
        last = {sku: 1_000 + number for number, sku in enumerate(skus)}
        await _until(
            lambda: all(last.get(s, n) == n for e in [*listeners, twin] for s, n in e.known.items())
        )
        grown = process.memory_info().rss - before

        assert [{PROBE, *skus[number % 5 :: 5]} for number in range(clients)] == [
            each.known.keys() for each in listeners
        ]
        # what a client costs is its set of SKUs and its buffer, not what it has not read
        assert grown < clients * live.BUFFER_BYTES + 16 * 1024 * 1024
        rest = await _rest(stopped, last)
        assert rest < HELD_BYTES
        for each in [*listeners, twin]:
            await each.socket.close()
    print(  # noqa: T201 -- the figures are what a long run is for
        f"\n{clients} clients, {rate:.0f} changes a second: from a change to its client p50 and p99"
        f" {_cuts(calm)} ms, beside a client that reads nothing {_cuts(with_it)} ms;"
        f" held for that one {rest:,} of {twin.taken:,} bytes;"
        f" memory of a client {(before - idle) / clients / 1024:.1f} KiB when it has come,"
        f" {(before - idle + grown) / clients / 1024:.1f} KiB in the end"
    )


async def _climb(store: StockStore, listeners: list[Listener], rungs: int) -> list[float]:
    """Change the SKU that all watch so many times, each when all have been told of the one before.

    How long each client waited for each, in seconds.
    """
    loop = asyncio.get_running_loop()
    took = []
    for _ in range(rungs):
        began = loop.time()
        command = Adjust(stock=1, action=Action.INCREMENT)
        version = (await store.quantities.adjust(PROBE, command)).level.version
        await _until(lambda v=version: all(each.rung == v for each in listeners))
        took += [each.rung_at - began for each in listeners]
    return took


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not reached():
            await asyncio.sleep(0.02)


def _cuts(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"{cuts[49] * 1000:.0f} and {cuts[98] * 1000:.0f}"


@asynccontextmanager
async def _process(settings: Settings) -> AsyncIterator[tuple[psutil.Process, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    env = os.environ | {
        "STOCK_REDIS_URL": settings.redis_url,
        "STOCK_KEY_PREFIX": settings.key_prefix,
        "STOCK_PARTITIONS": str(settings.partitions),
        "STOCK_PROFILE": "test",
        "STOCK_REDIS_TIMEOUT": "10",
        "STOCK_LIVE_PACE_SECONDS": str(settings.live_pace_seconds),
        "STOCK_PORT": str(port),
        "LOG_LEVEL": "WARNING",
    }
    api = await asyncio.create_subprocess_exec(sys.executable, "-m", "stock", "api", env=env)
    try:
        async with asyncio.timeout(180), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as ready:
                        if ready.status == 200:
                            break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)
        yield psutil.Process(api.pid), port
    finally:
        api.terminate()
        await api.wait()


def _asked(skus: list[str]) -> str:
    return "&".join(f"sku={sku}" for sku in skus)


async def _stopped(port: int, skus: list[str]) -> socket.socket:
    """A client that asked and then reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    fields = ["Host: shop", "Upgrade: websocket", "Connection: Upgrade"]
    fields += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    raw.sendall("\r\n".join([f"GET /ws/stock?{_asked(skus)} HTTP/1.1", *fields, "", ""]).encode())
    return raw


async def _rush(store: StockStore, skus: list[str]) -> None:
    """Change stock 500 times a second, where the machine can, until it is cancelled."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for done in itertools.count(0, PER_SECOND // 10):
        async with asyncio.TaskGroup() as group:
            for number in range(done, done + PER_SECOND // 10):
                command = Adjust(stock=number % 900, action=Action.SET)
                group.create_task(store.quantities.adjust(skus[number % len(skus)], command))
        await asyncio.sleep(max(0.0, start + done / PER_SECOND - loop.time()))


async def _rest(stopped: socket.socket, last: dict[str, int]) -> int:
    """How many bytes lay there for a client that reads again, until it knows all or was cut off."""
    stopped.setblocking(False)
    loop = asyncio.get_running_loop()
    wanted = [f'"sku":"{sku}","available":{stock},' for sku, stock in last.items()]
    text = ""
    async with asyncio.timeout(60):
        while not all(level in text for level in wanted):
            try:
                read = await loop.sock_recv(stopped, 65_536)
            except ConnectionResetError:
                break
            if not read:
                break
            text += read.decode("latin-1")
    stopped.close()
    return len(text)
