"""The payment provider as checkout sees it. Knows nothing of orders, and no provider.

Every call carries a key; the same key again moves no money twice. An answer is for good; `Pending`
is none yet. Whatever raises is not an answer: it may have been done. Then ask `known` first, and
only then again, with the same key. A webhook is a hint that asking is worth it now; what it says is
not believed.
"""

from typing import Protocol

from msgspec import Struct

from checkout.domain import Answer, Op, Pending


class Provider(Protocol):
    """Whoever moves the money."""

    async def authorise(self, key: str, token: str, amount_minor: int, currency: str) -> Answer:
        """Put the amount aside."""

    async def capture(self, key: str, ref: str, amount_minor: int) -> Answer:
        """Take what was put aside."""

    async def void(self, key: str, ref: str) -> Answer:
        """Give free what was put aside."""

    async def refund(self, key: str, ref: str, amount_minor: int) -> Answer | Pending:
        """Give back of what was taken."""

    async def known(self, op: Op, key: str, ref: str) -> Answer | None:
        """What became of an operation that may have been done; None if it was not."""

    async def refunded(self, key: str, ref: str) -> Answer | Pending | None:
        """The same for a refund."""


class NoAnswer(Exception):
    """The provider may have done it or not: ask what became of it."""


class BadWebhook(Exception):
    """It was not sent by the provider, or too long ago; the message says which."""


class Notice(Struct, frozen=True):
    """A webhook that the provider did send: something happened to the operation of that key."""

    id: str
    key: str
