"""Receivers managed over HTTP."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from chassis import http
from chassis.http.server import listening
from notify import api

pytestmark = pytest.mark.connected

KEY = {"Authorization": "Bearer k_w_secret"}
OTHER = {"Authorization": "Bearer k_r_secret"}
HOOKS = "/webhooks"
URL = "https://hooks.example/shop"


@pytest.fixture
async def client(kept: Any, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    keys = tmp_path / "keys.json"
    entry = {
        name: {
            "sha256": hashlib.sha256(f"k_{name}_secret".encode()).hexdigest(),
            "scopes": [scope],
        }
        for name, scope in (("w", "hooks:write"), ("r", "orders:read"))
    }
    keys.write_bytes(msgspec.json.encode(entry))
    app = http.application(
        name="hooks", routes=api.routes(HOOKS, "hooks:write"), api_keys_file=str(keys)
    )
    app[api.BOOK] = kept.book
    app[api.LOOPBACK] = False
    async with (
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=KEY) as session,
    ):
        yield session


async def asked(
    client: aiohttp.ClientSession, method: str, path: str, body: Any = None, **rest: Any
) -> tuple[int, Any]:
    async with client.request(method, path, json=body, **rest) as response:
        found = None if response.status == 204 else await response.json(content_type=None)
        return response.status, found


async def test_a_webhook_lives_from_registration_to_removal(
    client: aiohttp.ClientSession,
) -> None:
    status, made = await asked(client, "POST", HOOKS, {"url": URL, "types": ["order.confirmed"]})
    here = f"{HOOKS}/{made['webhook']['id']}"

    assert 200 == status
    assert made["secret"].startswith("whsec_")
    assert "active" == made["webhook"]["state"]

    status, again = await asked(client, "POST", HOOKS, {"url": URL})

    assert (200, None) == (status, again["secret"])
    assert made["webhook"]["id"] == again["webhook"]["id"]
    assert [] == again["webhook"]["types"]

    status, rotated = await asked(client, "POST", f"{here}/secret")

    assert 200 == status
    assert made["secret"] != rotated["secret"]

    status, sent = await asked(client, "POST", f"{here}/test")
    page = (await asked(client, "GET", f"{here}/deliveries"))[1]

    assert 202 == status
    assert [sent["delivery"]] == [delivery["id"] for delivery in page["items"]]
    assert "secret" not in msgspec.json.encode(page).decode()

    again_path = f"{here}/deliveries/{sent['delivery']}/redeliver"
    assert 409 == (await asked(client, "POST", again_path))[0]
    assert "disabled" == (await asked(client, "POST", f"{here}/disable"))[1]["state"]
    assert 409 == (await asked(client, "POST", f"{here}/test"))[0]
    assert "active" == (await asked(client, "POST", f"{here}/enable"))[1]["state"]
    assert 1 == len((await asked(client, "GET", HOOKS))[1]["items"])
    assert 204 == (await asked(client, "DELETE", here))[0]
    assert 404 == (await asked(client, "GET", here))[0]


async def test_deliveries_come_in_pages(client: aiohttp.ClientSession) -> None:
    made = (await asked(client, "POST", HOOKS, {"url": URL}))[1]
    here = f"{HOOKS}/{made['webhook']['id']}"
    sent = [(await asked(client, "POST", f"{here}/test"))[1]["delivery"] for _ in range(5)]
    seen: list[str] = []
    path = f"{here}/deliveries?limit=2"
    while True:
        page = (await asked(client, "GET", path))[1]
        seen += [delivery["id"] for delivery in page["items"]]
        if page["next"] is None:
            break
        path = f"{here}/deliveries?limit=2&after={page['next']}"

    assert sent[::-1] == seen


@pytest.mark.parametrize(
    "url", ["http://hooks.example/", "https://127.0.0.1/", "https://u:p@hooks.example/", "x"]
)
async def test_an_address_that_may_not_be_called_is_refused(
    client: aiohttp.ClientSession, url: str
) -> None:
    status, problem = await asked(client, "POST", HOOKS, {"url": url})

    assert (422, "urn:shop:problem:url-not-allowed") == (status, problem["type"])
    assert "/url" == problem["errors"][0]["pointer"]


async def test_only_keys_with_the_scope_manage_webhooks(client: aiohttp.ClientSession) -> None:
    for route in api.routes(HOOKS, "hooks:write"):
        path = route.path
        for name in ("webhook", "delivery"):
            path = path.replace(f"{{{name}:{api._UUID}}}", "01980000-0000-7000-8000-000000000000")

        assert 403 == (await asked(client, route.method, path, headers=OTHER))[0]
