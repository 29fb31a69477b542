"""The names of keys in Redis, and what a Redis that fails means. Knows no rule of stock.

Every key of a SKU stands in the hash slot of its partition, so that one script may write them all.
How many partitions there are is fixed at install: a SKU never changes its own.
"""

from collections.abc import Iterable
from types import TracebackType
from zlib import crc32

from redis.exceptions import (
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import TimeoutError as TooSlow

from chassis.problems import Unavailable

CART = "cart:"
"""In front of a reservation's id: the name of a cart's hold. An order's is its id alone."""

PART = "part:"
"""In front of an order's or a cart's name: what a partition holds for one whose home is another."""


class Slot:
    """The keys of one partition."""

    def __init__(self, key_prefix: str, number: int) -> None:
        self._at = f"{key_prefix}{{s{number}}}:"
        self.number = number
        self.exp = f"{self._at}exp"
        self.ledger = f"{self._at}ledger"
        self.outbox = f"{self._at}outbox"
        self.bounds = f"{self._at}bounds"

    def quantity(self, sku: str) -> str:
        return f"{self._at}q:{sku}"

    def moves(self, sku: str) -> str:
        return f"{self._at}moves:{sku}"

    def price(self, sku: str) -> str:
        return f"{self._at}price:{sku}"

    def plans(self, sku: str) -> str:
        return f"{self._at}plans:{sku}"

    def hold(self, name: object) -> str:
        return f"{self._at}r:{name}"

    def rows(self, job: str) -> str:
        return f"{self._at}rows:{job}"

    def marker(self, what: object) -> str:
        return f"{self._at}in:{what}"

    def fence(self, name: object) -> str:
        return f"{self._at}fence:{name}"

    @property
    def partitions(self) -> str:
        return installed(self._at)


def installed(key: str) -> str:
    """The key that says that the partition of this one was installed."""
    return f"{key.partition('}')[0]}}}:partitions"


def rebuilding(slot: Slot) -> str:
    """The key that says that a rebuild is filling the partition, and how far it has come."""
    return slot.ledger.removesuffix("ledger") + "rebuilding"


class Slots(tuple[Slot, ...]):
    """All partitions."""

    __slots__ = ()

    @classmethod
    def of(cls, key_prefix: str, partitions: int) -> "Slots":
        return cls(Slot(key_prefix, number) for number in range(partitions))

    def at(self, sku: str) -> Slot:
        """The partition of a SKU."""
        return self[crc32(sku.encode()) % len(self)] if len(self) > 1 else self[0]

    def home(self, name: object) -> Slot:
        """Where it is decided what becomes of an order, or of a cart (`cart:<id>`)."""
        return self.at(str(name))

    def parts(self, name: str, skus: Iterable[str]) -> list[Slot]:
        """Where an order or a cart with those SKUs has parts; none if all is in its home.

        They are in the one order in which all take units. An order that has parts has one in its
        home, too: those that want the same units must meet first where the first of them is.
        """
        home, found = self.home(name), {self.at(sku) for sku in skus}
        if name.startswith(CART) or found == {home}:
            found -= {home}
        return sorted(found, key=lambda slot: slot.number, reverse=True)


AWAY = (
    Unreachable,
    TooSlow,
    OutOfMemoryError,
    ReadOnlyError,
    ClusterDownError,
    SlotNotCoveredError,
    TryAgainError,
    RedisClusterException,
)
"""Errors of a Redis, or of a cluster of them, that does not answer or may not write."""


class _Answering:
    """A Redis that does not answer, or may not write, is a 503 to whoever asked."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, AWAY):
            raise Unavailable("The stock store does not answer.") from error


answering = _Answering()
