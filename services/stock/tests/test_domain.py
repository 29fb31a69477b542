"""The pure rules: merging lines, labels, outbox entries as events."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from shop_contracts.events.stock import (
    PriceChangedV1,
    ReservationHeldV1,
    ReservationRejectedV1,
    StockChangedV1,
)
from shop_contracts.types import Line, Shortage
from stock.domain import MAX_LINES, TooManyLines, build, label, merged

ORDER = "0197a000-0000-7000-8000-000000000001"
EVENT = "0197a000-0000-7000-8000-000000000002"


def entry(kind: str, **fields: str) -> dict[str, str]:
    envelope = {
        "type": kind,
        "id": EVENT,
        "version": "7",
        "time": "1700000000123",
        "order": "",
        "cause": "",
        "traceparent": "",
    }
    return envelope | fields


def test_lines_of_one_sku_are_summed_and_sorted() -> None:

    assert [("a", 2), ("b", 4)] == merged([("b", 1), ("a", 2), ("b", 3)])


def test_an_order_with_too_many_skus_is_refused() -> None:
    with pytest.raises(TooManyLines):
        merged((f"s{i}", 1) for i in range(MAX_LINES + 1))


@pytest.mark.parametrize(
    ("available", "text"),
    [(0, "Sold out"), (1, "Only 1 left"), (5, "Only 5 left"), (6, "In stock")],
)
def test_the_label_says_no_more_than_a_shopper_needs(available: int, text: str) -> None:

    assert text == label(available)


def test_an_entry_about_a_level_becomes_its_event() -> None:
    fields = entry(
        "stock.changed.v1",
        sku="chair",
        on_hand="9007199254740991",
        reserved="1",
        available="9007199254740990",
        why="held",
        order=ORDER,
        cause=EVENT,
        traceparent="00-1-2-00",
    )

    event = build(fields)

    assert isinstance(event.data, StockChangedV1)
    assert 9007199254740991 == event.data.on_hand
    assert UUID(ORDER) == event.data.order_id
    assert ("chair", 7, ORDER, EVENT) == (
        event.meta.subject,
        event.meta.entityversion,
        event.meta.correlationid,
        event.meta.causationid,
    )
    assert datetime(2023, 11, 14, 22, 13, 20, 123000, UTC) == event.meta.time
    assert "00-1-2-00" == event.meta.traceparent


def test_an_entry_about_prices_becomes_its_event() -> None:
    event = build(entry("price.changed.v1", sku="chair", prices="EUR::1:1999:2499;JPY::1:3000:"))

    assert isinstance(event.data, PriceChangedV1)
    assert [(1999, 2499), (3000, None)] == [
        (price.amount_minor, price.list_minor) for price in event.data.prices
    ]
    assert event.meta.correlationid is None


def test_entries_about_a_hold_become_their_events() -> None:
    held = build(
        entry("reservation.held.v1", order=ORDER, lines="a:1;b:2", expires="1700000000000")
    )
    rejected = build(entry("reservation.rejected.v1", order=ORDER, shortages="a:3:1"))

    assert isinstance(held.data, ReservationHeldV1)
    assert [Line(sku="a", qty=1), Line(sku="b", qty=2)] == held.data.lines
    assert datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC) == held.data.expires_at
    assert isinstance(rejected.data, ReservationRejectedV1)
    assert [Shortage(sku="a", requested=3, available=1)] == rejected.data.shortages


@pytest.mark.parametrize(
    "broken", [{"on_hand": "-1"}, {"sku": "a b"}, {"why": "whim"}, {"order": "?"}]
)
def test_an_entry_that_breaks_its_contract_stops_the_relay(broken: dict[str, Any]) -> None:
    fields = entry(
        "stock.changed.v1", sku="a", on_hand="1", reserved="0", available="1", why="held"
    )
    with pytest.raises(msgspec.ValidationError):
        build(fields | broken)
