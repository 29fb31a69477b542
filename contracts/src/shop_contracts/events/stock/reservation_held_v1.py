"""Every line of the order is held until `expires_at`."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Line, Time


class ReservationHeldV1(Fact, frozen=True, kw_only=True):
    """Every line of the order is held until `expires_at`."""

    KEY: ClassVar[str] = "reservation.held.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    lines: list[Line]
    expires_at: Time
