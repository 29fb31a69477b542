"""Units of SKUs in Redis: how many, and what moved them. Knows no order and no price."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

import uuid_utils
from msgspec import Struct
from redis.asyncio import Redis

from chassis.problems import Conflict, Invalid
from stock.domain import Adjust, Level, Movement, level
from stock.install import Install
from stock.parts import KEEP_MS, Parts
from stock.prices import moment
from stock.scripts import Script
from stock.slots import Slots, answering
from stock.store.problems import InsufficientStock, KeyReused, TooManyUnits, UnknownSku

Change = Literal["created", "updated", "unchanged"]


class Adjusted(Struct, frozen=True):
    """The level after a command, and whether the command had been carried out before."""

    level: Level
    replayed: bool
    change: Change


class Quantities:
    """The units of all SKUs; what holds are in the way of waits until they are ended."""

    def __init__(self, redis: Redis, slots: Slots, install: Install, parts: Parts) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._install = install
        self._parts = parts
        self._adjust = Script(redis, "adjust")
        self._threshold = Script(redis, "threshold")
        self._claiming = Script(redis, "claim")

    async def level(self, sku: str) -> Level:
        """How much there is; raises `UnknownSku`."""
        with answering:
            available, reserved, version, low = await self._redis.execute_command(
                "HMGET", self._slots.at(sku).quantity(sku), "avail", "resv", "ver", "low"
            )
        if version is None:
            await self._install.refuse_empty([sku])
            raise UnknownSku
        return level(sku, int(available), int(reserved), int(version), _number(low))

    async def adjust(
        self, sku: str, command: Adjust, *, key: str | None = None, traceparent: str = ""
    ) -> Adjusted:
        """Change the units on hand. With a `key`, repeating the command changes nothing."""
        with answering:
            await self._claim(sku, key)
            reply = await self._parts.decide(
                self._slots.at(sku), self._adjust, *self._adjusting(sku, command, key, traceparent)
            )
        return _adjusted(sku, reply)

    async def adjust_many(
        self,
        changes: Sequence[tuple[str, Adjust, str | None]],
        traceparent: str = "",
        *,
        job: str = "",
        rows: Sequence[int] = (),
    ) -> list[Adjusted | Conflict | Invalid]:
        """As `adjust` for each (SKU, command, key), in order, in few round trips.

        With a `job`, each change is one of its `rows` and carried out once, however often it comes.
        """
        results: dict[int, Adjusted | Conflict | Invalid] = {}
        numbered = list(rows) if job else [None] * len(changes)
        for place, (sku, _, key) in enumerate(changes):
            try:
                with answering:
                    await self._claim(sku, key)
            except KeyReused as refused:
                results[place] = refused
        left = [place for place in range(len(changes)) if place not in results]
        while left:
            # one change of a SKU at a time: one that holds are in the way of is finished first
            first: dict[str, int] = {}
            for place in left:
                first.setdefault(changes[place][0], place)
            asked = [
                (changes[place][0], self._adjusting(*changes[place], traceparent, job, row))
                for place in first.values()
                for row in [numbered[place]]
            ]
            results |= zip(first.values(), await self._adjust_each(asked), strict=True)
            left = [place for place in left if place not in results]
        return [results[place] for place in range(len(changes))]

    async def set_threshold(self, sku: str, units: int | None) -> Level:
        """Say from how many units on the SKU runs low (None: never); raises `UnknownSku`."""
        found = await self.level(sku)
        slot = self._slots.at(sku)
        with answering:
            await self._threshold(
                (slot.quantity(sku), slot.ledger), (sku, "" if units is None else units)
            )
        return level(sku, found.available, found.reserved, found.version, units)

    async def ledger(
        self, sku: str, *, before: int | None = None, limit: int = 50
    ) -> list[Movement]:
        """The newest movements of a SKU first, those older than version `before`.

        Those that were trimmed, because the journal has them, are left out.
        """
        slot = self._slots.at(sku)
        index = slot.moves(sku)
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hget(slot.quantity(sku), "ver")
            pipe.lrange(index, -limit, -1)
            version, found = await pipe.execute()
            if version is None:
                await self._install.refuse_empty([sku])
                raise UnknownSku
            if before is not None:
                # The n-th movement of a SKU made its version n: a version is a place in the index.
                last = min(before - 1, int(version)) - int(version) - 1
                found = await self._redis.lrange(index, last - limit + 1, last)
            pipe = self._redis.pipeline(transaction=False)
            for entry in reversed(found):
                pipe.xrange(slot.ledger, entry, entry)
            entries = await pipe.execute()
        return [_movement(entry, fields) for found in entries for entry, fields in found]

    async def _adjust_each(
        self, asked: Sequence[tuple[str, tuple[list[str], list[Any]]]]
    ) -> list[Adjusted | Conflict | Invalid]:
        results: list[Adjusted | Conflict | Invalid] = []
        with answering:
            replies = await self._adjust.many([call for _, call in asked])
            for (sku, (keys, args)), answered in zip(asked, replies, strict=True):
                reply = answered
                if reply[0] == "due":  # holds that are over stand in the way: the slow path
                    reply = await self._parts.decide(self._slots.at(sku), self._adjust, keys, args)
                try:
                    results.append(_adjusted(sku, reply))
                except (Conflict, Invalid) as refused:
                    results.append(refused)
        return results

    async def _claim(self, sku: str, key: str | None) -> None:
        """An Idempotency-Key serves one SKU; within its partition the script sees to that."""
        if key is None or len(self._slots) == 1:
            return
        claim = self._slots.home(key).marker(f"of:{key}")
        if await self._claiming([claim], (sku, KEEP_MS)) != [sku]:
            raise KeyReused

    def _adjusting(
        self,
        sku: str,
        command: Adjust,
        key: str | None,
        traceparent: str,
        job: str = "",
        row: int | None = None,
    ) -> tuple[list[str], list[Any]]:
        slot = self._slots.at(sku)
        return (
            [
                slot.quantity(sku),
                slot.moves(sku),
                slot.ledger,
                slot.outbox,
                slot.exp,
                slot.marker(key or ""),
                slot.rows(job),
            ],
            [
                sku,
                command.action.value,
                command.stock,
                key or "",
                str(uuid_utils.uuid7()),
                KEEP_MS,
                traceparent,
                command.reason,
                "" if row is None else row,
            ],
        )


def _adjusted(sku: str, reply: Sequence[Any]) -> Adjusted:
    match reply:
        case ["short", available]:
            raise InsufficientStock(available=available)
        case ["full"]:
            raise TooManyUnits
        case ["reused"]:
            raise KeyReused
    outcome, available, reserved, version, low, change = reply
    return Adjusted(
        level(sku, available, reserved, version, _number(low)), outcome == "replay", change
    )


def _movement(entry: str, fields: Mapping[str, str]) -> Movement:
    return Movement(
        version=int(fields["ver"]),
        at=moment(entry.partition("-")[0]),
        op=fields["op"],
        available=int(fields["davail"]),
        reserved=int(fields["dresv"]),
        sold=int(fields["dsold"]),
        received=int(fields["drecv"]),
        order_id=UUID(fields["order"]) if fields["order"] else None,
        cause=fields["cause"] or None,
        event_id=UUID(fields["event"]),
        reason=fields["reason"],
    )


def _number(text: str | int | None) -> int | None:
    return int(text) if text not in {None, ""} else None
