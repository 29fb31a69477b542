"""What the store refuses, each named for what the caller can do about it. Knows no Redis.

Problem (chassis)
+-- InsufficientStock 409   fewer units are available than the step takes
+-- TooManyUnits 409        the SKU would have received more than JSON can count
+-- HoldTaken 409           an order has taken the reservation over
+-- HoldOver 410            the reservation's time is over
+-- UnknownSku 404          nothing was ever said about this SKU
+-- UnknownHold 404         there is no such reservation
+-- KeyReused 422           the Idempotency-Key came with another command
"""

from chassis.problems import Conflict, Gone, Invalid, NotFound


class InsufficientStock(Conflict):
    """Fewer units are available than the step takes."""

    slug = "insufficient-stock"
    title = "There is not enough stock"


class TooManyUnits(Conflict):
    """The SKU would have received more units than JSON can count."""

    slug = "too-many-units"
    title = "That is more than can be counted"


class HoldTaken(Conflict):
    """An order has taken the reservation over: it can be neither changed nor released here."""

    slug = "reservation-taken"
    title = "The reservation belongs to an order"


class HoldOver(Gone):
    """The reservation's time is over: its units may be somebody else's by now."""

    slug = "reservation-over"
    title = "The reservation is over"


class UnknownSku(NotFound):
    """Nothing was ever said about this SKU."""


class UnknownHold(NotFound):
    """There is no such reservation."""


class KeyReused(Invalid):
    """The Idempotency-Key came with another command before."""

    slug = "idempotency-key-reused"
    title = "This Idempotency-Key belongs to another request"
