"""The outbox in Elasticsearch: pending events inside the document they are about.

A document with pending events carries `pending_events` (encoded events, oldest first; mapping
`enabled: false`) and `has_pending: true`. One document write is atomic, so state and event are.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

from elasticsearch import AsyncElasticsearch

from bus import failpoints
from bus.outbox import Entry
from shop_contracts.envelope import Event, decode, encode
from shop_contracts.events.base import Fact

CONFLICT = HTTPStatus.CONFLICT
POLL_SECONDS = 0.2
IDLE_POLLS = 5
SAMPLE = 100

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


class ElasticOutbox:
    """The pending events of all documents in `index` (a name or a comma-separated list)."""

    def __init__(self, client: AsyncElasticsearch, index: str) -> None:
        self._client = client
        self._index = index

    async def pending(self, limit: int) -> Sequence[Entry]:
        for _ in range(IDLE_POLLS):
            entries = await self._oldest(limit)
            if entries:
                return entries
            await asyncio.sleep(POLL_SECONDS)
        return []

    async def _oldest(self, limit: int) -> Sequence[Entry]:
        # a search sees a write only after a refresh; without new writes a refresh costs nothing
        await self._client.indices.refresh(index=self._index)
        found = await self._client.search(
            index=self._index, query={"term": {"has_pending": True}}, size=limit, source=False
        )
        hits = found["hits"]["hits"]
        if not hits:
            return []
        # the search may be behind what was settled a moment ago; the get by id never is
        got = await self._client.mget(
            docs=[{"_index": hit["_index"], "_id": hit["_id"]} for hit in hits],
            source_includes=["pending_events"],
        )
        return [
            Entry((doc["_index"], doc["_id"]), decode(body.encode()))
            for doc in got["docs"]
            if doc.get("found")
            for body in doc["_source"].get("pending_events", [])
        ]

    async def settle(self, entries: Sequence[Entry]) -> None:
        done: dict[tuple[str, str], set[str]] = defaultdict(set)
        for entry in entries:
            done[entry.ref].add(str(entry.event.meta.id))
        while done:
            got = await self._client.mget(docs=[{"_index": i, "_id": d} for i, d in done])
            operations: list[dict[str, Any]] = []
            for doc in got["docs"]:
                if not doc.get("found"):
                    continue
                source = doc["_source"]
                gone = done[doc["_index"], doc["_id"]]
                left = [
                    body
                    for body in source.get("pending_events", [])
                    if str(decode(body.encode()).meta.id) not in gone
                ]
                source.update(pending_events=left, has_pending=bool(left))
                operations += [
                    {
                        "index": {
                            "_index": doc["_index"],
                            "_id": doc["_id"],
                            "if_seq_no": doc["_seq_no"],
                            "if_primary_term": doc["_primary_term"],
                        }
                    },
                    source,
                ]
            if not operations:
                return
            failpoints.reach("outbox.documents.settling")
            answer = await self._client.bulk(operations=operations)
            conflicts = {
                (item["index"]["_index"], item["index"]["_id"])
                for item in answer["items"]
                if item["index"]["status"] == CONFLICT
            }
            failed = [
                item["index"]
                for item in answer["items"]
                if item["index"]["status"] not in {HTTPStatus.OK, HTTPStatus.CREATED, CONFLICT}
            ]
            if failed:
                # not settled: the next round publishes again, which costs a duplicate and no event
                raise ConnectionError(f"settling failed: {failed[0]}")
            done = {ref: ids for ref, ids in done.items() if ref in conflicts}

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many documents have pending events, and the oldest event among the first of them."""
        await self._client.indices.refresh(index=self._index)
        found = await self._client.search(
            index=self._index,
            query={"term": {"has_pending": True}},
            size=SAMPLE,
            source_includes=["pending_events"],
            track_total_hits=True,
        )
        hits = found["hits"]["hits"]
        bodies = [body for hit in hits for body in hit["_source"].get("pending_events", [])]
        times = [decode(body.encode()).meta.time for body in bodies]
        return int(found["hits"]["total"]["value"]), min(times, default=None)
