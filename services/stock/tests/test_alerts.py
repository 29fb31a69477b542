"""Alerts as people and programs meet them: HTTP, mails, webhooks, and stock that comes back."""

import asyncio
import email
import hashlib
import os
import secrets
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import default as DEFAULT  # noqa: N812 -- a constant by nature
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import sqlalchemy as sa
from aiohttp import web
from redis.asyncio import Redis
from standardwebhooks import Webhook

from chassis.database import database
from chassis.http.server import listening
from stock import schema
from stock.app import application
from stock.domain import Action, Adjust
from stock.settings import Settings
from stock.store import StockStore
from stock.waiting import alerts

pytestmark = pytest.mark.connected

KEY = {"Authorization": "Bearer k_w_write"}
BACK = {"sku": "chair", "when": "back_in_stock"}
BELOW = {"sku": "chair", "when": "price_below", "currency": "EUR", "below_minor": 1_000}
ADA = {"email": "ada@people.example"}
PATIENCE_S = 180


def own(sku: str) -> str:
    """A SKU of one test's own: the stream is one for all tests of a session."""
    return f"{sku}-{secrets.token_hex(3)}"


@pytest.fixture
async def config(settings: Settings, tmp_path: Path) -> Settings:
    keys = tmp_path / "keys.json"
    hashed = hashlib.sha256(b"k_w_write").hexdigest()
    keys.write_bytes(msgspec.json.encode({"w": {"sha256": hashed, "scopes": ["stock:write"]}}))
    url = f"sqlite+aiosqlite:///{tmp_path / 'stock.sqlite3'}"
    async with database(url) as sql:
        await schema.HISTORY.migrate(sql)
    return msgspec.structs.replace(
        settings,
        api_keys_file=str(keys),
        database_url=url,
        mail_dir=tmp_path / "mails",
        public_url="https://shop.example",
        webhooks_on_loopback=True,
        profile="test",
    )


@pytest.fixture
async def client(config: Settings, redis: Redis) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        listening(application(config), "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def post(
    client: aiohttp.ClientSession, body: object, path: str = "/alerts", **headers: str
) -> tuple[int, Any]:
    async with client.post(path, json=body, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def put(store: StockStore, sku: str, stock: int) -> None:
    await store.quantities.adjust(sku, Adjust(stock=stock, action=Action.SET))


async def price(client: aiohttp.ClientSession, sku: str, minor: int) -> None:
    prices = {"prices": [{"currency": "EUR", "amount_minor": minor}]}
    async with client.put(f"/products/{sku}/prices", json=prices, headers=KEY) as response:
        assert 200 == response.status


async def ids(config: Settings) -> list[str]:
    async with database(config.database_url) as sql, sql.read() as connection:
        return [str(id_) for id_ in await connection.scalars(sa.select(alerts.c.id))]


async def test_asking_again_is_answered_alike(
    client: aiohttp.ClientSession, config: Settings
) -> None:
    answer = {"sku": "chair", "when": "back_in_stock", "id": None}
    for _ in range(2):
        assert (202, answer) == await post(client, BACK | ADA)
    assert 1 == len(await ids(config))


@pytest.mark.everywhere
async def test_there_is_nothing_to_wait_for_where_it_is_so_already(
    client: aiohttp.ClientSession, store: StockStore
) -> None:
    await put(store, "chair", 3)
    await price(client, "chair", 999)

    status, problem = await post(client, BACK | ADA)
    assert (409, 3) == (status, problem["available"])
    status, problem = await post(client, BELOW | ADA)
    assert (409, 999) == (status, problem["amount_minor"])
    assert 202 == (await post(client, BELOW | ADA | {"below_minor": 999}))[0]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (BACK, "/email"),
        (BACK | ADA | {"webhook": "01980000-0000-7000-8000-000000000000"}, "/email"),
        (BACK | ADA | {"currency": "EUR"}, "/currency"),
        ({"sku": "chair", "when": "price_below"} | ADA, "/currency"),
        (BELOW | ADA | {"below_minor": 0}, "/below_minor"),
        (BELOW | ADA | {"currency": "euro"}, "/currency"),
        (BACK | {"email": "nobody"}, "/email"),
        (BACK | {"email": "a@b.example\r\nBcc: c@d.example"}, "/email"),
        (BACK | {"email": "a@b.example, c@d.example"}, "/email"),
        (BACK | ADA | {"sku": "../x"}, "/sku"),
        (BACK | ADA | {"when": "now"}, "/when"),
        (BACK | ADA | {"url": "https://x.example"}, "/url"),
    ],
)
async def test_a_wrong_wish_is_pointed_at(
    client: aiohttp.ClientSession, body: dict[str, object], pointer: str
) -> None:
    status, problem = await post(client, body)

    assert 422 == status
    assert pointer in {fault["pointer"] for fault in problem["errors"]}


async def test_a_webhook_is_named_by_who_may_manage_it(client: aiohttp.ClientSession) -> None:
    stranger = BACK | {"webhook": "01980000-0000-7000-8000-000000000000"}

    assert 401 == (await post(client, stranger))[0]
    assert 404 == (await post(client, stranger, **KEY))[0]

    made = (await post(client, {"url": "http://127.0.0.1:9/"}, "/alerts/webhooks", **KEY))[1]
    status, accepted = await post(client, BACK | {"webhook": made["webhook"]["id"]}, **KEY)

    assert 202 == status
    async with client.delete(f"/alerts/{accepted['id']}") as response:
        assert 401 == response.status
    async with client.delete(f"/alerts/{accepted['id']}", headers=KEY) as response:
        assert 204 == response.status

    await post(client, {}, f"/alerts/webhooks/{made['webhook']['id']}/disable", **KEY)
    assert 409 == (await post(client, BACK | {"webhook": made["webhook"]["id"]}, **KEY))[0]


async def test_the_link_in_a_mail_stops_alerts_only_when_somebody_presses_the_button(
    client: aiohttp.ClientSession, config: Settings
) -> None:
    await post(client, BACK | ADA)
    (id_,) = await ids(config)
    async with client.get(f"/alerts/{id_}") as response:
        html = await response.text()

        assert 200 == response.status
        assert "private, no-store" == response.headers["Cache-Control"]
    assert '<form method="post">' in html
    assert "ada@" not in html

    async with database(config.database_url) as sql, sql.read() as connection:
        assert "waiting" == await connection.scalar(sa.select(alerts.c.state))
    # as a mail client does it: RFC 8058
    one_click = {"List-Unsubscribe": "One-Click"}
    async with client.post(f"/alerts/{id_}", data=one_click) as response:
        assert 200 == response.status
    async with database(config.database_url) as sql, sql.read() as connection:
        row = (await connection.execute(sa.select(alerts))).one()
    assert ("cancelled", None) == (row.state, row.email)
    async with client.get("/alerts/01980000-0000-7000-8000-000000000000") as response:
        assert 404 == response.status


class Hook:
    """A receiver that is a real server."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=204)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    app = web.Application()
    app.router.add_post("/hook", hook.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield hook
    await runner.cleanup()


@asynccontextmanager
async def running(config: Settings, broker_url: str, *names: str) -> AsyncIterator[list[Process]]:
    """Processes of stock, between the real Redis and the real broker."""
    env = os.environ | {
        "STOCK_REDIS_URL": config.redis_url,
        "STOCK_BROKER_URL": broker_url,
        "STOCK_KEY_PREFIX": config.key_prefix,
        "STOCK_PARTITIONS": str(config.partitions),
        "STOCK_REDIS_TIMEOUT": "10",
        "STOCK_PROFILE": "test",
        "STOCK_DATABASE_URL": config.database_url,
        "STOCK_MAIL_DIR": str(config.mail_dir),
        "STOCK_PUBLIC_URL": config.public_url,
        "STOCK_WEBHOOKS_ON_LOOPBACK": "true",
    }
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", "stock", name, env=env)
        for name in names
    ]
    try:
        yield started
        for process in started:
            process.terminate()
        assert [0] * len(started) == [await process.wait() for process in started]
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                await process.wait()


def mails(config: Settings, title: str) -> list[EmailMessage]:
    found = [
        email.message_from_bytes(path.read_bytes(), policy=DEFAULT)
        for path in config.mail_dir.glob("*.eml")
    ]
    return [mail for mail in found if title in str(mail["Subject"])]


async def until(config: Settings, title: str, count: int) -> list[EmailMessage]:
    async with asyncio.timeout(PATIENCE_S):
        while len(found := mails(config, title)) < count:
            await asyncio.sleep(0.05)
    return found


async def test_units_that_come_back_are_told_to_as_many_as_they_are_and_a_price_to_all(
    client: aiohttp.ClientSession,
    config: Settings,
    store: StockStore,
    broker_url: str,
    hook: Hook,
) -> None:
    sku = own("stool")
    stool = BACK | {"sku": sku}
    await put(store, sku, 0)
    made = (await post(client, {"url": hook.url}, "/alerts/webhooks", **KEY))[1]
    assert 202 == (await post(client, stool | {"webhook": made["webhook"]["id"]}, **KEY))[0]
    for n in range(5):
        assert 202 == (await post(client, stool | {"email": f"p{n}@people.example"}))[0]
    assert 202 == (await post(client, BELOW | ADA | {"sku": sku}))[0]

    # two processes of each hear of it, and one is told only once
    async with running(config, broker_url, "relay", "relay", "notify", "notify"):
        await until(config, "We will tell you", 6)
        await put(store, sku, 3)
        first = await until(config, f"{sku} is back", 2)
        await price(client, sku, 750)
        (cheap,) = await until(config, "costs €7.50 now", 1)
        await put(store, sku, 0)
        await put(store, sku, 2)
        second = await until(config, f"{sku} is back", 4)
        async with asyncio.timeout(PATIENCE_S):
            while not hook.got:
                await asyncio.sleep(0.05)

    assert {"p0@people.example", "p1@people.example"} == {mail["To"] for mail in first}
    assert {f"p{n}@people.example" for n in range(4)} == {mail["To"] for mail in second}
    assert "ada@people.example" == cheap["To"]
    ((headers, body),) = hook.got
    told = Webhook(made["secret"]).verify(body, headers)
    assert ("alert.back_in_stock", 3) == (told["type"], told["data"]["available"])
    assert 4 == len(mails(config, f"{sku} is back"))


async def test_people_stand_in_no_event_and_no_log(
    client: aiohttp.ClientSession,
    config: Settings,
    store: StockStore,
    broker_url: str,
    redis: Redis,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sku = own("bench")
    await put(store, sku, 0)
    await post(client, BACK | {"sku": sku, "email": "canary@people.example"})
    async with running(config, broker_url, "relay", "notify"):
        await put(store, sku, 1)
        await until(config, f"{sku} is back", 1)
    said = capfd.readouterr()

    assert "canary" not in said.out + said.err
    assert "tried" in said.out + said.err
    async for key in redis.scan_iter(f"{config.key_prefix}*"):
        assert b"canary" not in (await redis.dump(key) or b"")
