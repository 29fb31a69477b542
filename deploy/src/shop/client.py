"""A user of a running shop: its HTTP API through the edge and its events. Knows no store.

The demo and the whole-system tests are written with it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Self, TypeVar

import aiohttp

from bus import replay
from bus.replay import Logged
from shop.profiles import Profile
from shop.secrets import api_key
from shop.servers import SERVICES, amqp

T = TypeVar("T")

DEADLINE_SECONDS = 30.0
ENDED = frozenset({"confirmed", "cancelled"})


class Unexpected(Exception):
    """The shop answered otherwise than asked for, or not in time."""


async def until(
    look: Callable[[], Awaitable[T]],
    holds: Callable[[T], bool],
    *,
    within: float = DEADLINE_SECONDS,
    every: float = 0.05,
) -> T:
    """What `look` sees once it `holds`. Raises `Unexpected` with the last sight when time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not holds(seen := await look()):
        if loop.time() > end:
            raise Unexpected(f"not within {within} s, at last: {seen!r}")
        await asyncio.sleep(every)
    return seen


class ShopClient:
    """Speaks to one running shop, as a shopper and as its operator."""

    def __init__(self, http: aiohttp.ClientSession, edge: str, key: str, broker_url: str) -> None:
        self.http = http
        self.edge = edge
        self.admin = {"Authorization": f"Bearer {key}"}
        self.broker_url = broker_url

    @classmethod
    @asynccontextmanager
    async def open(cls, profile: Profile) -> AsyncIterator[Self]:
        """The client of the shop that runs in this profile."""
        async with aiohttp.ClientSession() as http:
            yield cls(http, profile.url("edge"), api_key(profile), amqp(profile, "admin"))

    async def reachable(self) -> None:
        """Wait until the edge reaches every service; it asks for their health now and then."""

        async def missing() -> list[str]:
            answers = {name: await self.status(f"/api/{name}/openapi.json") for name in SERVICES}
            return [name for name, status in answers.items() if status != HTTPStatus.OK]

        await until(missing, lambda names: not names)

    async def status(self, path: str) -> int:
        """The status that anybody gets at the edge's `path`."""
        async with self.http.get(self.edge + path) as answer:
            return answer.status

    async def send(
        self, method: str, path: str, body: Any = None, *, status: int = 200, **headers: str
    ) -> Any:
        """Send JSON as the operator; the parsed answer, None where it is empty.

        `path` is the edge's, such as `/api/products`. Raises `Unexpected` on another status.
        """
        async with self.http.request(
            method, self.edge + path, json=body, headers=self.admin | headers
        ) as answer:
            text = await answer.text()
            if answer.status != status:
                raise Unexpected(f"{method} {path}: {answer.status} {text}")
            return await answer.json() if text else None

    async def get(self, path: str, **query: str) -> Any:
        """The JSON that anybody gets at the edge's `path`."""
        async with self.http.get(self.edge + path, params=query) as answer:
            if answer.status != HTTPStatus.OK:
                raise Unexpected(f"GET {path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def found(self, sku: str, **query: str) -> list[dict[str, Any]]:
        """The hits of a search for that SKU."""
        answer = await self.get("/api/search", q=sku, **query)
        return [hit for hit in answer["hits"] if sku in hit["skus"]]

    async def put_product(self, *, price: int = 1_000, stock: int = 10, name: str = "Lamp") -> str:
        """A new product with one variant at a price in minor euros, searchable; its SKU."""
        sku = f"T-{secrets.token_hex(4)}".upper()
        product = {"name": f"{name} {sku}", "variants": [{"sku": sku}]}
        await self.send("POST", "/api/products", product, status=201)
        prices = {"prices": [{"currency": "EUR", "amount_minor": price}]}
        await self.send("PUT", f"/api/products/{sku}/prices", prices)
        await self.send("PUT", f"/api/products/{sku}/stock", {"stock": stock, "action": "set"})
        await until(
            lambda: self.found(sku),
            lambda hits: (
                bool(hits) and hits[0]["price"] == price and hits[0]["in_stock"] == bool(stock)
            ),
        )
        return sku

    async def order(self, *lines: tuple[str, int], token: str = "tok_ok") -> str:  # noqa: S107
        """Put the lines into a new cart and check out; the order's id."""
        cart = (await self.send("POST", "/api/carts", status=201))["cart_id"]
        for sku, qty in lines:
            await self.add(cart, sku, qty)
        placed = await self.send(
            "POST",
            f"/api/carts/{cart}/checkout",
            {"email": "ada@example.com", "payment": {"token": token}},
            status=202,
            **{"Idempotency-Key": secrets.token_hex(16)},
        )
        return str(placed["order_id"])

    async def add(self, cart: str, sku: str, qty: int) -> None:
        """Put a line into a cart; waits for its price, which checkout hears of by event."""
        path = f"{self.edge}/api/carts/{cart}/lines/{sku}"

        async def put() -> int:
            async with self.http.put(path, json={"qty": qty}) as answer:
                return answer.status

        await until(put, lambda status: status == HTTPStatus.OK)

    async def ended(self, order_id: str) -> Any:
        """The order, once it is confirmed or cancelled."""
        return await until(
            lambda: self.get(f"/api/orders/{order_id}"), lambda order: order["status"] in ENDED
        )

    async def events(self, owner: str, since: int) -> list[Logged]:
        """The events of `owner` from that place in its stream to its end."""
        stop = await replay.end(self.broker_url, owner)
        return [one async for one in replay.until(self.broker_url, owner, since, stop)]

    async def end_of(self, owner: str) -> int:
        """The place in the owner's stream where the next event will stand."""
        return await replay.end(self.broker_url, owner)
