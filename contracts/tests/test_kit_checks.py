"""Each planted bug fails the check of its name and no other; the right consumer passes them all."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shop_contracts.events import BY_KEY
from shop_contracts.kit.checks import CHECKS, Broken, NotApplicable, Subject, cases
from shop_contracts.kit.messages import Message
from shop_contracts.kit.subscriptions import Subscription

KEY = "stock.changed.v1"
FIELDS = {"sku", "on_hand", "reserved", "available", "cause", "order_id"}


class Away(Exception):
    """The store does not answer."""


class Right:
    """Keeps the newest level of each SKU and counts the changes it saw."""

    binding: str | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._away = False
        with self._open() as database:
            database.execute(
                "CREATE TABLE levels (sku TEXT PRIMARY KEY, available INT, version INT)"
            )
            database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY)")
            database.execute("CREATE TABLE changes (sku TEXT)")

    async def on_message(self, message: Message) -> None:
        try:
            event = self.parse(message)
        except (ValueError, KeyError, TypeError):
            await message.reject(requeue=False)
            return
        try:
            self.store(event)
        except Away:
            await message.nack(requeue=True)
            return
        await message.ack()

    def parse(self, message: Message) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(message.body)
        data = event["data"]
        return {
            **event,
            "data": {**data, "sku": str(data["sku"]), "available": int(data["available"])},
        }

    def store(self, event: dict[str, Any]) -> None:
        with self._open() as database:
            if self.first_time(database, event):
                database.execute("INSERT INTO changes VALUES (?)", (event["data"]["sku"],))
            self.keep(database, event)

    def first_time(self, database: sqlite3.Connection, event: dict[str, Any]) -> bool:
        known = database.execute("SELECT version FROM levels WHERE sku = ?", (event["subject"],))
        row = known.fetchone()
        if row is not None and row[0] > event["entityversion"]:
            return False
        done = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event["id"],))
        return done.rowcount == 1

    def keep(self, database: sqlite3.Connection, event: dict[str, Any]) -> None:
        database.execute(
            "INSERT INTO levels VALUES (?1, ?2, ?3) ON CONFLICT (sku) DO UPDATE"
            " SET available = ?2, version = ?3 WHERE version < ?3",
            (event["data"]["sku"], event["data"]["available"], event["entityversion"]),
        )

    def effects(self) -> Any:
        away, self._away = self._away, False
        with self._open() as database:
            found = [
                database.execute("SELECT * FROM levels ORDER BY sku").fetchall(),
                database.execute("SELECT * FROM changes").fetchall(),
            ]
        self._away = away
        return found

    @contextmanager
    def outage(self) -> Iterator[None]:
        self._away = True
        yield
        self._away = False

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self._away:
            raise Away
        with closing(sqlite3.connect(self._path)) as database, database:
            yield database


class CrashesOnUnknownField(Right):
    def parse(self, message: Message) -> dict[str, Any]:
        event = super().parse(message)
        unknown = set(event["data"]) - FIELDS
        if unknown:
            raise RuntimeError(unknown)
        return event


class NotIdempotent(Right):
    def first_time(self, database: sqlite3.Connection, event: dict[str, Any]) -> bool:
        super().first_time(database, event)
        known = database.execute("SELECT version FROM levels WHERE sku = ?", (event["subject"],))
        row = known.fetchone()
        return row is None or row[0] <= event["entityversion"]


class TrustsOrder(Right):
    def keep(self, database: sqlite3.Connection, event: dict[str, Any]) -> None:
        database.execute(
            "INSERT OR REPLACE INTO levels VALUES (?, ?, ?)",
            (event["data"]["sku"], event["data"]["available"], event["entityversion"]),
        )


class AcksBeforeCommit(Right):
    async def on_message(self, message: Message) -> None:
        try:
            event = self.parse(message)
        except (ValueError, KeyError, TypeError):
            await message.reject(requeue=False)
            return
        await message.ack()
        self.store(event)


class RetriesMalformed(Right):
    async def on_message(self, message: Message) -> None:
        try:
            self.store(self.parse(message))
        except (ValueError, KeyError, TypeError, Away):
            await message.nack(requeue=True)
            return
        await message.ack()


class AcksMalformed(Right):
    async def on_message(self, message: Message) -> None:
        try:
            json.loads(message.body)["data"]["sku"]
        except (ValueError, KeyError, TypeError):
            await message.ack()
            return
        await super().on_message(message)


class SkipsRedelivered(Right):
    async def on_message(self, message: Message) -> None:
        if message.redelivered and "x-delivery-count" not in message.headers:
            raise AssertionError("a second delivery carries its count")
        if message.redelivered and self.effects() == [[], []] and not self.tried:
            await message.ack()
            return
        self.tried = True
        await super().on_message(message)

    tried = False


class PinsTheMinor(Right):
    def parse(self, message: Message) -> dict[str, Any]:
        event = super().parse(message)
        if ".1" in event["dataschema"].replace("v1", ""):
            raise RuntimeError(event["dataschema"])
        return event


class RefusesCharset(Right):
    async def on_message(self, message: Message) -> None:
        if message.content_type != "application/cloudevents+json":
            await message.reject()
            return
        await super().on_message(message)


class ParksStale(Right):
    async def on_message(self, message: Message) -> None:
        try:
            event = self.parse(message)
        except (ValueError, KeyError, TypeError):
            await message.reject(requeue=False)
            return
        for _, _, version in self.effects()[0]:
            if version > event["entityversion"]:
                await message.reject(requeue=False)
                return
        await super().on_message(message)


class KnowsFiveCauses(Right):
    def parse(self, message: Message) -> dict[str, Any]:
        event = super().parse(message)
        if event["data"]["cause"] == "returned":
            raise RuntimeError(event["data"]["cause"])
        return event


class ParksInAnOutage(Right):
    async def on_message(self, message: Message) -> None:
        try:
            self.store(self.parse(message))
        except (ValueError, KeyError, TypeError, Away):
            await message.reject(requeue=False)
            return
        await message.ack()


class BindsAnotherType(Right):
    binding = "price.#"


class DoesNothing(Right):
    async def on_message(self, message: Message) -> None:
        try:
            self.parse(message)
        except (ValueError, KeyError, TypeError):
            await message.reject(requeue=False)
            return
        if self._away:
            await message.nack()
            return
        await message.ack()


def failing(make: Callable[[], Right]) -> dict[str, str]:
    """The cases that a consumer fails, with what they say; a fresh consumer for each."""

    async def run() -> dict[str, str]:
        broken: dict[str, str] = {}
        for case in cases(KEY):
            consumer = make()
            subscription = Subscription(name="acme.stock", binding=consumer.binding)
            outage: Callable[[], AbstractContextManager[None]] = consumer.outage
            subject = Subject(case, subscription, consumer.on_message, consumer.effects, outage)
            try:
                await CHECKS[case.check](subject)
            except Broken as error:
                broken[case.id.removeprefix(KEY + "-")] = str(error)
            except NotApplicable:
                pass
        return broken

    return asyncio.run(run())


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[type[Right]], Callable[[], Right]]:
    numbers = iter(range(1000))

    def of(kind: type[Right]) -> Callable[[], Right]:
        return lambda: kind(tmp_path / f"{next(numbers)}.db")

    return of


Fresh = Callable[[type[Right]], Callable[[], Right]]


def test_the_right_consumer_passes_every_check(fresh: Fresh) -> None:
    assert {} == failing(fresh(Right))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (CrashesOnUnknownField, "unknown-field"),
        (NotIdempotent, "duplicate"),
        (TrustsOrder, "reordered"),
        (AcksBeforeCommit, "ack-after-commit"),
        (RetriesMalformed, "malformed"),
        (AcksMalformed, "malformed"),
        (SkipsRedelivered, "redelivered"),
        (PinsTheMinor, "next-minor"),
        (RefusesCharset, "next-minor"),
        (ParksStale, "stale"),
        (KnowsFiveCauses, "golden[cause-returned]"),
        (ParksInAnOutage, "outage"),
        (BindsAnotherType, "subscription"),
    ],
)
def test_a_planted_bug_fails_its_own_check_only(
    fresh: Fresh, kind: type[Right], check: str
) -> None:
    assert [check] == list(failing(fresh(kind)))


def test_a_consumer_without_effect_proves_nothing_and_is_told_so(fresh: Fresh) -> None:
    broken = failing(fresh(DoesNothing))

    assert "changed nothing" in broken["effect"]
    assert {"effect", "redelivered", "outage"} == set(broken)


@pytest.mark.parametrize("key", BY_KEY)
def test_every_event_type_has_all_checks_and_a_golden_of_each(key: str) -> None:
    assert set(CHECKS) == {case.check for case in cases(key)}
    assert "full" in {case.example for case in cases(key)}
