"""The names of keys in Redis, the scripts, what a Redis that fails means. Knows no rule of stock.

Every key of a SKU stands in the hash slot of its partition, so that one script may write them all.
How many partitions there are is fixed at install: a SKU never changes its own.
"""

from importlib.resources import files
from types import TracebackType
from typing import Any
from zlib import crc32

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as TooSlow

from chassis.problems import Unavailable


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

    def hold(self, name: object) -> str:
        return f"{self._at}r:{name}"

    def rows(self, job: str) -> str:
        return f"{self._at}rows:{job}"

    def marker(self, what: object) -> str:
        return f"{self._at}in:{what}"


class Slots(tuple[Slot, ...]):
    """All partitions."""

    __slots__ = ()

    @classmethod
    def of(cls, key_prefix: str, partitions: int) -> "Slots":
        return cls(Slot(key_prefix, number) for number in range(partitions))

    def at(self, sku: str) -> Slot:
        """The partition of a SKU."""
        return self[crc32(sku.encode()) % len(self)] if len(self) > 1 else self[0]


class _Answering:
    """A Redis that does not answer, or may not write, is a 503 to whoever asked."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, Unreachable | TooSlow | OutOfMemoryError | ReadOnlyError):
            raise Unavailable("The stock store does not answer.") from error


answering = _Answering()


def script_text(name: str) -> str:
    """The script with what all share in front of it; only the first line may be the shebang."""
    shared, own = ((files("stock") / f"{part}.lua").read_text() for part in ("step", name))
    return shared + own.removeprefix("#!lua")


def script(redis: Redis, name: str) -> Any:
    return redis.register_script(script_text(name))
