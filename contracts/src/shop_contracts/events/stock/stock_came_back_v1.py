"""Units of a SKU that had none are available again."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Quantity, Sku


class StockCameBackV1(Fact, frozen=True, kw_only=True):
    """Units of a SKU that had none are available again."""

    KEY: ClassVar[str] = "stock.came_back.v1"
    SUBJECT: ClassVar[str] = "sku"

    sku: Sku
    available: Quantity
