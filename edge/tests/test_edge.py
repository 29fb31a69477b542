"""nginx and Varnish as they run, from a socket to an origin and back."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web

pytestmark = pytest.mark.connected

ESI = 'max-age=60, content="ESI/1.0"'
REVALIDATE = "public, max-age=0, must-revalidate"


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


class Answer:
    """One HTTP response, read from a socket until the other side closed it."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(line.split()[1])
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }

    @property
    def problem(self) -> Any:
        assert "application/problem+json" == self.headers["content-type"]
        assert "no-store" == self.headers["cache-control"]
        return json.loads(self.body)


async def send(edge: Any, raw: bytes, *, source: str = "127.0.0.1") -> Answer:
    """What the edge answers to these bytes; it must close the connection after that."""
    reader, writer = await asyncio.open_connection(edge.host, edge.port, local_addr=(source, 0))
    writer.write(raw)
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return Answer(answer)


def request(line: str, *fields: str, body: str = "", host: str = "localhost") -> bytes:
    head = "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *fields, "", ""])
    return (head + body).encode("latin-1")


# two servers in a row could read each of these differently
SMUGGLING = {
    "both lengths": request(
        "POST /api/orders",
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
        body="0\r\n\r\nGET /api/orders/secret HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    "two lengths": request("POST /api/orders", "Content-Length: 1", "Content-Length: 2", body="xx"),
    "a length that is no number": request("POST /api/orders", "Content-Length: +1", body="x"),
    "an unknown coding": request("POST /api/orders", "Transfer-Encoding: xchunked", body="x"),
    "two hosts": request("GET /p/boots", "Host: evil.example"),
    "a space before the colon": request("GET /p/boots", "Content-Length : 0"),
    "an absolute URI of another host": request(
        "GET http://evil.example/p/boots", host="evil.example"
    ),
    "an absolute URI of another host beside our Host": request("GET http://evil.example/p/boots"),
    "an upgrade with a body": request(
        "GET /ws/stock",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Content-Length: 4",
        body="evil",
    ),
    "an upgrade with chunks": request(
        "GET /p/boots",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Transfer-Encoding: chunked",
        body="4\r\nevil\r\n0\r\n\r\n",
    ),
    "GET with a body": request(
        "GET /p/boots", "Content-Length: 4", "Connection: close", body="evil"
    ),
    "a path that leaves its route": request("GET /p/%2e%2e/orders/1", "Connection: close"),
    "a control character in the path": request("GET /p/bo\x01ots", "Connection: close"),
}


@pytest.mark.parametrize("raw", SMUGGLING.values(), ids=SMUGGLING)
async def test_what_two_servers_could_read_differently_is_refused(edge: Any, raw: bytes) -> None:
    answer = await send(edge, raw)

    assert 400 == answer.status
    assert "urn:shop:problem:bad-request" == answer.problem["type"]
    assert "evil" not in answer.body.decode()
    assert [] == edge.origin.seen


async def test_lines_that_end_in_a_bare_line_feed_reach_no_service_as_they_came(edge: Any) -> None:
    answer = await send(edge, b"GET /p/boots HTTP/1.1\nHost: localhost\nConnection: close\n\n")

    # nginx reads them as RFC 9112 allows, and writes a request of its own
    assert 200 == answer.status
    assert b"GET /p/boots" == answer.body
    assert 1 == len(edge.origin.seen)


async def test_an_absolute_uri_of_this_shop_is_read_as_its_path(edge: Any) -> None:
    answer = await send(edge, request("GET http://localhost/p/boots", "Connection: close"))

    assert b"GET /p/boots" == answer.body


@pytest.mark.parametrize(
    ("status", "slug", "raw"),
    [
        (404, "not-found", request("GET /static/none.css", "Connection: close")),
        (404, "not-found", request("GET /nowhere", "Connection: close")),
        (405, "method-not-allowed", request("PURGE /p/boots", "Connection: close")),
        (405, "method-not-allowed", request("BAN /p/boots", "Connection: close")),
        (405, "method-not-allowed", request("TRACE /p/boots", "Connection: close")),
        (405, "method-not-allowed", request("POST /static/shop.css", "Connection: close")),
        (405, "method-not-allowed", request("POST /ws/stock", "Connection: close")),
        (413, "too-large", request("POST /api/orders", "Content-Length: 70000")),
        (414, "uri-too-long", request("GET /p/" + "x" * 9000)),
        (431, "headers-too-large", request("GET /", "X-Long: " + "x" * 9000)),
        (421, "misdirected-request", request("GET /", "Connection: close", host="evil.example")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_edge_words_its_refusals_as_the_services_do(
    edge: Any, status: int, slug: str, raw: bytes
) -> None:
    answer = await send(edge, raw)

    assert status == answer.status
    assert f"urn:shop:problem:{slug}" == answer.problem["type"]
    assert status == answer.problem["status"]
    assert answer.problem["instance"]
    assert (status == 405) == ("allow" in answer.headers)
    assert [] == edge.origin.seen


async def test_a_feed_may_be_long(edge: Any, client: ClientSession) -> None:
    async def count(request: web.Request) -> web.StreamResponse:
        return web.Response(text=str(len(await request.read())))

    for path in ("/imports", "/stock/imports", "/stock/bulk", "/prices/bulk"):
        edge.origin.replies[path] = count
        feed = io.BytesIO(b"x" * 3_000_000)
        async with client.post(f"{edge.url}/api{path}", data=feed) as response:
            assert "3000000" == await response.text()


async def test_static_files_are_served_beside_varnish_and_kept_by_browsers(
    edge: Any, client: ClientSession
) -> None:
    async with client.get(f"{edge.url}/static/shop.css") as response:
        assert 200 == response.status
        assert "text/css" == response.content_type
        assert "max-age=3600" in response.headers["Cache-Control"]
        assert "nosniff" == response.headers["X-Content-Type-Options"]
    async with client.get(f"{edge.url}/static/shop.css?v=1") as response:
        assert "immutable" in response.headers["Cache-Control"]
    async with client.get(f"{edge.url}/static/../nginx.conf") as response:
        assert 404 == response.status

    assert [] == edge.origin.seen


async def test_a_page_is_stored_and_keeps_what_is_between_us_and_the_cache(
    edge: Any, client: ClientSession
) -> None:
    edge.origin.serve(
        "/p/boots", "boots", Surrogate_Control=ESI, Cache_Control=REVALIDATE, xkey="p-1"
    )
    caches = []
    for _ in range(2):
        async with client.get(f"{edge.url}/p/boots?utm_source=x") as response:
            assert "boots" == await response.text()
            assert REVALIDATE == response.headers["Cache-Control"]
            assert "Age" in response.headers
            caches.append(response.headers["X-Cache"])
            inner = {"Surrogate-Control", "xkey", "Via", "X-Varnish"}
            assert not inner & response.headers.keys()
            assert "nginx" == response.headers["Server"]

    assert ["miss", "hit"] == caches
    assert 1 == len(edge.origin.seen)


async def test_a_page_is_put_together_from_fragments(edge: Any, client: ClientSession) -> None:
    includes = '<esi:include src="/fragments/nav"/> <esi:include src="/fragments/cart"/>'
    edge.origin.serve("/", includes, Surrogate_Control=ESI)
    edge.origin.serve("/fragments/nav", "menu", Surrogate_Control="max-age=60")

    async def cart(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.cookies.get("cart", "none"))

    edge.origin.replies["/fragments/cart"] = cart
    bodies = []
    for who in ("ann", "bob"):
        async with client.get(edge.url, headers={"Cookie": f"cart={who}"}) as response:
            bodies.append(await response.text())

    assert ["menu ann", "menu bob"] == bodies
    paths = [request.path for request in edge.origin.seen]
    assert ["/", "/fragments/nav", "/fragments/cart", "/fragments/cart"] == paths


async def test_a_purge_by_key_shows_the_new_page_at_once(edge: Any, client: ClientSession) -> None:
    edge.origin.serve("/p/boots", "old", Surrogate_Control="max-age=3600", xkey="p-1")
    async with client.get(f"{edge.url}/p/boots") as response:
        assert "old" == await response.text()
    edge.origin.serve("/p/boots", "new", Surrogate_Control="max-age=3600", xkey="p-1")
    async with client.request("PURGE", edge.purge_url, headers={"xkey-purge": "p-1"}) as response:
        assert {"purged": 1} == await response.json()

    async with client.get(f"{edge.url}/p/boots") as response:
        assert "new" == await response.text()


async def test_a_service_is_told_who_asks_by_the_edge_alone(
    edge: Any, client: ClientSession
) -> None:
    claims = {
        "X-Forwarded-For": "198.51.100.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Original-URL": "/orders/1",
        "X-HTTP-Method-Override": "DELETE",
        "Forwarded": "for=198.51.100.7",
        "X-Request-Id": "evil",
        "Proxy": "http://evil.example",
    }
    async with client.get(f"{edge.url}/api/orders/1", headers=claims) as response:
        assert 200 == response.status

    sent = edge.origin.seen[0].headers
    assert "127.0.0.1" == sent["X-Forwarded-For"]
    assert "http" == sent["X-Forwarded-Proto"]
    assert "shop" == sent["Host"]
    assert 32 == len(sent["X-Request-Id"])
    async with client.get(f"{edge.url}/cart", headers=claims) as response:
        assert 200 == response.status
    assert edge.url == f"http://{edge.origin.seen[1].headers['X-Forwarded-Host']}"

    gone = {"X-Forwarded-Host", "X-Original-URL", "X-HTTP-Method-Override", "Forwarded", "Proxy"}
    assert not gone & sent.keys()


async def test_a_websocket_goes_past_the_cache(edge: Any, client: ClientSession) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(await socket.receive_str())
        await socket.close()
        return socket

    edge.origin.replies["/ws/stock"] = echo
    async with client.ws_connect(f"{edge.url}/ws/stock") as socket:
        await socket.send_str("hello")

        assert "hello" == await socket.receive_str()
    # stock compares it with the Origin of the page that asks
    assert edge.url == f"http://{edge.origin.seen[0].headers['X-Forwarded-Host']}"


async def test_an_upgrade_elsewhere_is_an_ordinary_request(edge: Any) -> None:
    fields = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    answer = await send(edge, request("GET /p/boots", *fields))

    assert 200 == answer.status
    assert "Upgrade" not in edge.origin.seen[0].headers


async def test_a_dead_cache_is_a_503_that_says_when_to_come_back(
    own_edge: Any, client: ClientSession
) -> None:
    own_edge.varnish.kill()
    await own_edge.varnish.wait()
    async with client.get(f"{own_edge.url}/p/boots") as response:
        problem = await response.json(content_type="application/problem+json")

        assert 503 == response.status
        assert "2" == response.headers["Retry-After"]
    assert "urn:shop:problem:unavailable" == problem["type"]


async def test_one_visitor_from_outside_cannot_take_all_there_is(edge: Any) -> None:
    ask = request("GET /healthz", "Connection: close")
    answers = await asyncio.gather(*(send(edge, ask, source="127.0.0.2") for _ in range(300)))
    refused = [answer for answer in answers if answer.status != 200]

    assert {429} == {answer.status for answer in refused}
    assert {"1"} == {answer.headers["retry-after"] for answer in refused}
    assert "urn:shop:problem:too-many-requests" == refused[0].problem["type"]


async def test_an_orders_events_come_one_by_one_and_end_with_who_reads_them(
    edge: Any, client: ClientSession
) -> None:
    told, gone = asyncio.Event(), asyncio.Event()

    async def events(request: web.Request) -> web.StreamResponse:
        sent = {"Content-Type": "text/event-stream", "Cache-Control": "private, no-store"}
        response = web.StreamResponse(headers=sent | {"X-Accel-Buffering": "no"})
        await response.prepare(request)
        try:
            for number in range(3):
                await response.write(f"data: {number}\n\n".encode())
                # the next is not written until this one has arrived
                await told.wait()
                told.clear()
            while True:
                await response.write(b": still here\n\n")
                await asyncio.sleep(0.05)
        finally:
            gone.set()

    for path in ("/orders/1/events", "/api/orders/1/events"):
        edge.origin.replies["/orders/1/events"] = events
        gone.clear()
        async with asyncio.timeout(30), client.get(edge.url + path) as answer:
            assert "private, no-store" == answer.headers["Cache-Control"]
            assert "pass" == answer.headers["X-Cache"]
            for number in range(3):
                assert f"data: {number}\n".encode() == await answer.content.readline()
                assert b"\n" == await answer.content.readline()
                told.set()
        async with asyncio.timeout(30):
            await gone.wait()


async def test_a_link_that_signs_in_is_written_down_nowhere(
    own_edge: Any, client: ClientSession
) -> None:
    secret = "c4nary-token"

    async def dies(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    own_edge.origin.replies["/sign-in/confirm"] = dies
    async with client.get(f"{own_edge.url}/sign-in/confirm?token={secret}") as answer:
        assert 503 == answer.status
    own_edge.varnish.terminate()
    await own_edge.varnish.wait()
    async with client.get(f"{own_edge.url}/sign-in/confirm?token={secret}") as answer:
        assert 503 == answer.status

    # what any other page that failed leaves in the log
    async with client.get(f"{own_edge.url}/p/boots?failed") as answer:
        assert 503 == answer.status
    async with asyncio.timeout(30):
        while "/p/boots?failed" not in own_edge.logs():
            await asyncio.sleep(0.05)
    assert secret not in own_edge.logs()
