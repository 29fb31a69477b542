"""Orders while every process they need is killed, one after the other: none is lost or paid twice.

A stack of its own: what is killed here is nobody else's. The payment provider fails as well.
"""

import asyncio
import fcntl
import random
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from rich.console import Console

from shop import setup, verify
from shop.client import until
from shop.secrets import api_key
from shop.stack import Stack

pytestmark = pytest.mark.connected

OURS = [
    *("checkout-api", "checkout-relay", "checkout-worker", "checkout-notify"),
    *("stock-api", "stock-relay", "stock-worker", "stock-notify", "stock-journal"),
    "payments-simulator",
]
STORES = ["redis-stock", "redis-carts", "rabbitmq", "mariadb"]
KILLED = [*OURS[:-1], *STORES]
TOKENS = ["tok_ok"] * 16 + ["tok_decline", "tok_error_once", "tok_capture_refused", "tok_no_funds"]
PLENTY, SCARCE = [f"PLENTY-{n}" for n in range(8)], "SCARCE"
COUPON = "ONE-IN-TWENTY"
HOLD_SECONDS = 120
ASK_SECONDS = 10
ENDS = {"confirmed", "cancelled"}
FAULTS = ["error", "error_after", "lose_request", "lose_answer", "in_use"]


@pytest.fixture(scope="module")
async def orders_stack() -> AsyncIterator[Stack]:
    """Checkout, stock, the provider and their servers, with empty stores."""
    stack = Stack.open("orders", mariadb=True)
    turn = (stack.profile.var / "tests.lock").open("w")
    await asyncio.to_thread(fcntl.flock, turn, fcntl.LOCK_EX)
    await asyncio.to_thread(stack.down)
    for name in (*STORES, "checkout", "stock", "payments"):
        shutil.rmtree(stack.profile.folder(name), ignore_errors=True)
    try:
        await asyncio.to_thread(setup.up, stack, Console(quiet=True), only=OURS)
        yield stack
    finally:
        await asyncio.to_thread(stack.down)
        turn.close()


class Shopper:
    """Buys one thing, and asks again whenever it is not told what became of it."""

    def __init__(self, http: aiohttp.ClientSession, stack: Stack) -> None:
        self._http = http
        self._shop = stack.profile.url("checkout")
        self._stock = stack.profile.url("stock")
        self._admin = {"Authorization": f"Bearer {api_key(stack.profile)}"}
        self.accepted: dict[str, str] = {}
        self.again = 0

    async def buys(
        self, sku: str, token: str, *, coupon: bool = False, reserved: bool = False
    ) -> None:
        while not await self._once(sku, token, coupon, reserved):
            self.again += 1  # the cart or its coupon is gone: a new one, and a new key

    async def _once(self, sku: str, token: str, coupon: bool, reserved: bool) -> bool:
        cart = (await self.asks("POST", "/carts"))[1]["cart_id"]
        if (await self.asks("PUT", f"/carts/{cart}/lines/{sku}", {"qty": 1}))[0] != 200:
            return False
        if coupon:
            # tries are counted by the address that the edge tells; who comes too late goes without
            address = {"X-Forwarded-For": ".".join(map(str, random.randbytes(4)))}
            await self.asks("PUT", f"/carts/{cart}/coupon", {"code": COUPON}, address)
        purchase: dict[str, Any] = {"email": "ada@example.com", "payment": {"token": token}}
        if reserved:
            purchase["reservation_id"] = await self.reserves(sku)
        status, answer = await self.asks(
            "POST",
            f"/carts/{cart}/checkout",
            purchase,
            {"Idempotency-Key": secrets.token_hex(16)},
        )
        if status != 202:
            return False
        self.accepted[answer["order_id"]] = sku
        return True

    async def reserves(self, sku: str) -> str:
        """The id of a reservation; where there is too little of it, it holds nothing."""
        wanted = {"id": str(uuid4()), "lines": [{"sku": sku, "qty": 1}]}
        status, answer = await self.asks(
            "POST",
            "/reservations",
            wanted | {"hold_seconds": HOLD_SECONDS},
            self._admin,
            shop=self._stock,
        )
        assert status in {201, 409}, answer
        return wanted["id"]

    async def asks(
        self, method: str, path: str, body: Any = None, headers: Any = None, shop: str = ""
    ) -> tuple[int, Any]:
        """The answer, once there is one that is not "later"; `shop` is checkout by itself."""
        while True:
            try:
                async with self._http.request(
                    method, (shop or self._shop) + path, json=body, headers=headers
                ) as answer:
                    said = await answer.json(content_type=None)
                    if answer.status < 500:
                        return answer.status, said
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            self.again += 1
            await asyncio.sleep(random.uniform(0.05, 0.5))

    async def ended(self) -> Counter[tuple[str, str | None]]:
        """How the accepted orders stand."""
        seen: Counter[tuple[str, str | None]] = Counter()
        for order_id in self.accepted:
            status, order = await self.asks("GET", f"/orders/{order_id}")
            assert 200 == status, f"{order_id} was answered 202 and is gone"
            seen[order["status"], order["reason"]] += 1
        return seen


async def stocked(http: aiohttp.ClientSession, stack: Stack, levels: dict[str, int]) -> None:
    admin = {"Authorization": f"Bearer {api_key(stack.profile)}"}
    for sku, units in levels.items():
        url = stack.profile.url("stock", path=f"/products/{sku}")
        price = {"prices": [{"currency": "EUR", "amount_minor": 1_999}]}
        for path, body in (("stock", {"stock": units, "action": "set"}), ("prices", price)):
            async with http.put(f"{url}/{path}", json=body, headers=admin) as answer:
                assert answer.status in {200, 201}, await answer.text()


async def promised(http: aiohttp.ClientSession, stack: Stack, times: int) -> None:
    """A coupon that so many orders may use."""
    admin = {"Authorization": f"Bearer {api_key(stack.profile)}"}
    terms = {"code": COUPON, "kind": "percent", "value": 1_000, "limit_total": times}
    async with http.post(
        stack.profile.url("checkout", path="/coupons"), json=terms, headers=admin
    ) as answer:
        assert answer.status in {201, 409}, await answer.text()


async def fails(http: aiohttp.ClientSession, stack: Stack, faults: list[str]) -> None:
    """Let the provider fail now and then, and its webhooks come doubled, late and out of order."""
    script = {
        "faults": [{"does": does, "times": 1_000_000, "chance": 0.01} for does in faults],
        "webhooks": {"copies": 2, "jitter_s": 1.0, "lost": 0.1},
    }
    url = stack.profile.url("payments-simulator", path="/simulator/script")
    async with http.put(url, json=script) as answer:
        assert 200 == answer.status


async def survive(stack: Stack, orders: int, at_once: int, within: float) -> Counter[Any]:
    """Place so many orders while each process is killed in turn; how they end."""
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        await stocked(http, stack, {**dict.fromkeys(PLENTY, orders), SCARCE: orders // 40})
        await promised(http, stack, orders // 20)
        await fails(http, stack, FAULTS)
        shopper = Shopper(http, stack)
        left = iter(range(orders))

        async def buy() -> None:
            for _ in left:
                sku = SCARCE if random.random() < 0.05 else random.choice(PLENTY)
                await shopper.buys(
                    sku,
                    random.choice(TOKENS),
                    coupon=random.random() < 0.1,
                    reserved=random.random() < 0.1,
                )

        async def kill() -> None:
            for turn, name in enumerate(KILLED, 1):
                reached = orders * turn // (len(KILLED) + 1)
                while len(shopper.accepted) < reached:
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(stack.kill, name)

        await asyncio.gather(kill(), *(buy() for _ in range(at_once)))
        seen = await until(
            shopper.ended, lambda seen: {end for end, _ in seen} <= ENDS, within=within, every=1
        )
    assert [] == await verify.settled(stack.profile, mariadb=stack.mariadb, within=within)
    books = await verify.read(stack.profile, mariadb=stack.mariadb)
    assert set(shopper.accepted) <= books.orders.keys()
    captured = Counter(move.order for move in books.money if move.op == "captured")
    assert {1} == set(captured.values())
    assert books.coupons[COUPON].used > 0
    taken = Counter(hold.state for hold in books.holds.values())
    assert taken["taken"] > 0, taken
    print(f"acked {len(shopper.accepted)}, asked again {shopper.again}: {dict(seen)}")  # noqa: T201
    return seen


async def test_every_accepted_order_ends_while_each_process_is_killed_in_turn(
    orders_stack: Stack,
) -> None:
    seen = await survive(orders_stack, 200, at_once=12, within=180)

    assert 200 <= seen.total()
    assert all(reason for (end, reason), _ in seen.items() if end == "cancelled")
    assert seen["confirmed", None] > 100


@pytest.mark.long
async def test_five_thousand_accepted_orders_end_while_each_process_is_killed_in_turn(
    orders_stack: Stack,
) -> None:
    seen = await survive(orders_stack, 5_000, at_once=24, within=300)

    assert 5_000 <= seen.total()
    assert seen["confirmed", None] > 3_000


async def gives_back(stack: Stack, orders: int, killed: list[str], within: float) -> None:
    """Buy, send and give back so many orders, while those who work on it are killed."""
    sku = f"BACK-{secrets.token_hex(4)}"
    admin = {"Authorization": f"Bearer {api_key(stack.profile)}"}
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        await stocked(http, stack, {sku: 2 * orders})
        await fails(http, stack, FAULTS)
        shopper = Shopper(http, stack)
        await asyncio.gather(*(shopper.buys(sku, "tok_ok") for _ in range(orders)))
        await until(
            shopper.ended, lambda seen: {end for end, _ in seen} <= ENDS, within=within, every=1
        )
        units = {"lines": [{"sku": sku, "qty": 1}], "carrier": "Ship & Co", "tracking": "T-1"}
        back = {"lines": [{"sku": sku, "qty": 1, "restock": True}]}
        for number, order_id in enumerate(shopper.accepted):
            headers = admin | {"Idempotency-Key": f"back-{order_id}"}
            for what, body in (("shipments", units), ("refunds", back)):
                status, answer = await shopper.asks(
                    "POST", f"/orders/{order_id}/{what}", body, headers
                )
                assert status in {201, 202}, answer
            if killed and number % (orders // len(killed)) == 1:
                await asyncio.to_thread(stack.kill, killed[number // (orders // len(killed))])
    assert [] == await verify.settled(stack.profile, mariadb=stack.mariadb, within=within)
    books = await verify.read(stack.profile, mariadb=stack.mariadb)
    followed = [books.follows[order_id] for order_id in shopper.accepted]
    assert {("done", 1)} == {(one.refunds[0].state, len(one.parcels)) for one in followed}
    assert (2 * orders, 0) == (books.units[sku].available, books.units[sku].sold)


async def test_what_is_given_back_is_for_sale_again(orders_stack: Stack) -> None:
    await gives_back(orders_stack, 5, [], within=120)


@pytest.mark.long
async def test_what_is_given_back_is_for_sale_again_though_its_workers_are_killed(
    orders_stack: Stack,
) -> None:
    await gives_back(orders_stack, 20, ["checkout-worker", "stock-worker"], within=180)


async def rush(stack: Stack, shoppers: int, units: int, seconds: float) -> Counter[Any]:
    """So many shoppers come within so many seconds for so few units; how their orders end."""
    sku = f"RUSH-{secrets.token_hex(4)}"
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=500)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        await stocked(http, stack, {sku: units})
        await fails(http, stack, [])
        shopper = Shopper(http, stack)

        async def comes(number: int) -> None:
            await asyncio.sleep(seconds * number / shoppers)
            await shopper.buys(sku, "tok_ok")

        await asyncio.gather(*(comes(number) for number in range(shoppers)))
        seen = await until(
            shopper.ended, lambda seen: {end for end, _ in seen} <= ENDS, within=300, every=1
        )
    assert [] == await verify.settled(stack.profile, mariadb=stack.mariadb, within=60)
    return seen


async def test_a_rush_sells_every_unit_once_and_tells_the_others(orders_stack: Stack) -> None:
    seen = await rush(orders_stack, 200, 20, seconds=3)

    assert {("confirmed", None): 20, ("cancelled", "out_of_stock"): 180} == seen


@pytest.mark.long
async def test_a_rush_of_five_thousand_within_a_minute_sells_five_hundred_units(
    orders_stack: Stack,
) -> None:
    seen = await rush(orders_stack, 5_000, 500, seconds=60)

    assert {("confirmed", None): 500, ("cancelled", "out_of_stock"): 4_500} == seen
