"""Documents as they are read, and written while they are still those. Knows no event, no search."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import msgspec
from elasticsearch import ApiError, AsyncElasticsearch, TransportError
from msgspec import Struct

from chassis.problems import Unavailable
from search.domain import Offer, Product

RETRY_AFTER_SECONDS = "2"
PAGE = 1_000

D = TypeVar("D", Offer, Product)


class Refused(Exception):
    """Elasticsearch will not take this document, however often it is asked."""


class Seen(Struct, Generic[D], frozen=True):
    """A document as it was read; `write` goes through only while it is still that one."""

    document: D
    seq_no: int
    primary_term: int


class Documents:
    """The documents of one client; with `by_alias`, written only where an alias says so."""

    def __init__(self, client: AsyncElasticsearch, *, by_alias: bool) -> None:
        self._client = client
        self._by_alias = by_alias

    async def read(self, index: str, ids: Collection[str], type_: type[D]) -> dict[str, Seen[D]]:
        """The documents there are, as of now (not as of the last refresh)."""
        if not ids:
            return {}
        answer = await self._client.mget(index=index, ids=list(ids))
        seen: dict[str, Seen[D]] = {}
        for found in answer["docs"]:
            if "error" in found:
                raise Unavailable(headers={"Retry-After": RETRY_AFTER_SECONDS})
            if found["found"]:
                document = msgspec.convert(found["_source"], type_)
                seen[found["_id"]] = Seen(document, found["_seq_no"], found["_primary_term"])
        return seen

    async def write(
        self, index: str, documents: Mapping[str, D], seen: Mapping[str, Seen[D]]
    ) -> set[str]:
        """Write what differs from what was seen; the ids whose document has changed meanwhile."""
        operations: list[Any] = []
        for id_, document in documents.items():
            before = seen.get(id_)
            if before is None:
                operations += [{"create": {"_id": id_}}, _source(document)]
            elif before.document != document:
                condition = {
                    "_id": id_,
                    "if_seq_no": before.seq_no,
                    "if_primary_term": before.primary_term,
                }
                operations += [{"index": condition}, _source(document)]
        if not operations:
            return set()
        answer = await self._client.bulk(
            index=index, operations=operations, require_alias=self._by_alias
        )
        lost: set[str] = set()
        for item in answer["items"]:
            ((_, result),) = item.items()
            match result["status"]:
                case 200 | 201:
                    pass
                case 409:
                    lost.add(result["_id"])
                case 400:
                    raise Refused(result["error"]["reason"])
                case _:
                    raise Unavailable(headers={"Retry-After": RETRY_AFTER_SECONDS})
        return lost

    async def written(
        self, index: str, key: str, type_: type[D], mark: int
    ) -> tuple[dict[str, D], int]:
        """The documents of writes above the mark, by id, and the mark of the last one."""
        await self._client.indices.refresh(index=index)
        found: dict[str, D] = {}
        newer = {"range": {"_seq_no": {"gt": mark}}}
        after: dict[str, Any] = {}
        while True:
            answer = await self._client.search(
                index=index,
                query=newer,
                sort=[{key: "asc"}],
                size=PAGE,
                seq_no_primary_term=True,
                **after,
            )
            hits = answer["hits"]["hits"]
            for hit in hits:
                found[hit["_id"]] = msgspec.convert(hit["_source"], type_)
                mark = max(mark, hit["_seq_no"])
            if len(hits) < PAGE:
                return found, mark
            after = {"search_after": hits[-1]["sort"]}


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """An Elasticsearch that does not answer, or lacks our indices, is worth a retry."""
    unavailable = Unavailable(
        "The search index does not answer.", headers={"Retry-After": RETRY_AFTER_SECONDS}
    )
    try:
        yield
    except TransportError as error:
        raise unavailable from error
    except ApiError as error:
        if error.status_code in {404, 429} or error.status_code >= 500:  # noqa: PLR2004 - the server's own faults
            raise unavailable from error
        raise


def _source(document: Offer | Product) -> Any:
    return msgspec.to_builtins(document)
