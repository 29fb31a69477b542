"""What every service answers alike: problems, request ids, keys, pages, health, its own paths."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chassis.http import application, prefers_html
from chassis.http.server import listening

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_a_problem_of_the_service_keeps_its_slug_and_members(client: Any) -> None:
    answer = await client("GET", "/things/sold-out", X_Request_Id="a-well-formed-id")

    assert 409 == answer.status
    assert "no-store" == answer.headers["cache-control"]
    assert {
        "type": "urn:shop:problem:sold-out",
        "title": "There are not enough units",
        "status": 409,
        "detail": "Only 3 are left.",
        "instance": "a-well-formed-id",
        "short": [{"sku": "A", "left": 3}],
    } == answer.json()


async def test_who_would_rather_read_html_gets_a_problem_as_a_page(client: Any) -> None:
    for path, status, said in (
        ("/things/sold-out", 409, b"Only 3 are left."),
        ("/nowhere", 404, b"There is no such thing here."),
        ("/things/broken", 500, b"Something went wrong on our side"),
    ):
        answer = await client("GET", path, Accept=BROWSER)

        assert (status, "text/html; charset=utf-8") == (
            answer.status,
            answer.headers["content-type"],
        )
        assert "no-store" in answer.headers["cache-control"]
        assert said in answer.body
        assert answer.headers["x-request-id"].encode() in answer.body
        assert b"secret" not in answer.body


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (BROWSER, True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html;q=0.5, application/json", False),
        ("application/json;q=0.5, text/html;q=0.9", True),
        ("text/html;q=x", False),
    ],
)
def test_html_is_for_those_who_prefer_it(accept: str, expected: bool) -> None:
    assert expected == prefers_html(accept)


async def test_an_unexpected_exception_tells_the_caller_nothing_about_itself(client: Any) -> None:
    answer = await client("GET", "/things/broken")

    assert 500 == answer.status
    assert {"type", "title", "status", "instance"} == answer.json().keys()
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


async def test_a_missing_dependency_says_when_to_try_again(client: Any) -> None:
    answer = await client("GET", "/things/dependency")

    assert (503, "2") == (answer.status, answer.headers["retry-after"])


async def test_a_handler_over_its_time_is_unavailable(client: Any) -> None:
    answer = await client("GET", "/things/asleep")

    assert (503, "urn:shop:problem:unavailable") == (answer.status, answer.json()["type"])


async def test_a_redirect_is_no_error(client: Any) -> None:
    answer = await client("GET", "/things/moved")

    assert (302, "/things/new") == (answer.status, answer.headers["location"])


async def test_every_reply_has_a_request_id_taken_over_when_well_formed(client: Any) -> None:
    made = [(await client("GET", "/things/1")).headers["x-request-id"] for _ in range(2)]

    assert 2 == len(set(made))
    assert sorted(made) == made
    for given, taken in {"0123456789abcdef": True, "short": False, "x" * 65: False}.items():
        answer = await client("GET", "/things/1", X_Request_Id=given)

        assert taken == (given == answer.headers["x-request-id"])


async def test_a_head_request_has_the_headers_of_a_get(client: Any) -> None:
    answer = await client.raw(b"HEAD /things/1 HTTP/1.1\r\nHost: shop\r\n\r\n")

    assert (200, '"7"') == (answer.status, answer.headers["etag"])


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic azp2",
        "Bearer",
        "Bearer k_admin_wrong",
        "Bearer k_nobody_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG",
        "Bearer k_admin_",
        "Bearer \xe9",
    ],
)
async def test_without_a_known_key_a_scoped_route_challenges(
    client: Any, authorization: str
) -> None:
    answer = await client("DELETE", "/things/1", Authorization=authorization)

    assert (401, "urn:shop:problem:unauthorized") == (answer.status, answer.json()["type"])
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_without_the_scope_is_forbidden(client: Any, read_only_key: str) -> None:
    answer = await client("DELETE", "/things/1", Authorization=f"Bearer {read_only_key}")

    assert (403, "urn:shop:problem:forbidden") == (answer.status, answer.json()["type"])


async def test_a_key_with_the_scope_opens_the_route(client: Any, key: str) -> None:
    answer = await client("DELETE", "/things/1", Authorization=f"Bearer {key}")

    assert (204, b"") == (answer.status, answer.body)


async def test_a_page_lets_no_foreign_script_or_frame_in(client: Any) -> None:
    answer = await client("GET", "/")

    assert "text/html; charset=utf-8" == answer.headers["content-type"]
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "nosniff" == answer.headers["x-content-type-options"]


async def test_a_ready_process_names_what_it_checked(client: Any) -> None:
    assert {"status": "ok"} == (await client("GET", "/healthz")).json()
    assert {"status": "ok", "checks": ["store"]} == (await client("GET", "/readyz")).json()


async def test_a_process_whose_store_is_away_lives_but_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    async def refuses() -> None:
        raise ConnectionError("no")

    async def hangs() -> None:
        await asyncio.sleep(60)

    async def answers() -> None:
        return None

    monkeypatch.setattr("chassis.health.SECONDS", 0.1)
    checks = [("broker", refuses), ("store", hangs), ("index", answers)]
    async with listening(
        application(name="lame", routes=(), checks=checks), "127.0.0.1", 0
    ) as port:
        lame = type(client)(port)

        assert 200 == (await lame("GET", "/healthz")).status
        answer = await lame("GET", "/readyz")

        assert (503, ["broker", "store"]) == (answer.status, answer.json()["failing"])


async def test_metrics_count_requests_by_route_not_by_path(client: Any) -> None:
    await client("GET", "/things/1")
    await client("GET", "/things/sold-out")
    text = (await client("GET", "/metrics")).body.decode()
    counts = [
        line
        for line in text.splitlines()
        if line.startswith("http_server_request_duration_seconds_count")
    ]

    assert any('http_route="/things/{id}"' in line and '"200"' in line for line in counts)
    assert any('http_route="/things/{id}"' in line and '"409"' in line for line in counts)
    assert not any("sold-out" in line for line in counts)


async def test_the_documentation_page_loads_its_own_files_only(client: Any) -> None:
    answer = await client("GET", "/docs")

    assert (200, "text/html") == (answer.status, answer.headers["content-type"].split(";")[0])
    assert b"http" not in answer.body.replace(b"<!doctype html>", b"").replace(b"<html", b"")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        file = await client("GET", f"/docs/{name}")

        assert (200, True) == (file.status, len(file.body) > 100)


def test_a_missing_keys_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        application(name="x", routes=(), api_keys_file=str(tmp_path / "none.json"))
