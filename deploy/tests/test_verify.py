"""The law of `verify`: books that agree have no breach, and each planted one is named."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from msgspec import structs

from checkout.quotes import plain
from shop.followed import Followed, Refund
from shop.verify import Books, Coupon, Hold, Money, Order, Units, breaches
from shop_contracts.types import PricedLine

AT = datetime(2026, 11, 1, tzinfo=UTC)
AGREED = plain([PricedLine(sku="LAMP", qty=2, name="Lamp", unit_minor=250)], "EUR")
SOLD, GONE = "sold-order", "cancelled-order"


def books() -> Books:
    """One order that was confirmed, and one that was cancelled after its authorisation."""
    way = ["placed", "reserved", "authorised", "authorised", "committed", "confirmed"]
    sold = Order(
        status="confirmed",
        reason=None,
        total_minor=500,
        breakdown=AGREED,
        lines={"LAMP": 2},
        path=way,
        payments={"auth": "done", "capture": "done"},
        placed_at=AT,
    )
    gone = structs.replace(
        sold, status="cancelled", reason="stock_lost", path=[*way[:4], "cancelled"]
    )
    return Books(
        orders={SOLD: sold, GONE: gone},
        units={"LAMP": Units(10, 8, 0, 2)},
        moved={"LAMP": Units(10, 8, 0, 2)},
        holds={SOLD: Hold("committed", {"LAMP": 2}), GONE: Hold("commit_failed", {})},
        money=[
            Money("pi_1", f"{SOLD}:auth", "authorised", 500),
            Money("pi_1", f"{SOLD}:capture", "captured", 500),
            Money("pi_2", f"{GONE}:auth", "authorised", 500),
            Money("pi_2", f"{GONE}:auth", "canceled", 500),
        ],
        events={
            SOLD: Counter({"order.placed.v1": 1, "order.confirmed.v1": 1}),
            GONE: Counter({"order.placed.v1": 1, "order.cancelled.v1": 1}),
        },
        events_since=AT,
    )


def test_books_that_agree_have_no_breach() -> None:
    assert [] == breaches(books())


def order(id_: str, **changes: object) -> Callable[[Books], None]:
    def plant(found: Books) -> None:
        found.orders[id_] = structs.replace(found.orders[id_], **changes)

    return plant


def money(*moves: Money) -> Callable[[Books], None]:
    return lambda found: found.money.extend(moves)


def units(sku: str, *counters: int) -> Callable[[Books], None]:
    return lambda found: found.units.update({sku: Units(*counters)})


def hold(id_: str, state: str) -> Callable[[Books], None]:
    return lambda found: found.holds.update({id_: Hold(state, {"LAMP": 2})})


def told(id_: str, *keys: str) -> Callable[[Books], None]:
    return lambda found: found.events.update({id_: Counter(keys)})


def followed(refunds: list[Refund], parcels: int = 0, counted: int = 0) -> Callable[[Books], None]:
    what = Followed(refunds=refunds, parcels=[{"LAMP": 1}] * parcels, refunded_minor=counted)
    return lambda found: found.follows.update({SOLD: what})


def refund(state: str = "done", amount: int = 250, units: int = 1, restocked: int = 0) -> Refund:
    key, back = f"{SOLD}:refund:1", {"LAMP": restocked} if restocked else {}
    return Refund(key=key, state=state, amount_minor=amount, units={"LAMP": units}, restocked=back)


def test_refunds_and_parcels_that_agree_are_no_breach() -> None:
    found = books()
    followed([refund(restocked=1), refund("refused", 500, 2)], parcels=2, counted=250)(found)
    money(Money("pi_1", f"{SOLD}:refund:1", "refunded", 250))(found)
    found.holds[SOLD] = Hold("committed", {"LAMP": 2}, {"LAMP": 1})
    keys = ["order.placed.v1", "order.confirmed.v1", "order.refunded.v1", *["order.shipped.v1"] * 2]
    told(SOLD, *keys)(found)

    assert [] == breaches(found)


PLANTED: dict[str, Callable[[Books], None]] = {
    "it uses the coupon TEN": lambda found: found.uses.update({GONE: "TEN"}),
    "it uses the coupon None": order(SOLD, breakdown=structs.replace(AGREED, coupon="TEN")),
    "used 1 times, by 0 orders": lambda found: found.coupons.update({"TEN": Coupon(1, None)}),
    "used 1 times, 0 allowed": lambda found: (
        found.coupons.update({"TEN": Coupon(1, 0)}),
        found.uses.update({SOLD: "TEN"}),
    )[0],
    "its parts are": order(SOLD, breakdown=structs.replace(AGREED, total_minor=501)),
    "to pay": order(GONE, total_minor=499),
    "not those of its lines": order(GONE, lines={"LAMP": 1}),
    "has not ended": order(SOLD, status="committed"),
    "with reason": order(GONE, reason=None),
    "no way of the saga": order(SOLD, path=["placed", "committed", "confirmed"]),
    "captured 2 times": money(Money("pi_3", f"{SOLD}:capture", "captured", 500)),
    "captured of 499": order(SOLD, total_minor=499),
    "which is no order": money(Money("pi_4", "nobody:auth", "authorised", 1)),
    "more is given back": money(Money("pi_1", f"{SOLD}:refund", "refunded", 501)),
    "its authorisation stands": lambda found: found.money.__delitem__(3),
    "cancelled, but its units are held": hold(GONE, "held"),
    "confirmed, its units released": hold(SOLD, "released"),
    "held and expiring": lambda found: found.expiring.add("x"),
    "oversold": units("LAMP", 10, -1, 0, 11),
    "received is not": units("LAMP", 11, 8, 0, 2),
    "but the holds want": units("LAMP", 10, 7, 1, 2),
    "the ledger adds up to": units("LAMP", 11, 9, 0, 2),
    "but told is": told(SOLD, "order.placed.v1", "order.confirmed.v1", "order.confirmed.v1"),
    "has a refund that has not ended": followed([refund("sent")], counted=250),
    "by the provider's ledger": followed([refund()], counted=250),
    "counts 0 as given back": followed([refund()]),
    "more than was paid": followed([refund("pending", 501)], counted=501),
    "were sent and": followed([], parcels=3),
    "and 3 given back": followed([refund("pending", 1, 3)], counted=1),
    "back for sale, stock has": followed([refund(restocked=1)], counted=250),
    "parcels, told are": followed([], parcels=1),
    "still holds": lambda found: found.waiting.update({"an outbox": 1}),
    "parked": lambda found: found.parked.update({"a queue": 1}),
}


@pytest.mark.parametrize("breach", PLANTED)
def test_each_breach_is_named(breach: str) -> None:
    found = books()
    PLANTED[breach](found)

    assert any(breach in sentence for sentence in breaches(found)), breaches(found)
