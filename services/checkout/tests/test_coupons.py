"""Coupons: what they take off, when they are refused, and that used once means once."""

import asyncio
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer
from msgspec import structs

from chassis.database import Database
from checkout import app
from checkout.coupons import CartCoupon, Coupon, CouponTerms, Why, new_code
from checkout.domain import CancelRequested, Timers
from checkout.purchase import Means, Purchase
from checkout.quotes import Offer, Quote, quote
from checkout.settings import Settings
from checkout.store import tables
from checkout.store.coupons import Coupons
from checkout.store.orders import Orders
from checkout.store.problems import CodeTaken, CouponRefused
from checkout.totals import Breakdown, disagreements
from shop_contracts.events.stock import ReservationRejectedV1

Client = TestClient[Any, Any]
NOW = datetime(2026, 11, 1, tzinfo=UTC)
TEN = CouponTerms(code="TEN-OFF", kind="percent", value=1_000)


# ---- the words ----


def coupon(**changes: Any) -> Coupon:
    plain = Coupon(
        code="TEN-OFF",
        kind="percent",
        value=1_000,
        currency=None,
        min_minor=0,
        starts_at=None,
        ends_at=None,
        limit_total=None,
        limit_per_customer=None,
        disabled=False,
        used=0,
    )
    return structs.replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"disabled": True}, Why.DISABLED),
        ({"starts_at": NOW + timedelta(seconds=1)}, Why.NOT_YET),
        ({"starts_at": NOW}, None),
        ({"ends_at": NOW}, Why.EXPIRED),
        ({"ends_at": NOW + timedelta(seconds=1)}, None),
        ({"limit_total": 2, "used": 2}, Why.USED_UP),
        ({"limit_total": 2, "used": 1}, None),
        ({"limit_per_customer": 1}, Why.USED_BY_CUSTOMER),
        ({"limit_per_customer": 2}, None),
        ({"currency": "USD", "min_minor": 1}, Why.OTHER_CURRENCY),
        ({"currency": "EUR", "min_minor": 1_001}, Why.BELOW_MINIMUM),
        ({"currency": "EUR", "min_minor": 1_000}, None),
    ],
)
def test_a_coupon_says_why_it_cannot_be_used(changes: dict[str, Any], why: Why | None) -> None:
    found = coupon(**changes)

    assert why == found.refusal(NOW, currency="EUR", goods_minor=1_000, by_customer=1)


@pytest.mark.parametrize(
    "terms",
    [
        {"kind": "percent"},
        {"kind": "percent", "value": 10_001},
        {"kind": "amount", "value": 100},
        {"kind": "amount", "value": 0, "currency": "EUR"},
        {"kind": "free_shipping", "value": 1},
        {"kind": "percent", "value": 1, "min_minor": 1},
        {"kind": "percent", "value": 1, "limit_total": 0},
        {"kind": "percent", "value": 1, "code": "small"},
        {"kind": "percent", "value": 1, "code": "ABC"},
        {"kind": "percent", "value": 1, "starts_at": NOW, "ends_at": NOW},
        {"kind": "gift"},
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(terms, CouponTerms)


def test_a_made_code_is_a_code_and_no_two_are_alike() -> None:
    made = {new_code() for _ in range(100)}

    assert 100 == len(made)
    for code in made:
        assert code == msgspec.convert({"kind": "free_shipping", "code": code}, CouponTerms).code


# ---- used in the order's transaction ----


def with_coupon(found: Coupon, qty: int = 1) -> Quote:
    offers = {"LAMP-1": Offer(name="Lamp", prices={"EUR": 1_000})}
    return quote(
        {"LAMP-1": qty},
        offers,
        currency="EUR",
        preferred="EUR",
        coupon=CartCoupon(code=found.code),
        discount=found.discount,
    )


async def place(orders: Orders, found: Coupon, email: str = "ada@example.com") -> UUID:
    unique = secrets.token_hex(12)
    purchase = Purchase(email=email, payment=Means(token="tok_ok"))
    accepted = await orders.place(unique, unique, b"x" * 32, purchase, with_coupon(found))
    return accepted.order_id


async def used(database: Database, code: str) -> tuple[int, int]:
    """How often the coupon counts itself used, and by how many orders it is."""
    found = await Coupons(database).find(code)
    async with database.read() as connection:
        table = tables.coupon_uses
        query = sa.select(sa.func.count()).select_from(table).where(table.c.code == code)
        count = await connection.scalar(query)
    assert found is not None
    return found.used, count or 0


async def test_of_many_who_use_the_last_one_at_once_one_gets_it(database: Database) -> None:
    last = await Coupons(database).create(structs.replace(TEN, limit_total=1))
    processes = [Orders(database, Timers()) for _ in range(4)]

    results = await asyncio.gather(
        *(place(processes[n % 4], last, email=f"{n}@example.com") for n in range(24)),
        return_exceptions=True,
    )

    sold = [result for result in results if isinstance(result, UUID)]
    told = [result for result in results if isinstance(result, CouponRefused)]
    assert (1, 23) == (len(sold), len(told))
    assert {Why.USED_UP} == {refused.extensions["reason"] for refused in told}
    assert (1, 1) == await used(database, last.code)
    async with database.read() as connection:
        count = sa.select(sa.func.count()).select_from(tables.orders)
        assert 1 == await connection.scalar(count)


async def test_a_customers_limit_counts_whatever_the_letters_of_the_address(
    database: Database,
) -> None:
    once = await Coupons(database).create(structs.replace(TEN, limit_per_customer=1))
    processes = [Orders(database, Timers()) for _ in range(2)]

    results = await asyncio.gather(
        *(
            place(processes[n % 2], once, email=email)
            for n, email in enumerate(["Ada@Example.com", "ada@example.com", "bob@example.com"] * 3)
        ),
        return_exceptions=True,
    )

    assert 2 == sum(isinstance(result, UUID) for result in results)
    refused = [result for result in results if isinstance(result, CouponRefused)]
    assert {Why.USED_BY_CUSTOMER} == {each.extensions["reason"] for each in refused}
    assert (2, 2) == await used(database, once.code)


async def test_those_who_share_a_transaction_with_a_refused_one_are_not_refused(
    database: Database, orders: Orders
) -> None:
    last = await Coupons(database).create(structs.replace(TEN, limit_total=1))
    free = await Coupons(database).create(CouponTerms(code="FREE-1", kind="free_shipping"))

    results = await asyncio.gather(
        *(place(orders, each) for each in (last, last, free, free)), return_exceptions=True
    )

    assert 3 == sum(isinstance(result, UUID) for result in results)
    assert (1, 1) == await used(database, "TEN-OFF")
    assert (2, 2) == await used(database, "FREE-1")


async def test_a_cancelled_order_gives_its_coupon_back_once(
    database: Database, orders: Orders
) -> None:
    last = await Coupons(database).create(structs.replace(TEN, limit_total=1))
    by_customer = await place(orders, last)
    await orders.apply(by_customer, CancelRequested())
    by_stock = await place(orders, last)

    rejected = ReservationRejectedV1(order_id=by_stock, shortages=[])
    await asyncio.gather(*(orders.apply(by_stock, rejected) for _ in range(3)))

    assert (0, 0) == await used(database, last.code)
    assert isinstance(await place(orders, last), UUID)
    kept = await orders.view(by_stock)
    assert kept is not None
    assert "TEN-OFF" == kept.breakdown.coupon


async def test_a_coupon_that_was_disabled_meanwhile_is_not_used(
    database: Database, orders: Orders
) -> None:
    coupons = Coupons(database)
    found = await coupons.create(TEN)
    await coupons.disable(found.code, disabled=True)

    with pytest.raises(CouponRefused):
        await place(orders, found)

    assert (0, 0) == await used(database, found.code)


async def test_a_code_is_given_once(database: Database) -> None:
    coupons = Coupons(database)
    await coupons.create(TEN)

    with pytest.raises(CodeTaken):
        await coupons.create(TEN)

    assert ["TEN-OFF"] == [each.code for each in await coupons.page("", 9)]
    assert [] == await coupons.page("TEN-OFF", 9)


# ---- as programs and shoppers meet them ----

KEY = "key-0123456789abcdef"
BODY = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
connected = pytest.mark.connected


@pytest.fixture
async def coupons(own: Database, client: Client) -> Coupons:
    """The coupons of the service that `client` talks to: TEN-OFF for ten euros and more."""
    del client
    found = Coupons(own)
    await found.create(structs.replace(TEN, currency="EUR", min_minor=1_000))
    return found


async def a_cart(client: Client, qty: int = 1) -> str:
    async with client.post("/carts") as answer:
        cart = str((await answer.json())["cart_id"])
    async with client.put(f"/carts/{cart}/lines/LAMP-1", json={"qty": qty}) as answer:
        assert 200 == answer.status
    return cart


async def use(client: Client, cart: str, code: str, **headers: str) -> tuple[int, dict[str, Any]]:
    async with client.put(f"/carts/{cart}/coupon", json={"code": code}, headers=headers) as answer:
        return answer.status, await answer.json()


async def order(client: Client, cart: str, **more: Any) -> tuple[int, dict[str, Any]]:
    async with client.post(
        f"/carts/{cart}/checkout", json=BODY | more, headers={"Idempotency-Key": KEY}
    ) as answer:
        return answer.status, await answer.json()


@connected
async def test_a_coupon_is_put_into_a_cart_and_taken_out(client: Client, coupons: Coupons) -> None:
    cart = await a_cart(client)

    status, with_it = await use(client, cart, " ten-off ")
    async with client.put(f"/carts/{cart}/lines/LAMP-1", json={"qty": 2}) as answer:
        changed = await answer.json()
    async with client.delete(f"/carts/{cart}/coupon") as answer:
        without = await answer.json()

    assert (200, 1_125) == (status, with_it["total_minor"])
    assert {"code": "TEN-OFF", "refused": None} == with_it["coupon"]
    assert 2_250 == changed["total_minor"]
    assert (None, 2_500) == (without["coupon"], without["total_minor"])
    assert [2, 3, 4, 5] == [2, *(view["version"] for view in (with_it, changed, without))]


@connected
async def test_an_order_keeps_its_coupon_and_the_cart_has_none_afterwards(
    client: Client, coupons: Coupons
) -> None:
    cart = await a_cart(client)
    _, view = await use(client, cart, "TEN-OFF")

    status, accepted = await order(client, cart, quoted_total_minor=view["total_minor"])

    async with client.get(f"/orders/{accepted['order_id']}") as answer:
        kept = await answer.json()
    found = msgspec.convert(kept["breakdown"], Breakdown)
    assert 202 == status
    assert [] == disagreements(found)
    assert ("TEN-OFF", 125, 1_125) == (found.coupon, found.discount_minor, kept["total_minor"])
    ten = await coupons.find("TEN-OFF")
    assert ten is not None
    assert 1 == ten.used


@connected
@pytest.mark.parametrize(
    ("terms", "status", "slug", "reason"),
    [
        (None, 422, "unknown-coupon", None),
        ({"ends_at": NOW - timedelta(days=900)}, 409, "coupon-refused", "expired"),
        ({"currency": "USD"}, 409, "coupon-refused", "other_currency"),
        ({"currency": "EUR", "min_minor": 99_999}, 409, "coupon-refused", "below_minimum"),
    ],
)
async def test_a_code_that_cannot_be_used_is_refused_with_its_reason(
    client: Client,
    coupons: Coupons,
    terms: dict[str, Any] | None,
    status: int,
    slug: str,
    reason: str | None,
) -> None:
    if terms is not None:
        await coupons.create(CouponTerms(code="CODE", kind="percent", value=1, **terms))
    cart = await a_cart(client)

    answered, problem = await use(client, cart, "CODE")

    assert (status, f"urn:shop:problem:{slug}") == (answered, problem["type"])
    assert reason == problem.get("reason")
    async with client.get(f"/carts/{cart}") as answer:
        assert (await answer.json())["coupon"] is None


@connected
async def test_who_has_seen_a_discount_is_not_charged_without_it(
    client: Client, coupons: Coupons
) -> None:
    cart = await a_cart(client)
    _, view = await use(client, cart, "TEN-OFF")
    await coupons.disable("TEN-OFF", disabled=True)

    quoted, changed = await order(client, cart, quoted_total_minor=view["total_minor"])
    silent, refused = await order(client, cart)
    agreed, _ = await order(client, cart, quoted_total_minor=changed["total_minor"])

    assert (409, "urn:shop:problem:price-changed") == (quoted, changed["type"])
    assert {"code": "TEN-OFF", "refused": "disabled"} == changed["coupon"]
    assert (409, "disabled") == (silent, refused["reason"])
    assert 202 == agreed


@connected
async def test_codes_are_not_to_be_guessed_from_one_cart_nor_from_one_address(
    client: Client, coupons: Coupons
) -> None:
    cart = await a_cart(client)
    tries = [(await use(client, cart, f"GUESS-{n}"))[0] for n in range(21)]
    from_one = {"X-Forwarded-For": "192.0.2.7"}
    statuses = set()
    for _ in range(7):
        other = await a_cart(client)
        statuses |= {(await use(client, other, "GUESS", **from_one))[0] for _ in range(15)}

    async with client.put(f"/carts/{cart}/coupon", json={"code": "TEN-OFF"}) as answer:
        assert int(answer.headers["Retry-After"]) > 0
        assert "urn:shop:problem:too-many-tries" == (await answer.json())["type"]
    assert [422] * 20 + [429] == tries
    assert {422, 429} == statuses


@connected
@pytest.mark.parametrize("code", ["", "x" * 65, 5])
async def test_a_body_that_is_no_code_is_refused(client: Client, code: Any) -> None:
    status, _ = await use(client, await a_cart(client), code)

    assert 422 == status


@connected
async def test_a_stale_version_changes_no_coupon(client: Client, coupons: Coupons) -> None:
    cart = await a_cart(client)

    stale, _ = await use(client, cart, "TEN-OFF", **{"If-Match": '"1"'})
    fresh, _ = await use(client, cart, "TEN-OFF", **{"If-Match": '"2"'})
    gone, _ = await use(client, "A" * 32, "TEN-OFF")

    assert (412, 200, 404) == (stale, fresh, gone)


@connected
async def test_a_shopper_types_a_code_on_the_cart_page(client: Client, coupons: Coupons) -> None:
    async with client.post("/cart/lines", data={"sku": "LAMP-1"}, allow_redirects=False) as answer:
        assert 303 == answer.status
    async with client.post("/cart/coupon", data={"code": "<b>"}) as answer:
        wrong = await answer.text()
    async with client.post(
        "/cart/coupon", data={"code": "ten-off"}, allow_redirects=False
    ) as answer:
        assert (303, "/cart") == (answer.status, answer.headers["Location"])
    async with client.get("/cart") as answer:
        html = await answer.text()
    await coupons.disable("TEN-OFF", disabled=True)
    async with client.get("/cart") as answer:
        off = await answer.text()
    async with client.post("/cart/coupon/remove", data={}, allow_redirects=False) as answer:
        assert 303 == answer.status

    assert "There is no coupon of this code" in wrong
    assert "<b>" not in wrong
    assert "Coupon TEN-OFF" in html
    assert "€11.25" in html
    assert "-€1.25" in html
    assert "The coupon is no longer valid." in off
    assert "€11.25" not in off


@connected
async def test_who_runs_the_shop_makes_lists_and_disables_coupons(
    settings: Settings, own: Database, keys: dict[str, str], tmp_path: Any
) -> None:
    del own
    file = tmp_path / "keys.json"
    file.write_text(keys["file"])
    admin = {"Authorization": f"Bearer {keys['key']}"}
    served = app.application(structs.replace(settings, api_keys_file=str(file)))
    async with TestClient(TestServer(served)) as client:
        body = {"kind": "amount", "value": 500, "currency": "EUR", "limit_total": 1}
        async with client.post("/coupons", json=body, headers=admin) as answer:
            made = await answer.json()
            where = answer.headers["Location"]
            assert 201 == answer.status
        async with client.post("/coupons", json=body | {"code": made["code"]}, headers=admin) as a:
            assert 409 == a.status
        async with client.get("/coupons", headers=admin) as answer:
            listed = await answer.json()
        async with client.patch(where, json={"disabled": True}, headers=admin) as answer:
            off = await answer.json()
        async with client.get(where, headers=admin) as answer:
            seen = await answer.json()
        unknown = [
            (await client.get("/coupons/NONE", headers=admin)).status,
            (await client.patch("/coupons/NONE", json={"disabled": True}, headers=admin)).status,
            (await client.post("/coupons", json={"kind": "amount"}, headers=admin)).status,
        ]
        refused = {(await client.get(path)).status for path in ("/coupons", where)} | {
            (await client.post("/coupons", json=body)).status
        }

    assert f"/coupons/{made['code']}" == where
    assert ([made], None) == (listed["coupons"], listed["next"])
    assert off == seen == made | {"disabled": True}
    assert [404, 404, 422] == unknown
    assert {401} == refused


@pytest.fixture
def keys() -> dict[str, str]:
    """A key with the scope of coupons, and the file that knows it."""
    key = "k_admin_of-the-tests"
    entry = {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": ["coupons:write"]}
    return {"key": key, "file": msgspec.json.encode({"admin": entry}).decode()}
