"""Live stock over WebSocket: first the levels, then what changes. Knows no driver.

A process keeps one copy of each watched level and, per client, the set of SKUs that it has not been
told yet: a slow client gets the newest level only, and costs no more memory than a quick one.
"""

import asyncio
import socket as socket_
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Annotated, NoReturn, Protocol
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from msgspec import Meta, Struct
from prometheus_client import Counter, Gauge

from chassis.http import get, query
from chassis.problems import BadQuery, BadRequest, Forbidden, Unavailable
from shop_contracts.types import Count, Sku
from stock.domain import Level, label

MAX_SKUS = 100
MAX_MESSAGE = 4 * 1024
HEARTBEAT_SECONDS = 30
STALL_SECONDS = 20
GOODBYE_SECONDS = 2
# What may lie unsent here and in the kernel for one client, beside its set of SKUs.
BUFFER_BYTES = 16 * 1024

_log = structlog.stdlib.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
_clients = Gauge("stock_live_clients", "WebSocket clients of this process.")
_sent = Counter("stock_live_messages", "Messages sent to WebSocket clients.")
_ended = Counter("stock_live_ended", "WebSocket clients sent away, by close code.", ("code",))


class Full(Unavailable):
    """The process has as many WebSocket clients as it takes."""

    slug = "too-many-clients"
    title = "There are too many live clients just now"


class ForeignOrigin(Forbidden):
    """A page of another site tried to listen."""

    slug = "foreign-origin"
    title = "Pages of this origin may not listen here"


class Watch(Struct, frozen=True, kw_only=True):
    """Which SKUs to watch; `since` (`sku:version`) names what the client knows already."""

    sku: Annotated[list[Sku], Meta(min_length=1, max_length=MAX_SKUS)]
    since: Annotated[
        list[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[0-9]{1,15}\Z")]],
        Meta(max_length=MAX_SKUS),
    ] = []


class LiveLevel(Struct, frozen=True, kw_only=True):
    """What a client is told of one SKU; version 0: nothing is known of it."""

    sku: Sku
    available: Count
    label: str
    version: Count


class Source(Protocol):
    """Where levels are read, and who tells that they moved."""

    def moved(self) -> AsyncGenerator[set[str] | None]:
        """The SKUs that moved, often none; None: any may have, as before it listened.

        Never silent for long.
        """
        ...

    async def levels(self, skus: Iterable[str]) -> list[Level]:
        """The units of each SKU now."""
        ...


class Client:
    """One socket, the SKUs it watches and those of them it has not been told."""

    __slots__ = ("skus", "socket", "transport", "untold", "wake")

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport, skus: frozenset[str]
    ) -> None:
        self.socket = socket
        self.transport = transport
        self.skus = skus
        self.untold: set[str] = set()
        self.wake = asyncio.Event()


class Hub:
    """All clients of this process; at most one round of telling in each `pace` seconds."""

    def __init__(self, source: Source, *, places: int, pace: float) -> None:
        self._source = source
        self._free = places
        self._pace = pace
        self._watchers: defaultdict[str, set[Client]] = defaultdict(set)
        self._versions: dict[str, int] = {}
        self._encoded: dict[str, bytes] = {}
        self._someone = asyncio.Event()

    async def run(self) -> NoReturn:
        """Tell clients what moves, for as long as the task lives; without one, nothing is read."""
        while True:
            await self._someone.wait()
            # the source begins with None: what moved before it listened is looked at, too
            async with aclosing(self._source.moved()) as moves:
                await self._follow(moves)

    async def _follow(self, moves: AsyncIterator[set[str] | None]) -> None:
        """Tell clients what moves, until there are none."""
        behind: set[str] = set()
        async for moved in moves:
            behind |= self._watchers.keys() if moved is None else moved
            behind &= self._watchers.keys()
            if behind:
                # what cannot be read now is read in the next round
                with suppress(Unavailable):
                    await self._look(list(behind))
                    behind.clear()
            await asyncio.sleep(self._pace)
            if not self._someone.is_set():
                return

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places of this process. Raises Full."""
        if not self._free:
            raise Full(headers={"Retry-After": "5"})
        self._free -= 1
        _clients.inc()
        try:
            yield
        finally:
            self._free += 1
            _clients.dec()

    @contextmanager
    def watching(self, client: Client) -> Iterator[None]:
        """Let the client hear of its SKUs inside the block."""
        for sku in client.skus:
            self._watchers[sku].add(client)
        self._someone.set()
        try:
            yield
        finally:
            for sku in client.skus:
                watchers = self._watchers[sku]
                watchers.discard(client)
                if not watchers:
                    del self._watchers[sku]
                    self._encoded.pop(sku, None)
                    self._versions.pop(sku, None)
            if not self._watchers:
                self._someone.clear()

    async def tell(self, client: Client, since: dict[str, int]) -> None:
        """Send the levels that the client does not know, then those that change.

        Returns when the client has taken nothing for too long.
        """
        if unseen := client.skus - self._encoded.keys():
            await self._look(list(unseen))
        first = [sku for sku in client.skus if self._versions[sku] != since.get(sku)]
        client.untold.difference_update(first)
        try:
            await self._send(client, b"snapshot", first)
            while True:
                await client.wake.wait()
                client.wake.clear()
                told, client.untold = client.untold, set()
                if told:
                    await self._send(client, b"changes", told)
        except TimeoutError:
            return

    async def close(self) -> None:
        """Send everybody away, because this process ends."""
        clients = {client for watchers in self._watchers.values() for client in watchers}
        await asyncio.gather(*(leave(client, WSCloseCode.GOING_AWAY) for client in clients))

    async def _look(self, skus: list[str]) -> None:
        for level in await self._source.levels(skus):
            watchers = self._watchers.get(level.sku)
            if watchers is None or level.version == self._versions.get(level.sku):
                continue
            self._versions[level.sku] = level.version
            self._encoded[level.sku] = _encode(_live(level))
            for client in watchers:
                client.untold.add(level.sku)
                client.wake.set()

    async def _send(self, client: Client, kind: bytes, skus: Iterable[str]) -> None:
        levels = b",".join(self._encoded[sku] for sku in skus)
        body = b'{"type":"%b","levels":[%b]}' % (kind, levels)
        async with asyncio.timeout(STALL_SECONDS):
            await client.socket.send_frame(body, WSMsgType.TEXT)
        _sent.inc()


HUB = web.AppKey("hub", Hub)
ORIGINS = web.AppKey("origins", frozenset[str])


async def watch_stock(request: web.Request) -> web.StreamResponse:
    """The units of SKUs as they change: a WebSocket.

    The first message is `{"type": "snapshot", "levels": [{"sku", "available", "label",
    "version"}]}`, without the SKUs whose version `since` named; each further one is the same with
    the type `changes` and the SKUs that changed. The newest level wins: a client that reads slowly
    skips what was in between. The client has nothing to send.
    """
    asked = query(request, Watch)
    since = {sku: int(version) for sku, _, version in (s.partition(":") for s in asked.since)}
    _refuse_foreign(request)
    socket = web.WebSocketResponse(
        heartbeat=HEARTBEAT_SECONDS,
        compress=False,
        max_msg_size=MAX_MESSAGE,
        writer_limit=BUFFER_BYTES // 4,
        timeout=GOODBYE_SECONDS,
    )
    if not socket.can_prepare(request):
        raise BadRequest("This is a WebSocket: ask for an upgrade.")
    hub = request.app[HUB]
    with hub.place():
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        kernel = transport.get_extra_info("socket")
        kernel.setsockopt(socket_.SOL_SOCKET, socket_.SO_SNDBUF, BUFFER_BYTES)
        client = Client(socket, transport, frozenset(asked.sku))
        with hub.watching(client):
            await leave(client, await _served(hub, client, since))
    return socket


async def _served(hub: Hub, client: Client, since: dict[str, int]) -> WSCloseCode:
    """Serve the client until it goes or has to go; why it ended."""
    telling = asyncio.create_task(hub.tell(client, since))
    hearing = asyncio.create_task(client.socket.receive())
    try:
        await asyncio.wait((telling, hearing), return_when=asyncio.FIRST_COMPLETED)
        if not hearing.done():
            telling.result()
            return WSCloseCode.TRY_AGAIN_LATER
        return _REFUSED.get(hearing.result().type, WSCloseCode.OK)
    except Unavailable:
        return WSCloseCode.TRY_AGAIN_LATER
    except ConnectionError:
        return WSCloseCode.OK
    finally:
        for task in (telling, hearing):
            task.cancel()
        await asyncio.gather(telling, hearing, return_exceptions=True)


async def leave(client: Client, code: WSCloseCode) -> None:
    """Say goodbye if the client still listens, and end the connection in any case."""
    if not client.socket.closed:
        _ended.labels(int(code)).inc()
        with suppress(ConnectionError):
            await client.socket.close(code=code, drain=False)
    if code == WSCloseCode.TRY_AGAIN_LATER:
        # What lies unsent for a client that reads nothing would stay with its connection.
        client.transport.abort()


def _live(level: Level) -> LiveLevel:
    return LiveLevel(
        sku=level.sku,
        available=level.available,
        label=label(level.available),
        version=level.version,
    )


def _refuse_foreign(request: web.Request) -> None:
    """Browsers name the page that asks; a page of this shop, or of a site that is allowed, may."""
    origin = request.headers.get("Origin")
    if origin is None or origin in request.app[ORIGINS]:
        return
    own = request.headers.get("X-Forwarded-Host") or request.host
    if urlsplit(origin).netloc.lower() != own.lower():
        raise ForeignOrigin


# A client that sends something did not read what this is.
_REFUSED = {
    WSMsgType.TEXT: WSCloseCode.POLICY_VIOLATION,
    WSMsgType.BINARY: WSCloseCode.UNSUPPORTED_DATA,
}

ROUTES = [
    get(
        "/ws/stock",
        watch_stock,
        summary="The units of SKUs as they change (WebSocket)",
        query=Watch,
        status=101,
        timeout=None,
        problems=(BadQuery, ForeignOrigin, Full),
    ),
]
