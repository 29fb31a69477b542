"""Which queue a consumer reads, and what its binding brings. Pure: nothing is declared here."""

import re
from typing import Literal

from msgspec import Struct

from shop_contracts import topology
from shop_contracts.events import OWNER_OF

_OUTSIDE = re.compile(r"ext\.[a-z0-9][a-z0-9-]*\.[a-z0-9][a-z0-9.-]*")


class BadSubscription(Exception):
    """The broker would refuse the queue, or the type would never arrive in it."""


class Subscription(Struct, frozen=True, kw_only=True):
    """A queue with one binding. `acme.stock` is short for the outside queue `ext.acme.stock`.

    `order`: "by-version" where the consumer keeps the newest state of a subject, "any" where it
    keeps every event.
    """

    name: str
    binding: str | None = None
    order: Literal["by-version", "any"] = "by-version"

    @property
    def inside(self) -> bool:
        """Whether the queue is the shop's own and stands in the topology."""
        return self.name in {queue.name for queue in topology.TOPOLOGY.queues}

    @property
    def queue(self) -> str:
        """The name of the queue in the broker."""
        return self.name if self.inside or self.name.startswith("ext.") else f"ext.{self.name}"

    def check(self, key: str) -> None:
        """Raise `BadSubscription` unless events `key` arrive in the queue."""
        exchange = topology.exchange(OWNER_OF[key])
        if self.inside:
            keys = [
                binding.key
                for binding in topology.TOPOLOGY.bindings
                if binding.queue == self.queue and binding.exchange == exchange
            ]
        else:
            if not _OUTSIDE.fullmatch(self.queue):
                raise BadSubscription(
                    f"queue {self.queue!r}: outside teams declare ext.<team>.<topic>, in lower case"
                )
            keys = [self.binding or key]
        if not any(topology.matches(pattern, key) for pattern in keys):
            raise BadSubscription(
                f"{key} never reaches {self.queue}: its bindings on {exchange} are {keys}"
            )
