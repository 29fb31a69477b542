"""The order ended without a sale; whatever it held is to be given back."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Line, OpenEnum, Shortage, Time


class CancelReason(OpenEnum):
    """Why an order was cancelled."""

    OUT_OF_STOCK = "out_of_stock"
    STOCK_TIMEOUT = "stock_timeout"
    STOCK_LOST = "stock_lost"
    PAYMENT_DECLINED = "payment_declined"
    PAYMENT_TIMEOUT = "payment_timeout"
    HOLD_EXPIRED = "hold_expired"
    CAPTURE_REFUSED = "capture_refused"
    BY_CUSTOMER = "by_customer"
    UNKNOWN = "unknown"


class OrderCancelledV1(Fact, frozen=True, kw_only=True):
    """The order ended without a sale; whatever it held is to be given back."""

    KEY: ClassVar[str] = "order.cancelled.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    lines: list[Line]
    reason: CancelReason
    shortages: list[Shortage] = []
    cancelled_at: Time
