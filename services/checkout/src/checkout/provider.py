"""The payment provider as checkout sees it, and a simulator of one. Knows nothing of orders.

Every call carries a key; the same key again gets the same answer and moves no money twice. An
answer is for good. Whatever raises is not an answer: ask again with the same key.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from checkout.domain import Answer, Approved, Refused


class Provider(Protocol):
    """Whoever moves the money."""

    async def authorise(self, key: str, token: str, amount_minor: int, currency: str) -> Answer:
        """Put the amount aside."""

    async def capture(self, key: str, ref: str, amount_minor: int) -> Answer:
        """Take what was put aside."""

    async def void(self, key: str, ref: str) -> Answer:
        """Give free what was put aside."""


class Simulator:
    """A provider without money; the token decides how it behaves.

    `tok_ok` approves, `tok_decline` declines, `tok_slow` approves after two seconds,
    `tok_error_once` approves but loses its first answer on the way, `tok_capture_refused` approves
    and then refuses to be captured. Any other token is an unknown card.
    """

    SLOW_SECONDS = 2.0

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}

    async def authorise(self, key: str, token: str, amount_minor: int, currency: str) -> Answer:
        first = key not in self.answers
        answer = self._once(key, lambda: _authorised(key, token, amount_minor, currency))
        if token == "tok_slow":  # noqa: S105 - the name of a behaviour
            await asyncio.sleep(self.SLOW_SECONDS)
        if token == "tok_error_once" and first:  # noqa: S105 - as above
            raise ConnectionResetError("the answer was lost on the way")
        return answer

    async def capture(self, key: str, ref: str, amount_minor: int) -> Answer:
        refused = amount_minor < 0 or ref.startswith("sim-uncapturable")
        return self._once(
            key, lambda: Refused("no longer authorised") if refused else Approved(ref)
        )

    async def void(self, key: str, ref: str) -> Answer:
        return self._once(key, lambda: Approved(ref))

    def _once(self, key: str, answer: Callable[[], Answer]) -> Answer:
        if key not in self.answers:
            self.answers[key] = answer()
        return self.answers[key]


def _authorised(key: str, token: str, amount_minor: int, currency: str) -> Answer:
    match token:
        case "tok_ok" | "tok_slow" | "tok_error_once":
            return Approved(f"sim-{currency}-{amount_minor}-{key}")
        case "tok_capture_refused":
            return Approved(f"sim-uncapturable-{key}")
        case "tok_decline":
            return Refused("the card was declined")
        case _:
            return Refused("the card is unknown")
