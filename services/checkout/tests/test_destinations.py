"""Where an order and its bill go: of the book or written, checked, kept, and nobody else's."""

import re
import secrets
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa

from chassis.database import Database
from checkout.store import tables

pytestmark = pytest.mark.connected

Browsers = Callable[[], Any]
PLACE = {"street": "Domstraße 1", "city": "Köln", "area": "", "postcode": "50667", "country": "DE"}
HOME = PLACE | {"name": "Ada Lovelace"}
OFFICE = HOME | {"name": "Engines Ltd", "street": "Ring 2", "postcode": "50668"}
SIGNED_IN = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}


async def ordered(who: Any, **said: Any) -> Any:
    """The answer to an order of one lamp."""
    signed_in = (await who.send("GET", "/me/cart")).status == 200
    cart = (await who.send(*(("GET", "/me/cart") if signed_in else ("POST", "/carts")))).json()
    path = f"/carts/{cart['cart_id']}"
    await who.send("PUT", f"{path}/lines/LAMP-1", json={"qty": 1})
    key = {"Idempotency-Key": secrets.token_urlsafe(24)}
    return await who.send("POST", f"{path}/checkout", json=SIGNED_IN | said, headers=key)


async def saved(who: Any, entry: Any = HOME) -> str:
    return str((await who.send("POST", "/me/addresses", json=entry)).json()["address_id"])


async def book(who: Any) -> list[dict[str, str]]:
    found = (await who.send("GET", "/me/addresses")).json()["addresses"]
    return [{name: one[name] for name in HOME} for one in found]


async def kept(own: Database, answer: Any) -> tuple[Any, Any, Any]:
    """Name, address and billing address of the order."""
    assert 202 == answer.status, answer.text
    table = tables.order_private.c
    query = sa.select(table.name, table.address, table.billing)
    order = UUID(answer.json()["order_id"])
    async with own.read() as connection:
        row = (await connection.execute(query.where(table.order_id == order))).one()
    return row.name, row.address, row.billing


async def test_an_order_goes_to_an_address_of_the_book_under_its_name(
    browsers: Browsers, own: Database
) -> None:
    ada = browsers()
    await ada.sign_in()

    answer = await ordered(ada, address_id=await saved(ada))

    assert ("Ada Lovelace", PLACE, None) == await kept(own, answer)


async def test_the_bill_goes_elsewhere_where_that_is_elsewhere(
    browsers: Browsers, own: Database
) -> None:
    ada, bob, guest = browsers(), browsers(), browsers()
    await ada.sign_in()
    await bob.sign_in("bob@example.com")
    here, there = await saved(ada), await saved(ada, OFFICE)

    by_id = await ordered(ada, address_id=here, billing_address_id=there)
    same = await ordered(bob, address_id=await saved(bob), billing_address=HOME)
    written = await ordered(guest, name="Ada", address=PLACE, billing_address=OFFICE)

    assert ("Ada Lovelace", PLACE, OFFICE) == await kept(own, by_id)
    assert ("Ada Lovelace", PLACE, None) == await kept(own, same)
    assert ("Ada", PLACE, OFFICE) == await kept(own, written)


async def test_a_written_address_is_kept_in_the_book_once_where_its_customer_says_so(
    browsers: Browsers,
) -> None:
    ada, bob = browsers(), browsers()
    await ada.sign_in()
    await bob.sign_in("bob@example.com")
    await saved(bob)

    for who in (ada, bob):
        answer = await ordered(who, name="Ada Lovelace", address=PLACE, save_address=True)
        assert 202 == answer.status

    assert [HOME] == await book(ada)
    assert [HOME] == await book(bob)


async def test_a_full_book_is_no_reason_not_to_sell(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in()
    for number in range(20):
        await saved(ada, HOME | {"street": f"Domstraße {number + 2}"})

    answer = await ordered(ada, name="Ada Lovelace", address=PLACE, save_address=True)

    assert 202 == answer.status
    assert HOME not in await book(ada)


async def test_the_same_key_is_answered_after_the_address_has_left_the_book(
    browsers: Browsers,
) -> None:
    ada = browsers()
    await ada.sign_in()
    id_ = await saved(ada)
    cart = (await ada.send("GET", "/me/cart")).json()["cart_id"]
    await ada.send("PUT", f"/carts/{cart}/lines/LAMP-1", json={"qty": 1})
    sent = {"json": SIGNED_IN | {"address_id": id_}, "headers": {"Idempotency-Key": "k" * 16}}
    first = await ada.send("POST", f"/carts/{cart}/checkout", **sent)

    await ada.send("DELETE", f"/me/addresses/{id_}")
    again = await ada.send("POST", f"/carts/{cart}/checkout", **sent)

    assert (202, first.text) == (again.status, again.text)


async def test_an_address_that_could_not_be_kept_is_kept_by_the_same_request_again(
    browsers: Browsers,
) -> None:
    ada = browsers()
    await ada.sign_in()
    cart = (await ada.send("GET", "/me/cart")).json()["cart_id"]
    await ada.send("PUT", f"/carts/{cart}/lines/LAMP-1", json={"qty": 1})
    said = SIGNED_IN | {"name": "Ada Lovelace", "address": PLACE, "save_address": True}
    sent = {"json": said, "headers": {"Idempotency-Key": "k" * 16}}
    first = await ada.send("POST", f"/carts/{cart}/checkout", **sent)
    (lost,) = (await ada.send("GET", "/me/addresses")).json()["addresses"]
    await ada.send("DELETE", f"/me/addresses/{lost['address_id']}")

    again = await ada.send("POST", f"/carts/{cart}/checkout", **sent)

    assert (202, first.text) == (again.status, again.text)
    assert [HOME] == await book(ada)


UNKNOWN = "01a21020-27ae-7688-878a-79849baef60e"


@pytest.mark.parametrize(
    ("said", "faults"),
    [
        ({"address": PLACE | {"postcode": "5066"}}, [("/address/postcode", "not-allowed")]),
        ({"address": PLACE | {"country": "XX"}}, [("/address/country", "not-allowed")]),
        (
            {"address": PLACE, "billing_address": OFFICE | {"postcode": ""}},
            [("/billing_address/postcode", "missing")],
        ),
        ({"address": PLACE, "address_id": UNKNOWN}, [("/address_id", "not-allowed")]),
        ({"address_id": UNKNOWN}, [("/address_id", "unknown")]),
        ({"billing_address_id": UNKNOWN}, [("/billing_address_id", "unknown")]),
        (
            {"billing_address": OFFICE, "billing_address_id": UNKNOWN},
            [("/billing_address_id", "not-allowed")],
        ),
        ({"address": PLACE, "save_address": True}, [("/name", "missing")]),
        ({"address_id": UNKNOWN, "save_address": True}, [("/address", "missing")]),
    ],
)
async def test_an_address_that_cannot_be_is_a_fault_at_its_field(
    browsers: Browsers, said: dict[str, Any], faults: list[tuple[str, str]]
) -> None:
    ada = browsers()
    await ada.sign_in()

    answer = await ordered(ada, **said)

    assert (422, "urn:shop:problem:invalid-body") == (answer.status, answer.json()["type"])
    found = msgspec.convert(answer.json()["errors"], list[dict[str, str]])
    assert faults == [(fault["pointer"], fault["code"]) for fault in found]


async def test_an_address_of_anothers_is_no_address(browsers: Browsers) -> None:
    ada, bob, guest = browsers(), browsers(), browsers()
    await ada.sign_in()
    await bob.sign_in("bob@example.com")
    hers = await saved(ada)

    answers = [
        await ordered(who, **{field: id_})
        for who in (bob, guest)
        for field in ("address_id", "billing_address_id")
        for id_ in (hers, UNKNOWN)
    ]
    keeping = await ordered(guest, name="Ada", address=PLACE, save_address=True)

    assert {422} == {answer.status for answer in answers}
    assert {"Your book has no such address."} == {
        fault["detail"] for answer in answers for fault in answer.json()["errors"]
    }
    assert "/save_address" == keeping.json()["errors"][0]["pointer"]


HTML = {"Accept": "text/html"}


def hidden(html: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))


async def test_the_page_offers_the_book_and_orders_to_what_was_chosen(
    browsers: Browsers, own: Database
) -> None:
    ada = browsers()
    await ada.sign_in()
    await saved(ada)
    office = await saved(ada, OFFICE)
    await ada.send("POST", "/cart/lines", data={"sku": "LAMP-1"})

    first = await ada.send("GET", "/checkout", headers=HTML)
    chosen = await ada.send("GET", f"/checkout?address={office}", headers=HTML)
    form = hidden(chosen.text) | {"email": "ada@example.com", "payment": "tok_ok"}
    answer = await ada.send("POST", "/checkout", data=form | {"billing_country": ""})

    assert "<address>Ada Lovelace, Domstraße 1, 50667 Köln, Germany</address>" in first.text
    assert office == form["address"]
    assert (303, "/orders/") == (answer.status, answer.headers["Location"][:8])
    async with own.read() as connection:
        row = (await connection.execute(sa.select(tables.order_private))).one()
    assert ("Engines Ltd", "Ring 2", None) == (row.name, row.address["street"], row.billing)


async def test_the_page_keeps_a_written_address_and_bills_another(
    browsers: Browsers, own: Database
) -> None:
    ada = browsers()
    await ada.sign_in()
    id_ = await saved(ada, OFFICE)
    await ada.send("POST", "/cart/lines", data={"sku": "LAMP-1"})

    page = await ada.send("GET", "/checkout?address=another", headers=HTML)
    form = hidden(page.text) | HOME | {"email": "ada@example.com", "payment": "tok_ok"}
    answer = await ada.send("POST", "/checkout", data=form | {"save": "yes", "billing": id_})

    assert "address" not in hidden(page.text)
    assert 303 == answer.status
    assert [OFFICE, HOME] == await book(ada)
    async with own.read() as connection:
        row = (await connection.execute(sa.select(tables.order_private))).one()
    assert (PLACE, OFFICE) == (row.address, row.billing)
