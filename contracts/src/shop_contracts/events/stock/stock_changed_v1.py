"""The units of one SKU moved; `on_hand` = `reserved` + `available`."""

from enum import StrEnum
from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Count, Id, Sku


class Cause(StrEnum):
    """Why the units moved."""

    ADJUSTED = "adjusted"
    HELD = "held"
    RELEASED = "released"
    EXPIRED = "expired"
    COMMITTED = "committed"
    RETURNED = "returned"


class StockChangedV1(Fact, frozen=True, kw_only=True):
    """The units of one SKU moved; `on_hand` = `reserved` + `available`."""

    KEY: ClassVar[str] = "stock.changed.v1"
    SUBJECT: ClassVar[str] = "sku"

    sku: Sku
    on_hand: Count
    reserved: Count
    available: Count
    cause: Cause
    order_id: Id | None = None
