"""The words and pure rules of stock-keeping: units, and outbox entries as events. No I/O here.

Lists travel through Redis as flat text (`sku:qty;sku:qty`): a SKU holds neither sign.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from shop_contracts import envelope
from shop_contracts.envelope import Event, derived_id
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import Fact
from shop_contracts.types import Count, Line, Sku, Time
from stock.prices import MAX_UNITS, moment, read_prices

MAX_LINES = 100
FEW = 5

Units = Annotated[int, Meta(ge=0, le=MAX_UNITS, description="units of one SKU")]
Reason = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class TooManyLines(Exception):
    """An order with more SKUs than one step may touch."""


class Action(StrEnum):
    """What to do with the units on hand."""

    INCREMENT = "increment"
    DECREMENT = "decrement"
    SET = "set"


class Adjust(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change the units on hand by `stock`, or to `stock` when the action is `set`."""

    stock: Units
    action: Action
    reason: Reason = ""


class Level(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The units of one SKU: `stock` is `available`; `on_hand` = `available` + `reserved`."""

    sku: Sku
    stock: Count
    on_hand: Count
    reserved: Count
    available: Count
    version: Count
    low_stock_threshold: Count | None = None


class Reservation(Struct, frozen=True, kw_only=True):
    """Units that a cart holds until `expires_at`, when its state is "held"."""

    id: UUID
    state: str
    lines: list[Line]
    expires_at: Time
    version: Count


class Movement(Struct, frozen=True, kw_only=True):
    """One line of the ledger: how four counters of a SKU moved, when, and on whose word."""

    version: int
    at: datetime
    op: str
    available: int
    reserved: int
    sold: int
    received: int
    order_id: UUID | None = None
    cause: str | None = None
    event_id: UUID
    reason: str = ""


def level(
    sku: str, available: int, reserved: int, version: int, threshold: int | None = None
) -> Level:
    return Level(
        sku=sku,
        stock=available,
        on_hand=available + reserved,
        reserved=reserved,
        available=available,
        version=version,
        low_stock_threshold=threshold,
    )


def merged(lines: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The lines by SKU in ascending order, each SKU once; raises `TooManyLines`."""
    units: dict[str, int] = {}
    for sku, qty in lines:
        units[sku] = units.get(sku, 0) + qty
    if len(units) > MAX_LINES:
        raise TooManyLines(f"{len(units)} SKUs in one order, {MAX_LINES} at most")
    return sorted(units.items())


def label(available: int) -> str:
    """What a shopper reads about the units there are."""
    if available <= 0:
        return "Sold out"
    return f"Only {available} left" if available <= FEW else "In stock"


def build(fields: Mapping[str, str]) -> Event[Fact]:
    """The event of one outbox entry; raises when the entry breaks its contract (our bug)."""
    key = fields["type"]
    fact = msgspec.convert(_DATA[key](fields), BY_KEY[key], strict=False)
    id_ = UUID(fields["id"])
    return envelope.new(
        fact,
        # what follows from a movement is told under the id of the movement's own event
        id=derived_id(id_, key) if key in _FOLLOWING else id_,
        entityversion=int(fields["version"]),
        time=moment(fields["time"]),
        correlationid=fields["order"] or None,
        causationid=fields["cause"] or None,
        traceparent=fields["traceparent"] or None,
    )


def _split(flat: str) -> list[list[str]]:
    return [entry.split(":") for entry in flat.split(";")] if flat else []


def _level_data(fields: Mapping[str, str]) -> dict[str, Any]:
    return {
        "sku": fields["sku"],
        "on_hand": fields["on_hand"],
        "reserved": fields["reserved"],
        "available": fields["available"],
        "cause": fields["why"],
        "order_id": fields["order"] or None,
    }


def _mark_data(fields: Mapping[str, str]) -> dict[str, Any]:
    return {name: fields[name] for name in ("sku", "available", "threshold") if name in fields}


def _price_data(fields: Mapping[str, str]) -> dict[str, Any]:
    return {
        "sku": fields["sku"],
        "prices": [msgspec.to_builtins(entry) for entry in read_prices(fields["prices"])],
        "valid_until": moment(fields["until"]) if fields.get("until") else None,
    }


def _reservation_data(fields: Mapping[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = {"order_id": fields["order"]}
    if "lines" in fields:
        data["lines"] = [{"sku": sku, "qty": qty} for sku, qty in _split(fields["lines"])]
    if "shortages" in fields:
        data["shortages"] = [
            {"sku": sku, "requested": requested, "available": available}
            for sku, requested, available in _split(fields["shortages"])
        ]
    if "expires" in fields:
        data["expires_at"] = moment(fields["expires"])
    return data


_FOLLOWING = {"stock.ran_low.v1", "stock.came_back.v1"}
_DATA: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "stock.changed.v1": _level_data,
    "stock.ran_low.v1": _mark_data,
    "stock.came_back.v1": _mark_data,
    "price.changed.v1": _price_data,
    "reservation.held.v1": _reservation_data,
    "reservation.rejected.v1": _reservation_data,
    "reservation.committed.v1": _reservation_data,
    "reservation.commit_failed.v1": _reservation_data,
    "reservation.released.v1": _reservation_data,
    "reservation.expired.v1": _reservation_data,
}
