"""A small service through the chassis on a real port, and a client that sends any bytes."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from aiohttp import web

from chassis.http import application, delete, get, page, post, put, query, read, reply
from chassis.http.server import listening
from chassis.problems import Conflict, NotFound, Unavailable

KEY = "k_admin_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
READ_ONLY_KEY = "k_reader_0123456789abcdefghijklmnopqrstuvwxyzABCDE"


class Line(msgspec.Struct, forbid_unknown_fields=True):
    sku: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    qty: Annotated[int, msgspec.Meta(ge=1, le=999)]


class Basket(msgspec.Struct, forbid_unknown_fields=True):
    lines: Annotated[list[Line], msgspec.Meta(max_length=100)]
    note: str = ""
    kind: Literal["gift", "own"] = "own"
    extra: dict[str, int] = {}


class Filter(msgspec.Struct):
    q: Annotated[str, msgspec.Meta(max_length=256)] = ""
    page: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    sort: Literal["price", "name"] = "name"
    brand: list[str] = []
    in_stock: bool | None = None


class SoldOut(Conflict):
    """There are fewer units than asked for."""

    slug = "sold-out"
    title = "There are not enough units"


async def echo(request: web.Request) -> web.Response:
    return reply(await read(request, Basket))


async def find(request: web.Request) -> web.Response:
    return reply(query(request, Filter))


async def thing(request: web.Request) -> web.Response:
    match request.match_info["id"]:
        case "sold-out":
            raise SoldOut("Only 3 are left.", short=[{"sku": "A", "left": 3}])
        case "broken":
            raise ValueError("the secret reason")
        case "asleep":
            await asyncio.sleep(60)
        case "dependency":
            raise Unavailable from OSError("redis does not answer")
        case "moved":
            raise web.HTTPFound("/things/new")
        case "1":
            return reply({"id": 1}, headers={"ETag": '"7"'})
    raise NotFound


async def hello(_request: web.Request) -> web.Response:
    return page("<h1>Hello</h1>")


async def remove(_request: web.Request) -> web.Response:
    return reply(None, status=204)


async def upload(request: web.Request) -> web.Response:
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
    return reply({"size": size})


ROUTES = [
    post("/baskets", echo, summary="Send a basket back", body=Basket, reply=Basket),
    put("/small", echo, summary="A small one", body=Basket, reply=Basket, max_body=100),
    get("/find", find, summary="Say what was asked", query=Filter, reply=Filter),
    get("/things/{id}", thing, summary="A thing", problems=(NotFound, SoldOut), timeout=0.3),
    delete("/things/{id}", remove, summary="Take it away", status=204, scope="things:write"),
    put("/uploads/{id:[0-9]+}", upload, summary="Any bytes", stream_body=True),
    get("/", hello, summary="The home page", media="text/html"),
]


class Answer(msgspec.Struct):
    """A reply as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Requests to one port, one connection each."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def raw(self, *parts: bytes) -> Answer:
        """Send the parts, each when the one before has left; the first reply to them."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            async with asyncio.timeout(30):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines[1:] if line)
                }
                size = 0 if parts[0].startswith(b"HEAD") else int(headers.get("content-length", 0))
                body = await reader.readexactly(size)
        finally:
            writer.close()
        return Answer(int(lines[0].split()[1]), headers, body)

    async def __call__(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        sent = {"Host": "shop", "Connection": "close"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body:
            sent.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        return await self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


@pytest.fixture(scope="session")
def api_keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "api-keys.json"
    scopes = {KEY: ["things:write"], READ_ONLY_KEY: ["things:read"]}
    path.write_text(
        json.dumps(
            {
                key.split("_")[1]: {
                    "sha256": hashlib.sha256(key.encode()).hexdigest(),
                    "scopes": allowed,
                }
                for key, allowed in scopes.items()
            }
        )
    )
    return path


@pytest.fixture(scope="session")
async def client(api_keys_file: Path) -> AsyncIterator[Client]:
    async def answers() -> None:
        return None

    app = application(
        name="things",
        routes=ROUTES,
        api_keys_file=str(api_keys_file),
        checks=[("store", answers)],
    )
    async with listening(app, "127.0.0.1", 0) as port:
        yield Client(port)


@pytest.fixture(scope="session")
def key() -> str:
    return KEY


@pytest.fixture(scope="session")
def read_only_key() -> str:
    return READ_ONLY_KEY


@pytest.fixture(scope="session")
def routes() -> list[Any]:
    return ROUTES
