"""A parcel of a confirmed order has been handed over."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Time


class OrderDeliveredV1(Fact, frozen=True, kw_only=True):
    """A parcel of a confirmed order has been handed over.

    Which one, `order.shipped` has told; `complete` says that nothing is left to ship, and that all
    parcels have been handed over.
    """

    KEY: ClassVar[str] = "order.delivered.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    shipment_id: Id
    complete: bool
    delivered_at: Time
