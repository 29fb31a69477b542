"""Units of a confirmed order left the house."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Line, Text, Time


class OrderShippedV1(Fact, frozen=True, kw_only=True):
    """Units of a confirmed order left the house.

    `lines` are the units of this parcel, with its carrier's name and tracking number where it has
    one; `complete` says that of the order's units that were not given back none is left to ship.
    """

    KEY: ClassVar[str] = "order.shipped.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    shipment_id: Id
    lines: list[Line]
    carrier: Text
    tracking: Text | None = None
    complete: bool
    shipped_at: Time
