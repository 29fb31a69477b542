"""What a SKU costs whom, and from when until when. No I/O here; what time it is, callers say.

All prices of a SKU, past ones left out, are its plan. What is in force at a moment follows from the
plan alone, so nobody has to be awake when a price begins.

A plan travels through Redis as flat text, prices joined by `;`: a SKU, a slug and a number hold
neither sign.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from shop_contracts.types import Count, Currency, Minor, Sku, Time

MAX_UNITS = 2**31
MAX_PRICES = 200  # of one SKU

Tier = Annotated[int, Meta(ge=1, le=MAX_UNITS, description="from so many units on")]
Group = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z", description="customer group")]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]


class PriceEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One unit's price from `min_qty` units on, for one customer group (none = everybody).

    It holds from `valid_from` until just before `valid_until`. A `promotion` takes the place of the
    price that would hold, while it is lower, and that price is then its `list_minor`.
    """

    currency: Currency
    amount_minor: Minor
    list_minor: Minor | None = None
    group: Group | None = None
    min_qty: Tier = 1
    valid_from: Time | None = None
    valid_until: Time | None = None
    promotion: Name | None = None
    price_list: Name | None = None

    def __post_init__(self) -> None:
        if self.valid_from and self.valid_until and self.valid_until <= self.valid_from:
            raise ValueError("valid_until is not after valid_from")

    @property
    def whom(self) -> tuple[str, str, int]:
        """Whom the price is for; at any moment a SKU has one price for each."""
        return self.currency, self.group or "", self.min_qty

    @property
    def key(self) -> tuple[str, str, int, int, str, str]:
        """What tells it from the other entries of its plan."""
        return (
            *self.whom,
            _ms(self.valid_from) or 0,
            self.promotion or "",
            self.price_list or "",
        )


class Priced(Struct, frozen=True, kw_only=True):
    """The prices of one SKU; in force are those until `valid_until` unless somebody edits them.

    `known_from` stands where a time was asked for that is before all that is still known.
    """

    sku: Sku
    prices: list[PriceEntry]
    version: Count
    valid_until: Time | None = None
    known_from: Time | UnsetType = UNSET


class Past(Struct, frozen=True, kw_only=True):
    """The plans of one SKU, each from a time in milliseconds until the next one's, oldest first."""

    first: int | None
    plans: list[tuple[int, list[PriceEntry]]]

    def at(self, time: datetime) -> tuple[list[PriceEntry], datetime | None] | datetime | None:
        """The plan that stood then, and until when. None: there was none before the first.

        A time: what stood then is forgotten, that is how far back the plans reach.
        """
        ends: datetime | None = None
        for since, plan in reversed(self.plans):
            if moment(since) <= time:
                return plan, ends
            ends = moment(since)
        return None if self.first is not None and time < moment(self.first) else ends


def duplicates(prices: Sequence[PriceEntry]) -> list[int]:
    """The places of entries whose key stands before them already."""
    first: dict[tuple[str, str, int, int, str, str], int] = {}
    return [at for at, price in enumerate(prices) if first.setdefault(price.key, at) != at]


def in_force(plan: Iterable[PriceEntry], at: datetime) -> list[PriceEntry]:
    """The prices that hold at the moment, one for each whom.

    Of several the one that began last holds, of several promotions the lowest.
    """
    found: dict[tuple[str, str, int], PriceEntry] = {}
    lowered: dict[tuple[str, str, int], PriceEntry] = {}
    for entry in plan:
        if not _holds(entry, at):
            continue
        if entry.promotion is not None:
            best = lowered.get(entry.whom)
            if best is None or entry.amount_minor < best.amount_minor:
                lowered[entry.whom] = entry
        elif (other := found.get(entry.whom)) is None or _rank(other) < _rank(entry):
            found[entry.whom] = entry
    for whom, promotion in lowered.items():
        usual = found.get(whom)
        if usual is None:
            found[whom] = promotion
        elif promotion.amount_minor < usual.amount_minor:
            was = promotion.list_minor or usual.amount_minor
            found[whom] = replace(promotion, list_minor=was)
    return sorted(found.values(), key=lambda entry: entry.whom)


def boundary(plan: Iterable[PriceEntry], at: datetime) -> datetime | None:
    """The next moment after this one at which some price begins or ends."""
    moments = (time for entry in plan for time in (entry.valid_from, entry.valid_until) if time)
    return min((time for time in moments if time > at), default=None)


def planned(
    plan: Iterable[PriceEntry], changes: Iterable[PriceEntry], at: datetime, *, whole: bool
) -> list[PriceEntry]:
    """The plan with the changes in it, or (`whole`) of them alone; without what has ended."""
    entries = {} if whole else {entry.key: entry for entry in plan}
    entries |= {entry.key: entry for entry in changes}
    return [e for e in entries.values() if e.valid_until is None or e.valid_until > at]


def applicable(
    prices: Iterable[PriceEntry], *, currency: str | None, group: str | None, qty: int | None
) -> list[PriceEntry]:
    """Of prices in force those that a buyer meets, who may name none, some or all of these.

    With a `qty` one for each currency: the group's own tier if it has one, else everybody's.
    """
    met = [
        price
        for price in prices
        if currency in {None, price.currency}
        and (group is None or price.group in {None, group})
        and (qty is None or price.min_qty <= qty)
    ]
    if qty is None:
        return met
    best: dict[str, PriceEntry] = {}
    for price in met:
        if price.group == group or price.group is None:
            best[price.currency] = max(
                price,
                best.get(price.currency, price),
                key=lambda each: (each.group is not None, each.min_qty),
            )
    return list(best.values())


def shown_price(prices: Sequence[PriceEntry], currency: str) -> PriceEntry | None:
    """What one unit costs everybody: in `currency` where it has such a price, else in another."""
    base = [price for price in prices if price.group is None and price.min_qty == 1]
    return next((price for price in base if price.currency == currency), base[0] if base else None)


def flat_prices(prices: Iterable[PriceEntry]) -> str:
    """Each price as `currency:group:min_qty:amount:list`, in the order of their keys."""
    ordered = sorted(prices, key=lambda entry: entry.key)
    return ";".join(":".join(_usual(price)) for price in ordered)


def flat_plan(prices: Iterable[PriceEntry]) -> str:
    """As `flat_prices`; `:from:until:promotion:price list` follows where one of them is given."""
    flat = []
    for price in sorted(prices, key=lambda entry: entry.key):
        times = (_ms(price.valid_from), _ms(price.valid_until))
        rest = [
            *("" if time is None else str(time) for time in times),
            price.promotion or "",
            price.price_list or "",
        ]
        flat.append(":".join(_usual(price) + rest if any(rest) else _usual(price)))
    return ";".join(flat)


def read_prices(flat: str) -> list[PriceEntry]:
    """The entries of a flat text, in the order of their keys."""
    entries = []
    for text in flat.split(";") if flat else []:
        currency, group, min_qty, amount, listed, *rest = text.split(":")
        begin, end, promotion, price_list = rest or ("", "", "", "")
        entries.append(
            PriceEntry(
                currency=currency,
                amount_minor=int(amount),
                list_minor=int(listed) if listed else None,
                group=group or None,
                min_qty=int(min_qty),
                valid_from=moment(begin) if begin else None,
                valid_until=moment(end) if end else None,
                promotion=promotion or None,
                price_list=price_list or None,
            )
        )
    return sorted(entries, key=lambda entry: entry.key)


def moment(ms: str | int) -> datetime:
    """Milliseconds of Redis's clock as a time."""
    return datetime.fromtimestamp(int(ms) / 1000, UTC)


def milliseconds(time: datetime) -> int:
    """The time on Redis's clock; what is less than a millisecond is cut off."""
    return int(time.timestamp() * 1000)


def _ms(time: datetime | None) -> int | None:
    return None if time is None else milliseconds(time)


def _usual(price: PriceEntry) -> list[str]:
    return [
        price.currency,
        price.group or "",
        str(price.min_qty),
        str(price.amount_minor),
        "" if price.list_minor is None else str(price.list_minor),
    ]


def _holds(entry: PriceEntry, at: datetime) -> bool:
    begun = entry.valid_from is None or entry.valid_from <= at
    return begun and (entry.valid_until is None or at < entry.valid_until)


def _rank(entry: PriceEntry) -> tuple[int, int]:
    return _ms(entry.valid_from) or 0, -entry.amount_minor
