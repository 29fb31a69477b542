"""Strings that exist nowhere else walk through the whole shop: where they stand, and where not."""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pypdfium2 as pdfium
import pytest
import sqlalchemy as sa
from aiohttp import ClientSession, DummyCookieJar
from elasticsearch import AsyncElasticsearch
from elasticsearch.helpers import async_scan
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from bus.broker import connected
from shop.client import ShopClient, until
from shop.servers import mariadb_url
from shop.services import prepare
from shop.stack import Stack

pytestmark = pytest.mark.connected

INVOICES = {"invoices"}
"""The law wants them kept as they are; the PDF beside them is compressed."""
PERSONAL = {"order_private", "customers", "addresses"}
"""The tables that may know a person; `deliveries` does until a mail has gone."""
HTML = {"Accept": "text/html"}


class Person(Struct):
    """Somebody whose every word can be found again."""

    mark: str
    cookies: dict[str, str] = {}
    secrets: list[str] = []

    @property
    def email(self) -> str:
        return f"{self.mark}@example.com"

    @property
    def address(self) -> dict[str, str]:
        place = {"city": f"City {self.mark}", "postcode": "50667", "country": "DE"}
        return {"street": f"Street {self.mark}", **place}

    @property
    def billing(self) -> dict[str, str]:
        return self.address | {"name": f"Office {self.mark}"}

    @property
    def words(self) -> list[str]:
        """All that must not be found elsewhere."""
        return [self.mark, *self.secrets, *self.cookies.values()]


class Walk:
    """A person's way through the edge."""

    def __init__(self, shop: ShopClient, native: Stack, http: ClientSession) -> None:
        self.person = Person(mark=f"c4nary{secrets.token_hex(6)}")
        self.shop = shop
        self._http = http
        self._profile = native.profile

    def cookie(self, whose: Person | None = None) -> str:
        """The header that a browser would send."""
        kept = (whose or self.person).cookies
        return "; ".join(f"{name}={value}" for name, value in kept.items())

    async def send(
        self, method: str, path: str, *, as_whom: Person | None = None, **sent: Any
    ) -> tuple[int, dict[str, str], str]:
        who = as_whom or self.person
        headers = {"Cookie": self.cookie(who)} | sent.pop("headers", {})
        async with self._http.request(
            method, self.shop.edge + path, headers=headers, allow_redirects=False, **sent
        ) as answer:
            for name, morsel in answer.cookies.items():
                who.cookies[name] = morsel.value
                if not morsel.value:
                    del who.cookies[name]
            return answer.status, dict(answer.headers), await answer.text()

    async def mails(self, service: str = "checkout") -> list[EmailMessage]:
        """What the person has been sent."""
        folder = self._profile.folder("mails", service)
        mails = [await asyncio.to_thread(path.read_bytes) for path in folder.glob("*.eml")]
        parsed = [message_from_bytes(mail, policy=policy.default) for mail in mails]
        return [mail for mail in parsed if self.person.email in str(mail["To"])]

    async def invoiced(self, order_id: str) -> str:
        """What stands on the invoice of the order, once it can be read."""
        path = f"/orders/{order_id}/invoice.pdf"

        async def look() -> tuple[int, dict[str, str], bytes]:
            async with self._http.get(
                self.shop.edge + path, headers={"Cookie": self.cookie()}
            ) as answer:
                return answer.status, dict(answer.headers), await answer.read()

        _, headers, pdf = await until(look, lambda seen: seen[0] == 200)
        assert "private, no-store" == headers["Cache-Control"]
        assert 404 == (await self.send("GET", path, as_whom=Person(mark="nobody")))[0]
        pages = pdfium.PdfDocument(pdf)
        return "\n".join(page.get_textpage().get_text_range() for page in pages)

    async def sign_in(self) -> None:
        status, _, _ = await self.send("POST", "/sign-in", data={"email": self.person.email})
        assert 200 == status

        (mail,) = await until(self.mails, bool)
        text = str(mail.get_content())
        link = re.search(re.escape(self.shop.edge) + r"(/sign-in/confirm\?token=(\S+))", text)
        assert link is not None, text
        self.person.secrets.append(link[2])
        await self.send("GET", link[1], headers=HTML)
        status, _, _ = await self.send("POST", "/sign-in/confirm", data={"token": link[2]})
        assert 303 == status
        assert "__Host-session" in self.person.cookies

    async def webhook(self) -> str:
        """A receiver that nobody is, with a secret and the one before."""
        wanted = {
            "url": f"https://nobody.example/{secrets.token_hex(8)}",
            "types": ["order.confirmed"],
        }
        made = await self.shop.send("POST", "/api/webhooks", wanted)
        hook = str(made["webhook"]["id"])
        newer = await self.shop.send("POST", f"/api/webhooks/{hook}/secret")
        self.person.secrets += [made["secret"], newer["secret"]]
        return hook

    async def order(self, token: str, **where: Any) -> str:
        cart = await self.shop_json("GET", "/api/me/cart")
        purchase = {
            "email": self.person.email,
            "billing_address": self.person.billing,
            "payment": {"token": token},
        }
        key = {"Idempotency-Key": secrets.token_urlsafe(24)}
        path = f"/api/carts/{cart['cart_id']}/checkout"
        order = await self.shop_json("POST", path, status=202, json=purchase | where, headers=key)
        return str(order["order_id"])

    async def ended(self, order_id: str) -> str:
        async def look() -> Any:
            return await self.shop_json("GET", f"/api/orders/{order_id}")

        order = await until(look, lambda view: view["status"] in {"confirmed", "cancelled"})
        return str(order["status"])

    async def shop_json(self, method: str, path: str, *, status: int = 200, **sent: Any) -> Any:
        found, _, text = await self.send(method, path, **sent)
        assert status == found, text
        return json.loads(text) if text else None


@pytest.fixture
async def walk(shop: ShopClient, native: Stack) -> AsyncIterator[Walk]:
    async with ClientSession(cookie_jar=DummyCookieJar()) as http:
        yield Walk(shop, native, http)


async def test_a_person_is_known_to_the_tables_that_may_and_to_nobody_else(
    walk: Walk, stack: Any, native: Stack
) -> None:
    shop, person = walk.shop, walk.person
    sku = await shop.put_product(stock=5)
    async with wiretapped(shop) as wiretap:
        await until(
            lambda: walk.send("POST", "/cart/lines", data={"sku": sku}), lambda a: a[0] == 303
        )
        await walk.sign_in()
        await walk.send("POST", "/me/name", data={"name": f"Name {person.mark}"})
        kept = walk.person.address | {"name": f"Name {person.mark}", "area": ""}
        assert 303 == (await walk.send("POST", "/me/address", data=kept))[0]
        (saved,) = (await walk.shop_json("GET", "/api/me/addresses"))["addresses"]
        hook = await walk.webhook()
        person.secrets.append(card := f"tok_{person.mark}")
        declined = await walk.order(card, name=f"Name {person.mark}", address=person.address)
        assert "cancelled" == await walk.ended(declined)
        confirmed = await walk.order("tok_ok", address_id=saved["address_id"])
        assert "confirmed" == await walk.ended(confirmed)
        printed = await walk.invoiced(confirmed)
        assert all(said in printed for said in (f"Office {person.mark}", f"Name {person.mark}"))
        await until(walk.mails, lambda mails: any([*mail.iter_attachments()] for mail in mails))
        pages = ["/me", "/me/export", "/api/me", "/api/me/orders", "/cart", "/checkout"]
        pages += [f"/orders/{confirmed}", f"/api/orders/{confirmed}", "/fragments/cart"]
        await _look_at_caches(walk, pages, sku)
        await shop.send("GET", f"/api/search?q={sku}")

        events = await _heard(wiretap)

    assert any(confirmed in event for event in events)
    _assert_without(person, {"events": "\n".join(events)})
    _assert_without(person, await _redis(stack.redis_carts_url))
    _assert_without(person, await _redis(stack.redis_stock_url))
    _assert_without(person, await _archive(stack.elasticsearch_url, (declined, confirmed)))
    _assert_without(person, await _processes(native))
    _assert_without(person, await _logs(walk, native))
    # a mail that has yet to go says whom it is for
    await until(lambda: _tables(native, [person.mark]), lambda seen: seen == PERSONAL | INVOICES)
    link, secret, newer, _ = person.secrets
    assert set() == await _tables(native, [person.cookies["__Host-session"], link])
    assert {"webhooks"} == await _tables(native, [secret]) == await _tables(native, [newer])
    await shop.send("DELETE", f"/api/webhooks/{hook}", status=204)

    parcel = {"lines": [{"sku": sku, "qty": 1}], "carrier": "Post"}
    key = {"Idempotency-Key": secrets.token_urlsafe(24)}
    await shop.send("POST", f"/api/orders/{confirmed}/shipments", parcel, status=201, **key)

    assert 204 == (await walk.send("DELETE", "/api/me"))[0]

    assert INVOICES == await _tables(native, person.words)
    assert 404 == (await walk.send("GET", f"/api/orders/{confirmed}"))[0]


async def test_the_address_of_an_alert_is_known_to_its_table_until_it_stops(
    walk: Walk, stack: Any, native: Stack
) -> None:
    shop, person = walk.shop, walk.person
    sku = await shop.put_product(stock=0)
    async with wiretapped(shop) as wiretap:
        wish = {"sku": sku, "when": "back_in_stock", "email": person.email}
        await shop.send("POST", "/api/alerts", wish, status=202)
        (promised,) = await until(lambda: walk.mails("stock"), bool)
        events = await _heard(wiretap)

    _assert_without(person, {"events": "\n".join(events)})
    for url in (stack.redis_stock_url, stack.redis_carts_url):
        _assert_without(person, await _redis(url))
    _assert_without(person, await _processes(native))
    _assert_without(person, await _logs(walk, native))
    told = [person.mark]
    await until(lambda: _tables(native, told, "stock"), lambda seen: seen == {"alerts"})

    stop = re.search(r"/alerts/[0-9a-f-]{36}", promised.get_content())
    assert stop is not None
    assert 200 == (await walk.send("POST", stop[0], data={}))[0]

    assert set() == await _tables(native, told, "stock") | await _tables(native, told)


@asynccontextmanager
async def wiretapped(shop: ShopClient) -> AsyncIterator[Any]:
    """A queue that gets a copy of every event."""
    async with connected(shop.broker_url, "tests") as connection:
        channel = await connection.channel()
        wiretap = await channel.declare_queue(exclusive=True, auto_delete=True)
        for owner in ("catalog", "stock", "search", "checkout"):
            await wiretap.bind(f"{owner}.events", "#")
        yield wiretap


async def _look_at_caches(walk: Walk, pages: Iterable[str], sku: str) -> None:
    """Nobody gets what a page of the person's said, whatever stands between."""
    nobody = Person(mark="nobody")
    slug = (await walk.shop.found(sku))[0]["slug"]
    for path in pages:
        for _ in range(2):
            status, headers, _ = await walk.send("GET", path, headers=HTML)
            assert status in {200, 303}, path
            assert "private, no-store" == headers["Cache-Control"], path
            assert "pass" == headers["X-Cache"], path
        for tail in ("", "?x.css", "/x.css"):
            _, headers, text = await walk.send("GET", path + tail, as_whom=nobody, headers=HTML)
            assert walk.person.mark not in text, path + tail
            assert "hit" != headers["X-Cache"], path + tail
    for path in ("/", f"/p/{slug}", f"/s?q={sku}", "/fragments/nav"):
        for whom in (walk.person, nobody):
            _, headers, text = await walk.send("GET", path, as_whom=whom, headers=HTML)
            assert "Set-Cookie" not in headers, path
            assert walk.person.mark not in text, path


async def _heard(wiretap: Any) -> list[str]:
    """Every message, with its headers and properties, until the broker has been quiet a while."""
    found: list[str] = []
    quiet = 0
    while quiet < 20:
        message = await wiretap.get(no_ack=True, fail=False)
        if message is None:
            quiet += 1
            await asyncio.sleep(0.05)
            continue
        quiet = 0
        found.append(f"{message.body!r} {message.headers} {message.info()}")
    return found


async def _redis(url: str) -> dict[str, str]:
    """Every key with its value."""
    reads = {
        "string": lambda redis, key: redis.get(key),
        "hash": lambda redis, key: redis.hgetall(key),
        "set": lambda redis, key: redis.smembers(key),
        "zset": lambda redis, key: redis.zrange(key, 0, -1),
        "list": lambda redis, key: redis.lrange(key, 0, -1),
        "stream": lambda redis, key: redis.xrange(key),
    }
    found = {}
    async with Redis.from_url(url, decode_responses=True) as redis:
        async for key in redis.scan_iter(count=1_000):
            kind = await redis.type(key)
            found[key] = f"{key} {await reads[kind](redis, key) if kind in reads else ''}"
    return found


async def _archive(url: str, orders: Iterable[str]) -> dict[str, str]:
    """What search keeps of events about these orders."""
    about = {"query": {"query_string": {"query": " OR ".join(f'"{id_}"' for id_ in orders)}}}
    async with AsyncElasticsearch(url) as client:
        return {
            hit["_id"]: str(hit)
            async for hit in async_scan(client, index="search-*,catalog-*", query=about)
        }


async def _processes(native: Stack) -> dict[str, str]:
    """What every process of ours tells of itself."""
    async with ClientSession() as http:
        found = {}
        for process in prepare(native.profile, mariadb=native.mariadb):
            async with http.get(f"http://127.0.0.1:{process.port}/metrics") as answer:
                found[process.name] = await answer.text()
    return found


async def _logs(walk: Walk, native: Stack) -> dict[str, str]:
    """Everything that is written down, once nginx has written what it held back."""
    access = native.profile.folder("nginx") / "access.log"
    last = f"/p/last-{secrets.token_hex(4)}"
    await walk.send("GET", last)

    async def text() -> str:
        return await asyncio.to_thread(access.read_text)

    found = {"access.log": await until(text, lambda written: last in written)}
    logs = native.profile.folder("log")
    return found | {path.name: path.read_text("utf-8", "replace") for path in logs.iterdir()}


async def _tables(native: Stack, words: Iterable[str], owner: str = "checkout") -> set[str]:
    """The tables of the service in which one of the words stands."""
    sqlite = native.profile.folder(owner) / f"{owner}.sqlite"
    url = (
        mariadb_url(native.profile, owner, owner)
        if native.mariadb
        else f"sqlite+aiosqlite:///{sqlite}"
    )
    engine, found = create_async_engine(url), set()
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda bound: sa.inspect(bound).get_table_names())
        for name in names:
            for row in await connection.execute(sa.text(f"SELECT * FROM {name}")):
                if any(word in repr(tuple(row)) for word in words):
                    found.add(name)
    await engine.dispose()
    return found


def _assert_without(person: Person, places: dict[str, str]) -> None:
    for place, text in places.items():
        for word in person.words:
            assert word not in text, f"{word} stands in {place}"
