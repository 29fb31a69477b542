"""The available units of a SKU fell to its threshold or below it."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Count, Sku


class StockRanLowV1(Fact, frozen=True, kw_only=True):
    """The available units of a SKU fell to its threshold or below it."""

    KEY: ClassVar[str] = "stock.ran_low.v1"
    SUBJECT: ClassVar[str] = "sku"

    sku: Sku
    available: Count
    threshold: Count
