"""A customer's account over HTTP: in by mail, addresses, orders, taking all, being forgotten."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from chassis.database import Database
from chassis.redis import connect
from checkout.after import Back, RefundWanted, ShipmentWanted, Units
from checkout.domain import Approved, CancelRequested, Timers
from checkout.settings import Settings
from checkout.store import tables
from checkout.store.after import After
from checkout.store.customers import Customers
from checkout.store.orders import Orders

pytestmark = pytest.mark.connected

Browsers = Callable[[], Any]
ADA, BOB = "ada@example.com", "bob@example.com"
HOME = {
    "name": "Ada Lovelace",
    "street": "Domstraße 1",
    "city": "Köln",
    "postcode": "50667",
    "country": "DE",
}


async def test_a_link_signs_in_once_with_a_cookie_for_this_host_alone(browsers: Browsers) -> None:
    ada, thief = browsers(), browsers()
    token = await ada.link(ADA)

    answer = await ada.send("POST", "/me/session", json={"token": token})
    again = await thief.send("POST", "/me/session", json={"token": token})

    assert (201, ADA) == (answer.status, answer.json()["email"])
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-session=")
    for part in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/"):
        assert part in cookie
    assert "Domain" not in cookie
    assert (410, "urn:shop:problem:link-is-over") == (again.status, again.json()["type"])
    assert 200 == (await ada.send("GET", "/me")).status
    assert 401 == (await thief.send("GET", "/me")).status


async def test_of_many_who_use_a_link_at_once_one_gets_in(browsers: Browsers) -> None:
    token = await browsers().link(ADA)

    answers = await asyncio.gather(
        *(browsers().send("POST", "/me/session", json={"token": token}) for _ in range(10))
    )

    assert [201] + [410] * 9 == sorted(answer.status for answer in answers)


async def test_two_links_of_a_new_mailbox_used_at_once_make_one_customer(
    browsers: Browsers,
) -> None:
    one, two = browsers(), browsers()
    links = [await one.link(ADA), await two.link(ADA)]

    answers = await asyncio.gather(
        *(
            browser.send("POST", "/me/session", json={"token": link})
            for browser, link in zip((one, two), links, strict=True)
        )
    )

    assert [201, 201] == [answer.status for answer in answers]
    assert 1 == len({answer.json()["customer_id"] for answer in answers})


async def test_a_link_has_its_time_and_only_its_hash_is_kept(
    browsers: Browsers, own: Database
) -> None:
    ada = browsers()
    token = await ada.link(ADA)
    async with own.engine.begin() as connection:
        (digest,) = await connection.scalars(sa.select(tables.sign_ins.c.digest))
        long_ago = datetime.now(UTC) - timedelta(seconds=1)
        await connection.execute(sa.update(tables.sign_ins).values(expires_at=long_ago))

    answer = await ada.send("POST", "/me/session", json={"token": token})

    assert 410 == answer.status
    assert token not in digest
    await ada.link(BOB)
    async with own.read() as connection:
        assert [BOB] == list(await connection.scalars(sa.select(tables.sign_ins.c.email)))


async def test_nobody_can_tell_who_is_a_customer(browsers: Browsers, mailed: Any) -> None:
    await browsers().sign_in(ADA)
    stranger = browsers()

    answers = [
        await stranger.send("POST", "/me/sign-in", json={"email": email})
        for email in (ADA, "nobody@example.com")
    ]

    assert 1 == len({(answer.status, answer.text) for answer in answers})
    assert 1 == len(await mailed("nobody@example.com"))


async def test_a_mailbox_gets_no_flood_and_nobody_is_told(browsers: Browsers, mailed: Any) -> None:
    stranger = browsers()

    answers = [
        await stranger.send("POST", "/me/sign-in", json={"email": email})
        for email in (ADA, "ADA@example.com", ADA, ADA, ADA, ADA, ADA)
    ]

    assert {202} == {answer.status for answer in answers}
    assert 5 == len([*await mailed(ADA), *await mailed("ADA@example.com")])


async def test_an_address_that_asks_too_often_is_told_when_to_come_again(
    browsers: Browsers,
) -> None:
    stranger = browsers()
    here = {"X-Forwarded-For": "2001:db8:1:2:3::4"}
    neighbour = {"X-Forwarded-For": "2001:db8:1:2:ffff::1"}

    for n in range(12):
        asked = {"email": f"n{n}@example.com"}
        assert 202 == (await stranger.send("POST", "/me/sign-in", json=asked, headers=here)).status
    refused = await stranger.send("POST", "/me/sign-in", json={"email": ADA}, headers=neighbour)
    form = await stranger.send("POST", "/sign-in", data={"email": ADA}, headers=here)

    assert (429, "urn:shop:problem:too-many-requests") == (refused.status, refused.json()["type"])
    assert 1 <= int(refused.headers["Retry-After"]) <= 3_600
    assert (429, True) == (form.status, "Retry-After" in form.headers)


async def test_signing_in_gives_a_new_session_and_ends_the_old_one(browsers: Browsers) -> None:
    ada, old = browsers(), browsers()
    await ada.sign_in(ADA)
    old.cookies = dict(ada.cookies)

    await ada.sign_in(ADA)

    assert old.cookies != ada.cookies
    assert 401 == (await old.send("GET", "/me")).status
    assert 200 == (await ada.send("GET", "/me")).status


async def test_a_cookie_that_somebody_else_chose_is_no_session(browsers: Browsers) -> None:
    ada = browsers()
    ada.cookies["__Host-session"] = planted = "A" * 43

    await ada.sign_in(ADA)

    assert planted != ada.cookies["__Host-session"]
    ada.cookies["__Host-session"] = planted
    assert 401 == (await ada.send("GET", "/me")).status


async def test_signing_out_ends_the_session_at_the_server(browsers: Browsers) -> None:
    ada, copy = browsers(), browsers()
    await ada.sign_in(ADA)
    copy.cookies = dict(ada.cookies)

    answer = await ada.send("DELETE", "/me/session")

    assert (204, {}) == (answer.status, ada.cookies)
    assert 401 == (await copy.send("GET", "/me")).status


async def test_only_a_hash_of_the_session_is_kept_and_using_it_makes_it_last(
    browsers: Browsers, settings: Settings
) -> None:
    ada = browsers()
    await ada.sign_in(ADA)

    async with connect(settings.redis_url, connections=4, timeout=10) as redis:
        keys = [key async for key in redis.scan_iter(f"{settings.key_prefix}session:*")]
        (session,) = [key for key in keys if ":of:" not in key]
        await redis.expire(session, 60)
        assert 200 == (await ada.send("GET", "/me")).status
        left = await redis.ttl(session)
        kept = [await redis.get(session), *keys]

    assert settings.session_idle_s - 60 < left <= settings.session_idle_s
    assert ada.cookies["__Host-session"] not in " ".join(kept)
    assert ADA not in " ".join(kept)


async def test_another_sites_page_cannot_use_the_session(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in(ADA)
    order = await ada.order()
    foreign = {"Sec-Fetch-Site": "cross-site"}

    answers = [
        await ada.send("POST", f"/orders/{order}/cancel", headers=foreign),
        await ada.send("DELETE", "/me", headers=foreign),
        await ada.send("DELETE", "/me/session", headers=foreign),
        await ada.send("POST", "/me/erase", data={"sure": "yes"}, headers=foreign),
    ]

    assert [403] * 4 == [answer.status for answer in answers]
    assert 200 == (await ada.send("GET", "/me")).status


async def test_a_name_is_given_and_taken_away(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in(ADA)

    named = await ada.send("PATCH", "/me", json={"name": "Ada Lovelace"})
    same = await ada.send("PATCH", "/me", json={})
    nameless = await ada.send("PATCH", "/me", json={"name": None})

    assert ["Ada Lovelace", "Ada Lovelace", None] == [
        answer.json()["name"] for answer in (named, same, nameless)
    ]
    assert 422 == (await ada.send("PATCH", "/me", json={"name": ""})).status
    assert 422 == (await ada.send("PATCH", "/me", json={"email": BOB})).status


async def test_addresses_are_written_changed_and_taken_out(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in(ADA)

    added = await ada.send("POST", "/me/addresses", json=HOME)
    where = added.headers["Location"]
    changed = await ada.send("PUT", where, json=HOME | {"city": "Bonn", "postcode": "53111"})
    listed = (await ada.send("GET", "/me/addresses")).json()["addresses"]

    assert (201, 200) == (added.status, changed.status)
    assert ["Bonn"] == [address["city"] for address in listed]
    assert [204, 404, 404] == [
        (await ada.send("DELETE", where)).status,
        (await ada.send("DELETE", where)).status,
        (await ada.send("PUT", where, json=HOME)).status,
    ]
    assert [] == (await ada.send("GET", "/me/addresses")).json()["addresses"]


async def test_an_address_that_its_country_cannot_have_is_refused_with_its_fault(
    browsers: Browsers,
) -> None:
    ada = browsers()
    await ada.sign_in(ADA)

    answer = await ada.send("POST", "/me/addresses", json=HOME | {"postcode": "5066"})
    mended = await ada.send("POST", "/me/addresses", json=HOME | {"postcode": "50668"})

    assert (422, 201) == (answer.status, mended.status)
    assert ["/postcode"] == [fault["pointer"] for fault in answer.json()["errors"]]


async def test_an_address_book_has_room_for_twenty_even_when_many_come_at_once(
    browsers: Browsers,
) -> None:
    ada = browsers()
    await ada.sign_in(ADA)
    for _ in range(18):
        await ada.send("POST", "/me/addresses", json=HOME)

    answers = await asyncio.gather(
        *(ada.send("POST", "/me/addresses", json=HOME) for _ in range(4))
    )

    assert [201, 201, 409, 409] == sorted(answer.status for answer in answers)
    assert 20 == len((await ada.send("GET", "/me/addresses")).json()["addresses"])


async def test_a_customers_orders_are_listed_newest_first_page_by_page(
    browsers: Browsers, own: Database
) -> None:
    ada, bob = browsers(), browsers()
    await ada.sign_in(ADA)
    await bob.sign_in(BOB)
    placed = []
    for _ in range(3):
        placed.append(await ada.order())
        # the cart is free for the next one
        await Orders(own, Timers()).apply(UUID(placed[-1]), CancelRequested())
    await bob.order()

    first = (await ada.send("GET", "/me/orders?limit=2")).json()
    second = (await ada.send("GET", f"/me/orders?limit=2&cursor={first['next']}")).json()

    listed = [order["order_id"] for order in first["orders"] + second["orders"]]
    assert sorted(placed, reverse=True) == listed
    assert second["next"] is None
    assert {"cancelled"} == {order["status"] for order in first["orders"]}
    assert 400 == (await ada.send("GET", "/me/orders?limit=101")).status
    assert 400 == (await ada.send("GET", "/me/orders?cursor=x")).status


async def test_everything_that_is_known_can_be_taken_along(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in(ADA)
    await ada.send("PATCH", "/me", json={"name": "Ada Lovelace"})
    await ada.send("POST", "/me/addresses", json=HOME)
    order = await ada.order(LAMP_1=3)

    answer = await ada.send("GET", "/me/export")

    export = answer.json()
    assert "attachment" in answer.headers["Content-Disposition"]
    assert "private, no-store" == answer.headers["Cache-Control"]
    assert (ADA, "Ada Lovelace") == tuple(
        export["records"]["profile"][name] for name in ("email", "name")
    )
    assert ["Köln"] == [address["city"] for address in export["records"]["addresses"]]
    (kept,) = export["records"]["orders"]
    assert (order, ADA, 3) == (
        kept["order"]["order_id"],
        kept["email"],
        kept["order"]["lines"][0]["qty"],
    )
    assert 3 == export["cart"]["lines"][0]["qty"]
    assert 1 == export["sessions"]


async def known_of(text: str, own: Database, settings: Settings) -> set[str]:
    """Where a text stands in SQL or Redis."""
    found = set()
    async with own.read() as connection:
        for table in tables.METADATA.sorted_tables:
            for row in await connection.execute(sa.select(table)):
                if text in repr(tuple(row)):
                    found.add(table.name)
    async with connect(settings.redis_url, connections=4, timeout=10) as redis:
        async for key in redis.scan_iter(f"{settings.key_prefix}*"):
            value = await redis.dump(key)
            if text in key or text.encode() in (value or b""):
                found.add(key)
    return found


async def test_who_is_erased_is_known_nowhere_and_orders_stay(
    browsers: Browsers, own: Database, settings: Settings
) -> None:
    ada, elsewhere = browsers(), browsers()
    guest = await browsers().order()
    await elsewhere.sign_in(ADA)
    customer = UUID((await ada.sign_in(ADA))["customer_id"])
    await ada.send("PATCH", "/me", json={"name": "Ada Lovelace"})
    await ada.send("POST", "/me/addresses", json=HOME)
    ended = await ada.order()
    orders = Orders(own, Timers())
    await orders.apply(UUID(ended), CancelRequested())
    living = await ada.order()
    await ada.link(ADA)

    answer = await ada.send("DELETE", "/me")

    assert 204 == answer.status
    assert {401} == {(await who.send("GET", "/me")).status for who in (ada, elsewhere)}
    for id_ in (ended, living, guest):
        assert 404 == (await ada.send("GET", f"/orders/{id_}")).status
    # an order on its way keeps what it needs until it has ended
    assert {"order_private"} == await known_of(ADA, own, settings)
    customers = Customers(own)
    await customers.finish_erasures()
    for id_ in (living, guest):
        await orders.apply(UUID(id_), CancelRequested())
    await customers.finish_erasures()
    # what tells her how it ended is forgotten when it has gone
    for text in (ADA, "Lovelace", "Domstra", "tok_ok"):
        assert await known_of(text, own, settings) <= {"deliveries"}
    view = await orders.view(UUID(ended))
    assert view is not None
    assert customer == await customers.owner(UUID(ended))


async def test_an_order_knows_its_person_until_all_of_it_is_sent_or_given_back(
    browsers: Browsers, own: Database, settings: Settings, make: Any
) -> None:
    ada = browsers()
    await ada.sign_in(ADA)
    order = UUID(await ada.order(LAMP_1=3))
    orders, after, customers = Orders(own, Timers()), After(own), Customers(own)
    await make.authorise(orders, str(order))
    await orders.apply(order, make.committed(order))
    for ask in await orders.claim_payments(10, timedelta(seconds=30)):
        await orders.answered(ask, Approved("ref"))
    await ada.send("DELETE", "/me")

    known = []
    for step in range(3):
        await customers.finish_erasures()
        # what tells her of a parcel is forgotten when it has gone
        known.append(await known_of(ADA, own, settings) - {"deliveries"})
        parcel = ShipmentWanted(lines=[Units(sku="LAMP-1", qty=2)], carrier="Post")
        back = RefundWanted(lines=[Back(sku="LAMP-1", qty=1)])
        if step == 0:
            await after.ship(order, "k" * 16, parcel)
        else:
            await after.refund(order, "l" * 16, back)

    assert [{"order_private"}, {"order_private"}, set()] == known


async def test_an_erasure_is_looked_after_for_a_day(browsers: Browsers, own: Database) -> None:
    ada = browsers()
    await ada.sign_in(ADA)
    await ada.send("DELETE", "/me")
    customers, table = Customers(own), tables.erasures

    await customers.finish_erasures()
    async with own.engine.begin() as connection:
        kept = (await connection.execute(sa.select(table))).all()
        before = datetime.now(UTC) - timedelta(days=2)
        await connection.execute(sa.update(table).values(erased_at=before))
    await customers.finish_erasures()

    assert 1 == len(kept)
    async with own.read() as connection:
        assert [] == (await connection.execute(sa.select(table))).all()


async def test_who_comes_back_after_an_erasure_is_somebody_new(browsers: Browsers) -> None:
    ada = browsers()
    before = await ada.sign_in(ADA)
    await ada.send("DELETE", "/me")

    after = await ada.sign_in(ADA)

    assert before["customer_id"] != after["customer_id"]
    assert [] == (await ada.send("GET", "/me/orders")).json()["orders"]


# ---- the pages, without scripts ----

HTML = {"Accept": "text/html"}


async def test_a_browser_signs_in_keeps_addresses_and_signs_out(
    browsers: Browsers, mailed: Any
) -> None:
    ada = browsers()
    assert "/sign-in" == (await ada.send("GET", "/me", headers=HTML)).headers["Location"]
    sent = await ada.send("POST", "/sign-in", data={"email": f" {ADA} "})
    link = re.search(r"http\S+", (await mailed(ADA))[-1])
    assert link is not None
    path = link[0].partition("127.0.0.1:8080")[2]

    looked = [await ada.send("GET", path) for _ in range(2)]
    token = re.search(r'name="token" value="([^"]+)"', looked[0].text)
    assert token is not None
    entered = await ada.send("POST", "/sign-in/confirm", data={"token": token[1]})
    await ada.send("POST", "/me/name", data={"name": "Ada <b>"})
    form = HOME | {"area": ""}
    added = await ada.send("POST", "/me/address", data=form)
    account = await ada.send("GET", "/me", headers=HTML)
    remove = re.search(r'action="(/me/address/[^"]+/remove)"', account.text)
    assert remove is not None
    removed = await ada.send("POST", remove[1], data={})
    left = await ada.send("POST", "/sign-out", data={})

    assert "Look into your mailbox" in sent.text
    assert {"strict-origin"} == {page.headers["Referrer-Policy"] for page in looked}
    assert (303, "/me") == (entered.status, entered.headers["Location"])
    assert (303, 303, 303) == (added.status, removed.status, left.status)
    assert "Ada &lt;b&gt;" in account.text
    assert "Domstraße 1" in account.text
    assert "Germany" in account.text
    assert {} == ada.cookies
    for page in (sent, *looked, account):
        assert "private, no-store" == page.headers["Cache-Control"]


async def test_a_customer_need_not_write_what_is_known_at_checkout(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in(ADA)
    await ada.send("PATCH", "/me", json={"name": "Ada Lovelace"})
    await ada.send("POST", "/cart/lines", data={"sku": "LAMP-1"})

    form = (await ada.send("GET", "/checkout")).text

    assert f'value="{ADA}"' in form
    assert 'value="Ada Lovelace"' in form


async def test_a_link_that_is_over_leads_to_a_new_one(browsers: Browsers) -> None:
    answer = await browsers().send("POST", "/sign-in/confirm", data={"token": "used"})

    assert 410 == answer.status
    assert 'role="alert"' in answer.text
    assert 'action="/sign-in"' in answer.text


async def test_what_is_wrong_with_an_address_stands_beside_it(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in(ADA)

    answer = await ada.send("POST", "/me/address", data=HOME | {"postcode": "1"})

    assert 422 == answer.status
    assert "Please check the address" in answer.text
    assert "This country has none like it." in answer.text
    assert "Domstraße 1" in answer.text


async def test_older_orders_are_a_page_away(browsers: Browsers, own: Database, make: Any) -> None:
    ada = browsers()
    customer = UUID((await ada.sign_in(ADA))["customer_id"])
    orders = Orders(own, Timers())
    accepted = await asyncio.gather(
        *(
            orders.place(f"c{n}", "k" * 16, b"", make.a_purchase(), make.a_quote(), customer)
            for n in range(21)
        )
    )
    placed = [str(each.order_id) for each in accepted]

    first = await ada.send("GET", "/me", headers=HTML)
    older = re.search(r'href="(/me\?older_than=[^#"]+)', first.text)
    assert older is not None
    second = await ada.send("GET", older[1], headers=HTML)

    oldest = min(placed)
    assert oldest not in first.text
    assert oldest in second.text


async def test_an_account_is_erased_by_who_says_so_twice(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in(ADA)

    hasty = await ada.send("POST", "/me/erase", data={})
    assert 200 == (await ada.send("GET", "/me")).status
    sure = await ada.send("POST", "/me/erase", data={"sure": "yes"})

    assert ["/me", "/"] == [answer.headers["Location"] for answer in (hasty, sure)]
    assert 401 == (await ada.send("GET", "/me")).status
