"""The short way to a route leads where aiohttp's own way leads."""

import asyncio
import itertools
from collections.abc import Sequence

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Middleware
from yarl import URL

from chassis.http import Route, application, delete, get, put, reply
from chassis.http.routes import Handler
from chassis.http.server import listening

PATHS = [
    "/things/{id}",
    "/things/best",
    "/things/{id:[a-z]+}/parts",
    "/things/{id}/{part:[^/]+}",
    "/things/{rest:.+}",
    "/other",
    "/{any}",
    "/",
]
SAID = ("Allow", "Content-Type", "X-Request-Id", "X-Signed")
ASKED = [
    *("/", "/other", "/otter", "/other/", "/things", "/things/", "/things/1", "/things/best"),
    *("/things/abc/parts", "/things/1/parts", "/things/1/2/3", "//things/1", "/things//parts"),
    *("/things/%62est", "/things/a%2Fb", "/things/%C3%A9", "/things/1?x=%2F", "/th%69ngs/1"),
]


def routes(paths: Sequence[str]) -> list[Route]:
    """Routes that tell which they are, and what they made of the path."""

    def telling(path: str, method: str) -> Handler:
        async def tell(request: web.Request) -> web.Response:
            return reply([method, path, dict(request.match_info), str(request.rel_url)])

        return tell

    made = [get(path, telling(path, "GET"), summary="Tell") for path in paths]
    made += [put(path, telling(path, "PUT"), summary="Tell") for path in paths[:3]]
    return [*made, delete(paths[0], telling(paths[0], "DELETE"), summary="Tell")]


def wrapped(name: str, paths: Sequence[str]) -> web.Application:
    """Those routes inside middlewares of the service's own, which tell their order."""

    def around(sign: str) -> Middleware:
        @web.middleware
        async def sign_it(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            response.headers["X-Signed"] = sign + response.headers.get("X-Signed", "")
            return response

        return sign_it

    app = application(name=name, routes=routes(paths))
    app.middlewares.extend([around("outer "), around("inner ")])
    return app


async def told(port: int, method: str, path: str, **headers: str) -> list[str | int | None]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method,
            URL(f"http://127.0.0.1:{port}{path}", encoded=True),
            headers={"X-Request-Id": "a-well-formed-id", **headers},
        ) as answer,
    ):
        return [answer.status, *map(answer.headers.get, SAID), await answer.text()]


@pytest.mark.parametrize("turned", [False, True])
async def test_every_path_leads_where_aiohttp_leads(turned: bool) -> None:
    paths = PATHS[::-1] if turned else PATHS
    async with (
        listening(wrapped("short", paths), "127.0.0.1", 0) as short,
        TestServer(wrapped("long", paths)) as long,
    ):
        assert long.port is not None
        for path, method in itertools.product(ASKED, ("GET", "HEAD", "PUT", "DELETE", "PATCH")):
            assert await told(long.port, method, path) == await told(short, method, path)

        assert "outer inner" == (await told(short, "GET", "/other"))[4]


@pytest.mark.parametrize(
    ("request_line", "headers", "closes"),
    [
        ("GET /other HTTP/1.1", "", False),
        ("GET /other HTTP/1.1", "Connection: close\r\n", True),
        ("GET /other HTTP/1.0", "", True),
        ("GET /other HTTP/1.0", "Connection: keep-alive\r\n", False),
        ("HEAD /other HTTP/1.1", "", False),
    ],
)
async def test_a_reply_ends_its_connection_when_the_client_wants_that(
    request_line: str, headers: str, closes: bool
) -> None:
    async with listening(application(name="short", routes=routes(PATHS)), "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{request_line}\r\nHost: shop\r\n{headers}\r\n".encode() * 2)
        async with asyncio.timeout(30):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split()[0])
            body = b"" if request_line.startswith("HEAD") else await reader.readexactly(length)
            after = await reader.read(8)
        writer.close()

    assert length > 0
    assert "date: " in head
    assert not body or length == len(body)
    assert closes == (after == b"")
    assert closes or b"HTTP/1." in after
