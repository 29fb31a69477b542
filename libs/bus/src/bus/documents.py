"""The outbox in Elasticsearch: pending events inside the document they are about.

A document with pending events carries `pending_events` (encoded events, oldest first; mapping
`enabled: false`) and `has_pending: true`. One document write is atomic, so state and event are.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

from elasticsearch import AsyncElasticsearch
from msgspec import Struct

from bus import failpoints
from bus.outbox import Entry
from shop_contracts.envelope import Event, encode, meta_of
from shop_contracts.events.base import Fact

POLL_SECONDS = 0.2
IDLE_POLLS = 5
SAMPLE = 100
PENDING = ["pending_events"]
ANSWER = ["errors", *(f"items.*.{name}" for name in ("_index", "_id", "status", "error.type"))]

MAPPING: dict[str, Any] = {
    "pending_events": {"type": "object", "enabled": False},
    "has_pending": {"type": "boolean"},
}
"""What the mapping of an index with pending events holds besides its own fields."""


def pend(source: dict[str, Any], events: Iterable[Event[Fact]]) -> None:
    """Put events into the document that is about to be written."""
    pending = [*source.get("pending_events", []), *(encode(event).decode() for event in events)]
    source["pending_events"] = pending
    source["has_pending"] = bool(pending)


class _Pending(Struct, frozen=True):
    """The events of one document, as of the write with these numbers."""

    index: str
    id: str
    seq_no: int
    primary_term: int
    bodies: tuple[str, ...]

    @classmethod
    def of(cls, doc: Mapping[str, Any]) -> "_Pending":
        """Of a document that was found or got with its `pending_events`."""
        bodies = tuple(doc["_source"].get("pending_events", ()))
        return cls(doc["_index"], doc["_id"], doc["_seq_no"], doc["_primary_term"], bodies)


class ElasticOutbox:
    """The pending events of all documents in `index` (a name or a comma-separated list).

    All events of a document leave together: so it is written once. The `limit` is of documents.
    """

    def __init__(self, client: AsyncElasticsearch, index: str) -> None:
        self._client = client
        self._index = index

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        for _ in range(1 if behind else IDLE_POLLS):
            entries = await self._oldest(limit, {entry.ref.id for entry in behind})
            if entries or behind:
                return entries
            await asyncio.sleep(POLL_SECONDS)
        return []

    async def _oldest(self, limit: int, without: Collection[str]) -> Sequence[Entry]:
        # a search sees a write only after a refresh; without new writes a refresh costs nothing.
        # A copy that is late all the same repeats what was settled, and settling that conflicts.
        await self._client.indices.refresh(index=self._index)
        found = await self._client.search(
            index=self._index,
            query={
                "bool": {
                    "filter": {"term": {"has_pending": True}},
                    "must_not": {"ids": {"values": list(without)}},
                }
            },
            sort=["_doc"],
            size=limit,
            source_includes=PENDING,
            seq_no_primary_term=True,
            track_total_hits=False,
        )
        return [
            Entry.read(document, body.encode())
            for document in map(_Pending.of, found["hits"]["hits"])
            for body in document.bodies
        ]

    async def settle(self, entries: Sequence[Entry]) -> None:
        done: dict[tuple[str, str], set[str]] = {}
        seen: dict[tuple[str, str], _Pending] = {}
        for entry in entries:
            place = entry.ref.index, entry.ref.id
            seen[place] = entry.ref
            done.setdefault(place, set()).add(entry.body.decode())
        while seen:
            conflicts = await self._forget(seen, done)
            seen = await self._again(conflicts) if conflicts else {}

    async def _forget(
        self, seen: Mapping[tuple[str, str], _Pending], done: Mapping[tuple[str, str], set[str]]
    ) -> list[tuple[str, str]]:
        """Take from each document what is done; those that were written meanwhile."""
        operations: list[dict[str, Any]] = []
        for place, was in seen.items():
            left = [body for body in was.bodies if body not in done[place]]
            condition = {"if_seq_no": was.seq_no, "if_primary_term": was.primary_term}
            operations += [
                {"update": {"_index": was.index, "_id": was.id, **condition}},
                {"doc": {"pending_events": left, "has_pending": bool(left)}},
            ]
        failpoints.reach("outbox.documents.settling")
        answer = await self._client.bulk(
            operations=operations,
            filter_path=ANSWER,
        )
        conflicts: list[tuple[str, str]] = []
        for item in answer["items"] if answer["errors"] else []:
            result = item["update"]
            match result["status"]:
                case HTTPStatus.CONFLICT:
                    conflicts.append((result["_index"], result["_id"]))
                case HTTPStatus.OK | HTTPStatus.NOT_FOUND:
                    continue
                case _:
                    # the next round publishes again, which costs a duplicate and no event
                    raise ConnectionError(f"settling failed: {result}")
        return conflicts

    async def _again(self, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], _Pending]:
        """The documents as they are now."""
        got = await self._client.mget(
            docs=[{"_index": index, "_id": id_} for index, id_ in places],
            source_includes=PENDING,
        )
        return {
            (doc["_index"], doc["_id"]): _Pending.of(doc) for doc in got["docs"] if doc.get("found")
        }

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many documents have pending events, and the oldest event among the first of them."""
        await self._client.indices.refresh(index=self._index)
        found = await self._client.search(
            index=self._index,
            query={"term": {"has_pending": True}},
            size=SAMPLE,
            source_includes=PENDING,
            track_total_hits=True,
        )
        hits = found["hits"]["hits"]
        bodies = [body for hit in hits for body in hit["_source"].get("pending_events", [])]
        times = [meta_of(body.encode()).time for body in bodies]
        return int(found["hits"]["total"]["value"]), min(times, default=None)
