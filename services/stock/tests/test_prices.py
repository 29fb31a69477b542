"""Which price holds for whom and when: the rules, without a server."""

from datetime import UTC, datetime, timedelta

import pytest

from stock.prices import (
    PriceEntry,
    applicable,
    boundary,
    duplicates,
    flat_plan,
    flat_prices,
    in_force,
    planned,
    read_prices,
    shown_price,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
EURO = PriceEntry(currency="EUR", amount_minor=1999, list_minor=2499)
YEN = PriceEntry(currency="JPY", amount_minor=3000)
DOZEN = PriceEntry(currency="EUR", amount_minor=1500, group="trade", min_qty=12)


def euro(amount: int, begin: int | None = None, end: int | None = None, **more: str) -> PriceEntry:
    """A price from `begin` hours after noon until `end` hours after it."""
    return PriceEntry(
        currency="EUR",
        amount_minor=amount,
        valid_from=None if begin is None else NOON + begin * HOUR,
        valid_until=None if end is None else NOON + end * HOUR,
        promotion=more.get("promotion"),
        price_list=more.get("price_list"),
        group=more.get("group"),
    )


def amounts(plan: list[PriceEntry], hours: float) -> list[tuple[int, int | None]]:
    found = in_force(plan, NOON + hours * HOUR)
    return [(price.amount_minor, price.list_minor) for price in found]


def test_prices_survive_their_flat_text() -> None:
    plan = [YEN, DOZEN, EURO, euro(5, -1, 3, promotion="spring", price_list="web")]

    assert sorted(plan, key=lambda each: each.key) == read_prices(flat_plan(plan))
    assert "EUR::1:1999:2499;EUR:trade:12:1500:;JPY::1:3000:" == flat_prices([YEN, DOZEN, EURO])
    assert flat_prices([YEN]) == flat_plan([YEN])
    assert [] == read_prices("")


def test_a_second_price_for_the_same_buyers_is_a_duplicate_unless_it_begins_later() -> None:

    assert [2] == duplicates([EURO, YEN, PriceEntry(currency="EUR", amount_minor=1)])
    assert [] == duplicates([EURO, euro(1, 0), euro(1, 1), euro(1, 1, promotion="x")])


def test_a_price_holds_from_its_beginning_until_just_before_its_end() -> None:
    plan = [euro(100, end=0), euro(200, 0, 1)]

    assert [(100, None)] == amounts(plan, -0.001)
    assert [(200, None)] == amounts(plan, 0)
    assert [] == amounts(plan, 1)


def test_of_two_prices_the_one_that_began_last_holds() -> None:
    plan = [euro(100), euro(300, 0), euro(200, -1, 5)]

    assert [(100, None)] == amounts(plan, -2)
    assert [(200, None)] == amounts(plan, -1)
    assert [(300, None)] == amounts(plan, 0)


def test_a_promotion_shows_what_it_was_and_never_raises_a_price() -> None:
    plan = [euro(100), euro(80, 0, 2, promotion="a"), euro(90, 0, 3, promotion="b")]
    dear = euro(120, 0, 9, promotion="dear")

    assert [(100, None)] == amounts([*plan, dear], -1)
    assert [(80, 100)] == amounts([*plan, dear], 0)
    assert [(90, 100)] == amounts([*plan, dear], 2)
    assert [(100, None)] == amounts([*plan, dear], 3)
    assert [(120, None)] == amounts([dear], 0)


def test_groups_and_tiers_are_priced_apart() -> None:

    assert [EURO, DOZEN, YEN] == in_force([YEN, DOZEN, EURO], NOON)


def test_the_next_boundary_is_the_first_beginning_or_end_to_come() -> None:
    plan = [euro(100, -2, 2), euro(90, 0, 1, promotion="x")]

    assert [0, 1, 2, None] == [
        None if (at := boundary(plan, NOON + hours * HOUR)) is None else (at - NOON) / HOUR
        for hours in (-1, 0, 1, 2)
    ]


def test_an_edit_merges_or_replaces_and_forgets_what_has_ended() -> None:
    plan = [euro(100), euro(50, -3, -1), euro(60, -3, 0)]

    assert [euro(100), euro(70, 1)] == planned(plan, [euro(70, 1)], NOON, whole=False)
    assert [euro(110)] == planned(plan, [euro(110)], NOON, whole=False)
    assert [euro(70, 1)] == planned(plan, [euro(70, 1)], NOON, whole=True)


def test_a_buyer_meets_the_groups_own_tier_before_everybodys() -> None:
    bulk = PriceEntry(currency="EUR", amount_minor=1000, min_qty=100)
    prices = [EURO, DOZEN, YEN, bulk]

    assert [EURO, YEN] == applicable(prices, currency=None, group=None, qty=1)
    assert [EURO] == applicable(prices, currency="EUR", group="trade", qty=11)
    assert [DOZEN] == applicable(prices, currency="EUR", group="trade", qty=500)
    assert [bulk] == applicable(prices, currency="EUR", group="retail", qty=500)
    assert [EURO, DOZEN, bulk] == applicable(prices, currency="EUR", group="trade", qty=None)
    assert prices == applicable(prices, currency=None, group=None, qty=None)


def test_a_price_that_ends_before_it_begins_is_none() -> None:
    with pytest.raises(ValueError, match="not after"):
        euro(1, 1, 1)


def test_the_shown_price_is_the_one_for_everybody() -> None:

    assert EURO == shown_price([DOZEN, YEN, EURO], "EUR")
    assert YEN == shown_price([DOZEN, YEN], "EUR")
    assert shown_price([DOZEN], "EUR") is None
