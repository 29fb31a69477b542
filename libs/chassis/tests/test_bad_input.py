"""Bad input has one exact answer: the table of the project's rules, row by row, over sockets."""

from typing import Any

import pytest

from chassis.http import reading

JSON = {"Content_Type": "application/json"}


def basket(line: bytes = b'{"sku":"A","qty":1}', rest: bytes = b"") -> bytes:
    return b'{"lines":[' + line + b"]" + rest + b"}"


def assert_problem(answer: Any, status: int, slug: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json() if answer.body else {}

    assert (status, f"urn:shop:problem:{slug}") == (answer.status, body.get("type"))
    assert "application/problem+json" == answer.headers["content-type"]
    assert "no-store" == answer.headers["cache-control"]
    assert status == body["status"]
    assert body["title"]
    assert answer.headers["x-request-id"] == body["instance"]
    return body


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "nothing at all"),
        (b"{", "cut off"),
        (b"not json", "no JSON"),
        (basket() + b"x", "something after it"),
        (b'\xef\xbb\xbf{"lines":[]}', "a byte order mark"),
        (basket(rest=b',"note":"\xff"'), "a byte that is no UTF-8"),
        (basket(rest=b',"note":"\xed\xa0\x80"'), "a surrogate in UTF-8"),
        (basket().decode().encode("utf-16"), "UTF-16"),
        (basket(rest=b',"note":"a\nb"'), "a raw line end in a text"),
        (b'{"lines":[],"lines":[]}', "one key twice"),
        (basket(b'{"sku":"A","qty":1,"qty":2}'), "one key twice, deeper"),
        (b'{"lines":[],"note":"a","n\\u006fte":"b"}', "one key twice, one of them escaped"),
        (b'{"note":"x",":k":1,":k":2,"lines":[]}', "one key twice, with a colon in it"),
        (basket(b'{"sku":"A","qty":NaN}'), "NaN"),
        (basket(b'{"sku":"A","qty":Infinity}'), "Infinity"),
        (basket(b'{"sku":"A","qty":9007199254740993}'), "2^53 + 1"),
        (basket(b'{"sku":"A","qty":-9007199254740993}'), "-2^53 - 1"),
        (basket(b'{"sku":"A","qty":' + b"9" * 5000 + b"}"), "five thousand digits"),
        (basket(b"[" * 21 + b"]" * 21), "22 levels"),
        (b"[" * 30_000, "thirty thousand levels"),
        (b'{"lines":7,"note":oops}', "a wrong type and then no JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_two_parsers_could_read_differently_is_malformed(
    client: Any, body: bytes, why: str
) -> None:
    answer = await client("POST", "/baskets", body, Content_Length=str(len(body)), **JSON)

    assert_problem(answer, 400, "malformed-json")
    assert why


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        (b"{}", "/lines", "missing"),
        (b"[]", "", "wrong-type"),
        (basket(b'{"sku":"A"}'), "/lines/0/qty", "missing"),
        (basket(b'{"sku":"A","qty":"1"}'), "/lines/0/qty", "wrong-type"),
        (basket(b'{"sku":"A","qty":85.0}'), "/lines/0/qty", "wrong-type"),
        (basket(b'{"sku":"A","qty":1.5}'), "/lines/0/qty", "wrong-type"),
        (basket(b'{"sku":"A","qty":-1}'), "/lines/0/qty", "out-of-range"),
        (basket(b'{"sku":"A","qty":1000}'), "/lines/0/qty", "out-of-range"),
        (basket(b'{"sku":" a","qty":1}'), "/lines/0/sku", "wrong-form"),
        (basket(b'{"sku":"A","qty":1,"price":1}'), "/lines/0/price", "unknown-field"),
        (basket(rest=b',"a/b~c":1'), "/a~1b~0c", "unknown-field"),
        (basket(rest=b',"kind":"loan"'), "/kind", "not-allowed"),
        (basket(rest=b',"note":"a\\u0000b"'), "/note", "control-character"),
        (basket(rest=b',"note":"a\\u001bb"'), "/note", "control-character"),
        (basket(rest=b',"note":"a\x7fb"'), "/note", "control-character"),
        (basket(rest=',"note":"a\x85b"'.encode()), "/note", "control-character"),
        (basket(rest=b',"note":"\\ud800"'), "/note", "lone-surrogate"),
        (basket(rest=b',"extra":{"a\\u0001":1}'), "/extra", "control-character"),
        (basket(rest=b',"extra":{"a":"x"}'), "/extra", "wrong-type"),
        (
            b'{"lines":[' + b",".join([b'{"sku":"A","qty":1}'] * 101) + b"]}",
            "/lines",
            "wrong-length",
        ),
    ],
)
async def test_json_of_the_wrong_shape_is_refused_with_a_pointer(
    client: Any, body: bytes, pointer: str, code: str
) -> None:
    answer = await client("POST", "/baskets", body, **JSON)

    problem = assert_problem(answer, 422, "invalid-body")
    assert [(pointer, code)] == [(e["pointer"], e["code"]) for e in problem["errors"]]
    assert problem["errors"][0]["detail"]


async def test_a_refusal_never_repeats_the_value(client: Any) -> None:
    for rest in (b',"kind":"hunter2"', b',"note":"hunter2\\u0000"', b',"extra":"hunter2"'):
        answer = await client("POST", "/baskets", basket(rest=rest), **JSON)

        assert 422 == answer.status
        assert b"hunter2" not in answer.body


@pytest.mark.parametrize(
    "body",
    [
        basket(),
        basket(b'{"sku":"A","qty":1},{"sku":"B","qty":2}'),
        basket(rest=',"note":"Größe \U0001f600, \\"zitiert\\"\\n\\tzweite Zeile"'.encode()),
        basket(rest=b',"note":"\\ud83d\\ude00"'),
        basket(rest=b',"note":"1234567890123456789 [[[[[[[[[[[[[[[[[[[[[[[[[[[["'),
        basket(rest=b',"extra":{"max":9007199254740992,"min":-9007199254740992}'),
        b' {\n"lines" : [ ] , "note":"lines:", "kind" :"gift"}\n',
    ],
)
async def test_good_bodies_are_read_whether_they_look_plain_or_not(
    client: Any, body: bytes
) -> None:
    answer = await client("POST", "/baskets", body, **JSON)

    assert 200 == answer.status
    assert answer.json()["lines"] is not None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "application/json; charset=latin-1"},
        {"Content_Type": "application/json; charset=utf-16"},
        {"Content_Type": "application/json-patch+json"},
        {**JSON, "Content_Encoding": "gzip"},
        {**JSON, "Content_Encoding": "br"},
    ],
)
async def test_another_media_type_charset_or_encoding_is_not_read(
    client: Any, headers: dict[str, str]
) -> None:
    answer = await client("POST", "/baskets", basket(), **headers)

    assert_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "media", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
async def test_utf_8_may_be_said_aloud(client: Any, media: str) -> None:
    assert 200 == (await client("POST", "/baskets", basket(), Content_Type=media)).status


async def test_a_body_over_the_limit_is_too_large(client: Any) -> None:
    big = basket(rest=b',"note":"' + b"x" * 65536 + b'"')
    answer = await client("POST", "/baskets", big, **JSON)

    assert_problem(answer, 413, "too-large")
    assert "close" == answer.headers["connection"].lower()


async def test_a_route_may_have_a_limit_of_its_own(client: Any) -> None:
    assert 200 == (await client("PUT", "/small", basket(), **JSON)).status
    answer = await client("PUT", "/small", basket(rest=b',"note":"' + b"x" * 100 + b'"'), **JSON)

    assert_problem(answer, 413, "too-large")


async def test_a_body_in_chunks_is_counted_as_it_comes(client: Any) -> None:
    head = (
        b"POST /baskets HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answer = await client.raw(head, *[chunk] * 5)

    assert_problem(answer, 413, "too-large")


async def test_a_body_in_good_chunks_is_read(client: Any) -> None:
    body = basket()
    answer = await client.raw(
        b"POST /baskets HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"5\r\n" + body[:5] + b"\r\n",
        b"%x\r\n" % len(body[5:]) + body[5:] + b"\r\n0\r\n\r\n",
    )

    assert 200 == answer.status


async def test_a_body_that_comes_too_slowly_times_out(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.1)
    answer = await client.raw(
        b"POST /baskets HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        b'Content-Length: 100\r\n\r\n{"lines":'
    )

    assert_problem(answer, 408, "request-timeout")


async def test_an_upload_may_be_of_any_type_and_size(client: Any) -> None:
    answer = await client("PUT", "/uploads/7", b"x" * 300_000, Content_Type="image/png")

    assert {"size": 300_000} == answer.json()


@pytest.mark.parametrize(
    ("search", "pointer", "code"),
    [
        ("color=red", "/color", "unknown-parameter"),
        ("page=0", "/page", "out-of-range"),
        ("page=101", "/page", "out-of-range"),
        ("page=one", "/page", "wrong-type"),
        ("page=1&page=2", "/page", "repeated"),
        ("page=", "/page", "wrong-type"),
        ("sort=colour", "/sort", "not-allowed"),
        ("q=" + "x" * 257, "/q", "wrong-length"),
        ("q=a%00b", "/q", "control-character"),
        ("brand=a%0Bb", "/brand", "control-character"),
        ("in_stock=perhaps", "/in_stock", "wrong-type"),
    ],
)
async def test_a_bad_query_is_refused(client: Any, search: str, pointer: str, code: str) -> None:
    problem = assert_problem(await client("GET", f"/find?{search}"), 400, "bad-query")

    assert [(pointer, code)] == [(e["pointer"], e["code"]) for e in problem["errors"]]


async def test_list_fields_take_repeated_parameters(client: Any) -> None:
    answer = await client("GET", "/find?brand=a&brand=b&q=x*%20OR%20y&page=2&in_stock=true")

    assert {
        "q": "x* OR y",
        "page": 2,
        "sort": "name",
        "brand": ["a", "b"],
        "in_stock": True,
    } == answer.json()


async def test_all_wrong_parameters_are_named_at_once(client: Any) -> None:
    problem = (await client("GET", "/find?a=1&b=2&page=1&page=2")).json()

    assert ["/a", "/b", "/page"] == [error["pointer"] for error in problem["errors"]]


async def test_an_unknown_path_is_not_found(client: Any) -> None:
    for path in ("/nope", "/baskets/", "/uploads/seven", "/docs/../../etc/passwd", "/docs/LICENSE"):
        assert_problem(await client("GET", path), 404, "not-found")


async def test_a_wrong_method_names_the_right_ones(client: Any) -> None:
    answer = await client("PATCH", "/things/1")

    assert_problem(answer, 405, "method-not-allowed")
    assert "DELETE, GET, HEAD" == answer.headers["allow"]
    assert_problem(await client("BREW", "/things/1"), 400, "bad-request")


@pytest.mark.parametrize(
    ("request_", "status", "slug"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: shop\r\n\r\n", 414, "uri-too-long"),
        (
            b"GET / HTTP/1.1\r\nHost: shop\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n",
            431,
            "headers-too-large",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: shop\r\n"
            + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 6000) for n in range(3))
            + b"\r\n",
            431,
            "headers-too-large",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: shop\r\n"
            + b"".join(b"X-%d: 1\r\n" % n for n in range(120))
            + b"\r\n",
            431,
            "headers-too-large",
        ),
        (
            (
                b"POST /baskets HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
            "bad-request",
        ),
        (
            (
                b"POST /baskets HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n"
                b"Content-Length: 3\r\n\r\n{}"
            ),
            400,
            "bad-request",
        ),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nHost: other\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad-request"),
        (b"GET http://elsewhere/ HTTP/1.1\r\nHost: shop\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\nHost: shop\n\n", 400, "bad-request"),
        (b"GET / HTTP/9.9\r\nHost: shop\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nBad Name: x\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nX: a\x00b\r\n\r\n", 400, "bad-request"),
        (
            (
                b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Content-Length: 4\r\n\r\nbody"
            ),
            400,
            "bad-request",
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad-request"),
    ],
    ids=[
        "long target",
        "long header",
        "long headers",
        "many headers",
        "CL and TE",
        "two CL",
        "two Host",
        "no Host",
        "absolute form",
        "bare LF",
        "HTTP/9.9",
        "space in a name",
        "NUL in a header",
        "Upgrade with a body",
        "TLS",
    ],
)
async def test_what_is_no_clean_http_is_refused_and_the_connection_closed(
    client: Any, request_: bytes, status: int, slug: str
) -> None:
    answer = await client.raw(request_)

    assert_problem(answer, status, slug)
    assert "close" == answer.headers.get("connection", "").lower()


async def test_a_body_with_broken_chunks_is_refused(client: Any) -> None:
    answer = await client.raw(
        b"POST /baskets HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"zz\r\nxx\r\n",
    )

    assert_problem(answer, 400, "bad-request")


async def test_nothing_is_expected_but_100_continue(client: Any) -> None:
    answer = await client("POST", "/baskets", basket(), Expect="a-miracle", **JSON)

    assert_problem(answer, 417, "expectation-failed")


async def test_a_client_that_asks_is_told_to_continue(client: Any) -> None:
    answer = await client("POST", "/baskets", basket(), Expect="100-continue", **JSON)

    assert 100 == answer.status
