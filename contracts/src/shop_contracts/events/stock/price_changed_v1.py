"""The prices in force of one SKU changed."""

from typing import ClassVar

from msgspec import Struct

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Minor, Quantity, Sku, Text, Time


class Price(Struct, frozen=True, kw_only=True):
    """The price of one unit, from `min_qty` units on, for one customer group (None = everybody)."""

    currency: Currency
    amount_minor: Minor
    list_minor: Minor | None = None
    group: Text | None = None
    min_qty: Quantity = 1


class PriceChangedV1(Fact, frozen=True, kw_only=True):
    """The prices in force of one SKU changed."""

    KEY: ClassVar[str] = "price.changed.v1"
    SUBJECT: ClassVar[str] = "sku"

    sku: Sku
    prices: list[Price]
    valid_until: Time | None = None
