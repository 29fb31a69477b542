"""Nothing is held, because some lines were short."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Shortage


class ReservationRejectedV1(Fact, frozen=True, kw_only=True):
    """Nothing is held, because some lines were short."""

    KEY: ClassVar[str] = "reservation.rejected.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    shortages: list[Shortage]
