"""Reading and writing documents by id, each on its own condition. Knows no document's content."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from elasticsearch import ApiError, AsyncElasticsearch, TransportError

from chassis.problems import Unavailable

Write = tuple[dict[str, Any], dict[str, Any]]
"""One operation of a bulk: what to do, and the document."""

TAKEN = 409
_MOMENTARY = {404, 429, 502, 503, 504}  # 404: an index that is still to be created


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Turn a server that is away, starting or overloaded into Unavailable."""
    try:
        yield
    except TransportError as error:
        raise Unavailable("The catalogue does not answer.") from error
    except ApiError as error:
        if error.status_code in _MOMENTARY:
            raise Unavailable("The catalogue cannot answer just now.") from error
        raise


async def read_one(client: AsyncElasticsearch, index: str, name: str) -> dict[str, Any] | None:
    """The document as of the last write, or None; realtime, so never behind a refresh."""
    return (await read_many(client, index, [name]))[0]


async def read_many(
    client: AsyncElasticsearch, index: str, names: Sequence[str]
) -> list[dict[str, Any] | None]:
    """The documents with these ids, in their order."""
    if not names:
        return []
    async with answering():
        answer = await client.mget(index=index, ids=list(names))
    for doc in answer["docs"]:
        if "error" in doc:
            raise Unavailable("The catalogue cannot be read just now.")
    return [doc if doc["found"] else None for doc in answer["docs"]]


def write(index: str, name: str, source: dict[str, Any], found: dict[str, Any] | None) -> Write:
    """A write on condition that nobody wrote the document since it was found, or not found."""
    where = {"_index": index, "_id": name}
    if found is None:
        return {"create": where}, source
    since = {"if_seq_no": found["_seq_no"], "if_primary_term": found["_primary_term"]}
    return {"index": where | since}, source


async def bulk(client: AsyncElasticsearch, operations: Sequence[Write]) -> list[int]:
    """The status of each write: done, or 409 because its condition did not hold.

    Anything else raises, after the good items are written: the caller starts again and finds them.
    """
    if not operations:
        return []
    async with answering():
        answer = await client.bulk(operations=[part for pair in operations for part in pair])
    results = [next(iter(item.values())) for item in answer["items"]]
    for result in results:
        if result["status"] in _MOMENTARY:
            raise Unavailable("The catalogue cannot be written just now.")
        if result["status"] >= 400 and result["status"] != TAKEN:  # noqa: PLR2004
            raise RuntimeError(f"a document was refused: {result['error']['type']}")
    return [result["status"] for result in results]


async def find(
    client: AsyncElasticsearch, index: str, **request: Any
) -> tuple[list[dict[str, Any]], int]:
    """The documents that a search finds and how many there are; up to a second behind."""
    async with answering():
        answer = await client.search(
            index=index,
            track_total_hits=True,
            source_excludes=["pending_events", "has_pending"],
            **request,
        )
    hits = answer["hits"]
    return [hit["_source"] for hit in hits["hits"]], int(hits["total"]["value"])
