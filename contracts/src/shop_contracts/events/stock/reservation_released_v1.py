"""The held or sold units of the order are available again."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Line


class ReservationReleasedV1(Fact, frozen=True, kw_only=True):
    """The held or sold units of the order are available again."""

    KEY: ClassVar[str] = "reservation.released.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    lines: list[Line]
