"""HTTP in: products, categories and imports. Knows no driver; its errors are Problems."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
from aiohttp import BodyPartReader, web
from msgspec import Meta, Struct

from catalog import domain
from catalog.domain import Draft, Product, Tree
from catalog.store import STORE, DuplicateSku, SlugTaken, UrlNotAllowed
from chassis.http import delete, get, post, put, query, read, reply
from chassis.problems import (
    BadQuery,
    Gone,
    Invalid,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    Problem,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from feeds import jobs
from feeds.jobs import Job, Part
from feeds.rows import BadMapping, BadUpload, FeedError, NoSuchJob, UnknownFormat
from feeds.rows import TooLarge as FeedTooLarge
from shop_contracts.events.catalog.product_published_v1 import Attribute, Category, Image, Variant
from shop_contracts.types import Slug

DEEPEST = 10_000
"""How many products paging reaches; who wants them all reads the events."""
LARGEST_FIELD = 64 * 1024
CHUNK = 64 * 1024
SPOOL = web.AppKey("spool", Path)


class BadFeed(Invalid):
    """The upload cannot be read as the feed it is said to be."""

    slug = "bad-feed"
    title = "The feed cannot be taken"


class Page(Struct, frozen=True, kw_only=True):
    """Which products to list."""

    page: Annotated[int, Meta(ge=1)] = 1
    page_size: Annotated[int, Meta(ge=1, le=100)] = 20
    category: Slug | None = None


class ProductOut(Struct, frozen=True, kw_only=True):
    """A product as the public sees it."""

    id: UUID
    key: str | None
    slug: str
    name: str
    description: str
    brand: str | None
    categories: list[Category]
    attributes: list[Attribute]
    variants: list[Variant]
    images: list[Image]
    version: int
    created: datetime
    updated: datetime


class Products(Struct, frozen=True, kw_only=True):
    """A page of products and how many there are in all."""

    products: list[ProductOut]
    page: int
    page_size: int
    total: int


class Categories(Struct, frozen=True, kw_only=True):
    """The category tree."""

    categories: list[Tree]


class Upload(Struct, frozen=True, kw_only=True):
    """How to read a feed that is sent as the bare body."""

    format: Annotated[str, Meta(max_length=32)] | None = None
    mapping: Annotated[str, Meta(max_length=64)] = ""
    currency: Annotated[str, Meta(max_length=3)] = ""


async def list_products(request: web.Request) -> web.Response:
    """One page of what is on sale, newest first."""
    asked = query(request, Page)
    if asked.page * asked.page_size > DEEPEST:
        raise BadQuery(f"Paging ends at {DEEPEST} products.")
    products, total = await request.app[STORE].page(asked.page, asked.page_size, asked.category)
    return reply(
        Products(
            products=[_out(product) for product in products],
            page=asked.page,
            page_size=asked.page_size,
            total=total,
        )
    )


async def post_product(request: web.Request) -> web.Response:
    """A new product."""
    product = await request.app[STORE].add(await read(request, Draft))
    location = {"Location": f"/products/{product.id}"}
    return reply(_out(product), status=201, headers=location | _etag(product))


async def get_product(request: web.Request) -> web.Response:
    """One product, as of the last write."""
    product = await request.app[STORE].get(request.match_info["id"])
    return reply(_out(product), headers=_etag(product))


async def put_product(request: web.Request) -> web.Response:
    """Make the product what the body says; what it says already changes nothing."""
    versions = _if_match(request)
    draft = await read(request, Draft)
    product = await request.app[STORE].put(request.match_info["id"], draft, versions)
    return reply(_out(product), headers=_etag(product))


async def delete_product(request: web.Request) -> web.Response:
    """Take the product off sale; its address answers 410 from then on."""
    await request.app[STORE].withdraw(request.match_info["id"], _if_match(request))
    return reply(None, status=204)


async def list_categories(request: web.Request) -> web.Response:
    """The category tree."""
    return reply(Categories(categories=domain.tree(await request.app[STORE].categories())))


async def post_import(request: web.Request) -> web.Response:
    """Keep a feed and queue its import."""
    asked = query(request, Upload)
    spool = request.app[SPOOL]
    if request.content_type == "multipart/form-data":
        job = await _spool_form(request, spool)
    elif request.content_type in BARE:
        how = asked.format or BARE[request.content_type]
        body = _one(request.content_type, request.content.iter_chunked(CHUNK))
        job = await jobs.spool(
            spool, body, format=how, mapping=asked.mapping, currency=asked.currency
        )
    else:
        raise UnsupportedMediaType("Send multipart/form-data, or a bare feed.")
    return reply(job, status=202, headers={"Location": f"/imports/{job.id}", "Retry-After": "1"})


async def get_import(request: web.Request) -> web.Response:
    """How far an import is, and which rows did not go in."""
    return reply(jobs.find(request.app[SPOOL], request.match_info["id"]))


async def _spool_form(request: web.Request, spool: Path) -> Job:
    """The job of a form: its fields first, then its files."""
    try:
        reader = await request.multipart()
        fields = {"format": "", "mapping": "", "currency": ""}
        async for part in reader:
            if not isinstance(part, BodyPartReader):
                raise BadUpload("a part of the form is a form itself")
            if part.filename is not None:
                return await jobs.spool(
                    spool,
                    _files(part, reader),
                    format=fields["format"],
                    mapping=fields["mapping"],
                    currency=fields["currency"],
                )
            if part.name not in fields:
                raise BadUpload("the form has the fields format, mapping and currency, then files")
            fields[part.name] = await _text(part)
    except (ValueError, AssertionError) as error:  # how aiohttp speaks of a broken form
        raise BadUpload("the form is broken") from error
    raise BadUpload("no file was sent")


async def _files(first: BodyPartReader, rest: Any) -> AsyncIterator[Part]:
    part: Any = first
    while part is not None:
        if not isinstance(part, BodyPartReader) or part.filename is None:
            raise BadUpload("the fields of the form come before its files")
        yield part.filename, _chunks(part)
        part = await rest.next()


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(CHUNK):
        yield chunk


async def _text(part: BodyPartReader) -> str:
    data = bytearray()
    async for chunk in _chunks(part):
        data += chunk
        if len(data) > LARGEST_FIELD:
            raise FeedTooLarge(f"a field of the form takes at most {LARGEST_FIELD} bytes")
    return data.decode()


async def _one(name: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[Part]:
    yield name.replace("/", "."), chunks


def _out(product: Product) -> ProductOut:
    return msgspec.convert(product, ProductOut, from_attributes=True)


def _etag(product: Product) -> dict[str, str]:
    return {"ETag": f'"{product.version}"'}


def _if_match(request: web.Request) -> frozenset[int] | None:
    """The versions that the caller knows; None for any."""
    text = request.headers.get("If-Match")
    if text is None:
        raise PreconditionRequired("Send the ETag of the product as If-Match.")
    if text.strip() == "*":
        return None
    return frozenset(int(tag) for tag in re.findall(r'(?:^|[\s,])"([1-9][0-9]{0,14})"', text))


@web.middleware
async def feed_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What is wrong with a feed, as a Problem."""
    try:
        return await handler(request)
    except FeedError as error:
        raise FEED_PROBLEMS.get(type(error), BadFeed)(str(error), code=error.code) from error


FEED_PROBLEMS: dict[type[FeedError], type[Problem]] = {
    UnknownFormat: BadFeed,
    BadMapping: BadFeed,
    BadUpload: BadFeed,
    FeedTooLarge: TooLarge,
    NoSuchJob: NotFound,
}
BARE = {"application/x-ndjson": "ndjson", "text/csv": "shopify"}
"""The media types of a bare feed, and the format each has unless the query says another."""

WRITE = "catalog:write"
IF_MATCH = {"If-Match": "The ETag of the version that is to be replaced, or *."}
ETAG = {"ETag": "The version of the product."}
CHANGE_PROBLEMS = (NotFound, Gone, PreconditionRequired, PreconditionFailed, Unavailable)

ROUTES = [
    get(
        "/products",
        list_products,
        summary="List products, newest first",
        query=Page,
        reply=Products,
        problems=(Unavailable,),
    ),
    post(
        "/products",
        post_product,
        summary="Create a product",
        body=Draft,
        reply=ProductOut,
        status=201,
        scope=WRITE,
        problems=(DuplicateSku, SlugTaken, UrlNotAllowed, Unavailable),
        sends=ETAG | {"Location": "Where the product is."},
    ),
    get(
        "/products/{id}",
        get_product,
        summary="Read a product by id or slug",
        reply=ProductOut,
        problems=(NotFound, Gone, Unavailable),
        sends=ETAG,
    ),
    put(
        "/products/{id}",
        put_product,
        summary="Change a product",
        body=Draft,
        reply=ProductOut,
        scope=WRITE,
        problems=(*CHANGE_PROBLEMS, DuplicateSku, SlugTaken, UrlNotAllowed),
        headers=IF_MATCH,
        sends=ETAG,
    ),
    delete(
        "/products/{id}",
        delete_product,
        summary="Withdraw a product",
        status=204,
        scope=WRITE,
        problems=CHANGE_PROBLEMS,
        headers=IF_MATCH,
    ),
    get(
        "/categories",
        list_categories,
        summary="Read the category tree",
        reply=Categories,
        problems=(Unavailable,),
    ),
    post(
        "/imports",
        post_import,
        summary="Import a feed: a form with format, mapping, currency and files, or a bare feed",
        query=Upload,
        reply=Job,
        status=202,
        scope=WRITE,
        problems=(BadFeed, TooLarge, UnsupportedMediaType),
        max_body=jobs.LIMIT,
        stream_body=True,
        timeout=None,
        sends={"Location": "Where the job is."},
    ),
    get(
        "/imports/{id}",
        get_import,
        summary="Read an import job",
        reply=Job,
        problems=(NotFound,),
    ),
]
