"""HTTP in, for what is too much for one answer: feeds and rows become jobs. Knows no driver.

The upload is written down as it comes, whatever its length; the worker carries the job.
"""

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Meta, Raw, Struct

from chassis.http import get, post, query, reply
from chassis.http.reading import CLOSE, refuse_encodings
from chassis.problems import (
    BadQuery,
    BadRequest,
    Invalid,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
)
from feeds import formats, jobs
from feeds.rows import BadUpload, FeedError, KeyTaken, NoSuchJob, NoSuchPlace
from feeds.rows import TooLarge as FeedTooLarge
from stock import bulk
from stock.idempotency import BadKey, idempotency_key
from stock.store.problems import KeyReused

SPOOL = web.AppKey("spool", Path)

MAX_FIELD = 64 * 1024
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class BadFeed(Invalid):
    """The upload is no feed that can be read; `code` says why."""

    slug = "bad-feed"
    title = "The feed cannot be taken"


class ResultsQuery(Struct, frozen=True, kw_only=True):
    """A page of results: at most `limit` from the place `after` on, the `next` of another page."""

    after: Annotated[int, Meta(ge=0, le=2**53)] = 0
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class Results(Struct, frozen=True, kw_only=True):
    """What became of rows, in their order.

    Each has `line`, `result` (created, updated, unchanged, failed), then what is known of the SKU,
    or `code` and `reason`. `next` is the `after` of what follows, null when nothing will.
    """

    items: list[Any]
    next: int | None


async def post_import(request: web.Request) -> web.Response:
    """Queue a feed of stock and prices; the job tells what became of each row.

    A multipart form: `format`, `mapping` (a shipped one's name, or the text of another) and
    `currency` first, then the files.
    """
    with _feed_problems():
        form = _Form(request)
        fields = await form.fields()
        job = await jobs.spool(
            request.app[SPOOL],
            form.files(),
            format=fields.get("format", ""),
            mapping=fields.get("mapping", ""),
            currency=fields.get("currency", ""),
        )
    return reply(job, status=202, headers={"Location": f"/stock/imports/{job.id}"})


async def get_import(request: web.Request) -> web.Response:
    """How far a job has come, and the rows it refused."""
    return reply(_job(request, formats.FORMATS))


async def post_stock(request: web.Request) -> web.Response:
    """Queue changes of stock, one JSON line each: `{"sku", "set" | "delta", "reason"?}`."""
    return await _queue(request, bulk.STOCK, "/stock/bulk")


async def get_stock(request: web.Request) -> web.Response:
    """How far a job has come, and the first rows it refused."""
    return reply(_job(request, {bulk.STOCK}))


async def get_stock_results(request: web.Request) -> web.Response:
    """What became of each row so far."""
    return _results(request, bulk.STOCK)


async def post_prices(request: web.Request) -> web.Response:
    """Queue changes of prices, one JSON line each: `{"sku", "how"?, "prices"}`."""
    return await _queue(request, bulk.PRICES, "/prices/bulk")


async def get_prices(request: web.Request) -> web.Response:
    """How far a job has come, and the first rows it refused."""
    return reply(_job(request, {bulk.PRICES}))


async def get_prices_results(request: web.Request) -> web.Response:
    """What became of each row so far."""
    return _results(request, bulk.PRICES)


async def _queue(request: web.Request, kind: str, path: str) -> web.Response:
    refuse_encodings(request.headers)
    if request.content_type not in NDJSON:
        raise UnsupportedMediaType(f"Send {NDJSON[0]}.", headers={"Accept": NDJSON[0]})
    key = idempotency_key(request) or ""

    async def parts() -> AsyncIterator[jobs.Part]:
        yield "rows", request.content.iter_chunked(MAX_FIELD)

    with _feed_problems():
        job, replayed = await jobs.keep(request.app[SPOOL], parts(), format=kind, key=key)
    headers = {"Location": f"{path}/{job.id}", "Retry-After": "1"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return reply(job, status=202, headers=headers)


def _job(request: web.Request, kinds: Collection[str]) -> jobs.Job:
    with _feed_problems():
        job = jobs.find(request.app[SPOOL], request.match_info["id"])
    if job.format not in kinds:
        raise NotFound
    return job


def _results(request: web.Request, kind: str) -> web.Response:
    page = query(request, ResultsQuery)
    job = _job(request, {kind})
    with _feed_problems():
        items, end = jobs.results(request.app[SPOOL] / job.id, page.after, page.limit)
    ended = job.finished is not None and end >= job.results
    return reply(Results(items=list[Raw](items), next=None if ended else end))


class _Form:
    """A multipart form whose text fields come before its files; nothing is kept in memory."""

    def __init__(self, request: web.Request) -> None:
        if request.content_type != "multipart/form-data":
            raise UnsupportedMediaType("Send multipart/form-data.")
        self._request = request
        self._part: BodyPartReader | None = None

    async def fields(self) -> dict[str, str]:
        self._reader = await self._request.multipart()
        found: dict[str, str] = {}
        while (part := await self._next()) is not None and part.filename is None:
            text = bytearray()
            async for chunk in _chunks(part):
                text += chunk
                if len(text) > MAX_FIELD:
                    raise TooLarge(f"A field takes at most {MAX_FIELD} bytes.", headers=CLOSE)
            found[part.name or ""] = text.decode()
        self._part = part
        if unknown := found.keys() - {"format", "mapping", "currency"}:
            raise BadUpload(f"{len(unknown)} field(s) are none of format, mapping, currency")
        return found

    async def files(self) -> AsyncIterator[jobs.Part]:
        while self._part is not None:
            if self._part.filename is None:
                raise BadUpload("the fields come before the files")
            yield self._part.filename, _chunks(self._part)
            self._part = await self._next()

    async def _next(self) -> BodyPartReader | None:
        part = await self._reader.next()
        if isinstance(part, MultipartReader):
            raise BadUpload("a form inside a form cannot be read")
        return part


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(MAX_FIELD):
        yield chunk


@contextmanager
def _feed_problems() -> Iterator[None]:
    try:
        yield
    except NoSuchJob as error:
        raise NotFound from error
    except NoSuchPlace as error:
        raise BadQuery(
            errors=[{"pointer": "/after", "code": error.code, "detail": f"{error}."}]
        ) from error
    except KeyTaken as error:
        raise KeyReused from error
    except FeedTooLarge as error:
        raise TooLarge(str(error)) from error
    except FeedError as error:
        raise BadFeed(str(error), code=error.code) from error
    except (ValueError, HttpProcessingError, web.RequestPayloadError) as error:
        # what aiohttp and the text codec say of a form that is none
        raise BadRequest("The body is malformed.") from error


_WRITE = "stock:write"
_JOB: dict[str, Any] = {"reply": jobs.Job, "scope": _WRITE, "problems": (NotFound,)}
_RESULTS: dict[str, Any] = {
    "query": ResultsQuery,
    "reply": Results,
    "scope": _WRITE,
    "problems": (NotFound,),
}
_BULK: dict[str, Any] = {
    "reply": jobs.Job,
    "status": 202,
    "scope": _WRITE,
    "max_body": jobs.LIMIT,
    "stream_body": True,
    "timeout": None,
    "problems": (BadFeed, TooLarge, UnsupportedMediaType, BadRequest, BadKey, KeyReused),
    "headers": {"Idempotency-Key": "The same rows under the same key are the job that they were."},
    "sends": {
        "Location": "Where the job tells how far it has come.",
        "Idempotent-Replayed": "`true` when the rows had come before.",
    },
}

ROUTES = [
    post(
        "/stock/imports",
        post_import,
        summary="Import stock and prices from a feed",
        reply=jobs.Job,
        status=202,
        scope=_WRITE,
        max_body=jobs.LIMIT,
        stream_body=True,
        timeout=None,
        problems=(BadFeed, TooLarge, UnsupportedMediaType, BadRequest),
        sends={"Location": "Where the job tells how far it has come."},
    ),
    get(
        "/stock/imports/{id}",
        get_import,
        summary="A job and what became of its rows",
        reply=jobs.Job,
        problems=(NotFound,),
    ),
    post("/stock/bulk", post_stock, summary="Change the stock of many SKUs", **_BULK),
    get("/stock/bulk/{id}", get_stock, summary="A job of stock", **_JOB),
    get(
        "/stock/bulk/{id}/results",
        get_stock_results,
        summary="What became of its rows",
        **_RESULTS,
    ),
    post("/prices/bulk", post_prices, summary="Change the prices of many SKUs", **_BULK),
    get("/prices/bulk/{id}", get_prices, summary="A job of prices", **_JOB),
    get(
        "/prices/bulk/{id}/results",
        get_prices_results,
        summary="What became of its rows",
        **_RESULTS,
    ),
]
