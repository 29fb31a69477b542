"""The words and pure rules of stock-keeping: units, prices, outbox entries as events. No I/O here.

Lists travel through Redis as flat text (`sku:qty;sku:qty`): a SKU holds neither sign.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from shop_contracts import envelope
from shop_contracts.envelope import Event
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import Fact
from shop_contracts.types import Count, Currency, Minor, Sku

MAX_UNITS = 2**31
MAX_LINES = 100
FEW = 5

Units = Annotated[int, Meta(ge=0, le=MAX_UNITS, description="units of one SKU")]
Tier = Annotated[int, Meta(ge=1, le=MAX_UNITS, description="from so many units on")]
Group = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z", description="customer group")]
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


class Level(Struct, frozen=True, kw_only=True):
    """The units of one SKU: `stock` is `available`; `on_hand` = `available` + `reserved`."""

    sku: Sku
    stock: Count
    on_hand: Count
    reserved: Count
    available: Count
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


class PriceEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One unit's price from `min_qty` units on, for one customer group (none = everybody)."""

    currency: Currency
    amount_minor: Minor
    list_minor: Minor | None = None
    group: Group | None = None
    min_qty: Tier = 1

    @property
    def key(self) -> tuple[str, str, int]:
        """Whom the price is for; a SKU has one price for each."""
        return self.currency, self.group or "", self.min_qty


class Priced(Struct, frozen=True, kw_only=True):
    """The prices of one SKU."""

    sku: Sku
    prices: list[PriceEntry]
    version: Count


def level(sku: str, available: int, reserved: int, version: int) -> Level:
    return Level(
        sku=sku,
        stock=available,
        on_hand=available + reserved,
        reserved=reserved,
        available=available,
        version=version,
    )


def merged(lines: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The lines by SKU in ascending order, each SKU once; raises `TooManyLines`."""
    units: dict[str, int] = {}
    for sku, qty in lines:
        units[sku] = units.get(sku, 0) + qty
    if len(units) > MAX_LINES:
        raise TooManyLines(f"{len(units)} SKUs in one order, {MAX_LINES} at most")
    return sorted(units.items())


def duplicates(prices: Sequence[PriceEntry]) -> list[int]:
    """The places of entries whose key stands before them already."""
    first: dict[tuple[str, str, int], int] = {}
    return [at for at, price in enumerate(prices) if first.setdefault(price.key, at) != at]


def flat_prices(prices: Iterable[PriceEntry]) -> list[str]:
    """Each price as `currency:group:min_qty:amount:list`."""
    return [
        f"{p.currency}:{p.group or ''}:{p.min_qty}:{p.amount_minor}:"
        f"{'' if p.list_minor is None else p.list_minor}"
        for p in prices
    ]


def read_prices(flat: str) -> list[PriceEntry]:
    """The entries of a flat price text, by currency, group and tier."""
    entries = []
    for currency, group, min_qty, amount, listed in _split(flat):
        entries.append(
            PriceEntry(
                currency=currency,
                amount_minor=int(amount),
                list_minor=int(listed) if listed else None,
                group=group or None,
                min_qty=int(min_qty),
            )
        )
    return sorted(entries, key=lambda entry: entry.key)


def shown_price(prices: Sequence[PriceEntry], currency: str) -> PriceEntry | None:
    """What one unit costs everybody: in `currency` where it has such a price, else in another."""
    base = [price for price in prices if price.group is None and price.min_qty == 1]
    return next((price for price in base if price.currency == currency), base[0] if base else None)


def label(available: int) -> str:
    """What a shopper reads about the units there are."""
    if available <= 0:
        return "Sold out"
    return f"Only {available} left" if available <= FEW else "In stock"


def build(fields: Mapping[str, str]) -> Event[Fact]:
    """The event of one outbox entry; raises when the entry breaks its contract (our bug)."""
    key = fields["type"]
    fact = msgspec.convert(_DATA[key.split(".")[0]](fields), BY_KEY[key], strict=False)
    return envelope.new(
        fact,
        id=UUID(fields["id"]),
        entityversion=int(fields["version"]),
        time=moment(fields["time"]),
        correlationid=fields["order"] or None,
        causationid=fields["cause"] or None,
        traceparent=fields["traceparent"] or None,
    )


def moment(ms: str | int) -> datetime:
    """Milliseconds of Redis's clock as a time."""
    return datetime.fromtimestamp(int(ms) / 1000, UTC)


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


def _price_data(fields: Mapping[str, str]) -> dict[str, Any]:
    return {
        "sku": fields["sku"],
        "prices": [msgspec.to_builtins(entry) for entry in read_prices(fields["prices"])],
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


_DATA: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "stock": _level_data,
    "price": _price_data,
    "reservation": _reservation_data,
}
