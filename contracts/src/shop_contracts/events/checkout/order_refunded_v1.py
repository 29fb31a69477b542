"""Money of a confirmed order was given back, for all of it or a part."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Id, Line, Minor, OpenEnum, PricedLine, Time


class RefundReason(OpenEnum):
    """Why money was given back."""

    RETURNED = "returned"
    DAMAGED = "damaged"
    NOT_DELIVERED = "not_delivered"
    GOODWILL = "goodwill"
    UNKNOWN = "unknown"


class OrderRefundedV1(Fact, frozen=True, kw_only=True):
    """Money of a confirmed order was given back, for all of it or a part.

    `lines` are the units it is for (none: money only), `restocked` those that are for sale again;
    `refunded_minor` is all that was given back for the order so far, this amount included.
    """

    KEY: ClassVar[str] = "order.refunded.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    refund_id: Id
    lines: list[PricedLine]
    restocked: list[Line] = []
    amount_minor: Minor
    refunded_minor: Minor
    currency: Currency
    reason: RefundReason
    refunded_at: Time
