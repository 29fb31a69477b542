"""HTTP for those who run the shop: the orders, refunds and parcels. Knows no driver."""

import re
from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from chassis.http import get, post, query, read, reply
from chassis.problems import Invalid, NotFound, Unavailable
from checkout.after import Refund, RefundWanted, Shipment, ShipmentWanted
from checkout.domain import Status
from checkout.store.after import After, Done
from checkout.store.orders import Orders
from checkout.store.problems import (
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    NotConfirmed,
    NotLeft,
)
from checkout.store.rows import OrderLine

ORDERS = web.AppKey("orders", Orders)
AFTER = web.AppKey("after", After)

READ, WRITE = "orders:read", "orders:write"
PRIVATE = {"Cache-Control": "private, no-store"}
_KEY = re.compile(r'"?([A-Za-z0-9_-]{16,128})"?')
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ORDER, _SHIPMENT = f"{{order:{_UUID}}}", f"{{shipment:{_UUID}}}"


class OrdersQuery(Struct, frozen=True, kw_only=True):
    """A page of orders: at most `limit` behind `cursor`, of one status or of all."""

    status: Status | None = None
    cursor: UUID | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class OrderPage(Struct, frozen=True, kw_only=True):
    """Orders, newest first; `next` is the `cursor` of the page behind."""

    items: list[OrderLine]
    next: UUID | None


async def list_orders(request: web.Request) -> web.Response:
    """The orders, newest first."""
    page = query(request, OrdersQuery)
    items = await request.app[ORDERS].page(page.status, page.cursor, page.limit)
    more = items[-1].order_id if len(items) == page.limit else None
    return reply(OrderPage(items=items, next=more), headers=PRIVATE)


async def refund(request: web.Request) -> web.Response:
    """Have the provider give money back; the order tells when it has."""
    wanted = await read(request, RefundWanted)
    done = await request.app[AFTER].refund(_order_id(request), _key(request), wanted)
    return _answer(request, done, 202)


async def ship(request: web.Request) -> web.Response:
    """Tell that a parcel has left."""
    wanted = await read(request, ShipmentWanted)
    done = await request.app[AFTER].ship(_order_id(request), _key(request), wanted)
    return _answer(request, done, 201)


async def deliver(request: web.Request) -> web.Response:
    """Tell that a parcel was handed over."""
    shipment = UUID(request.match_info["shipment"])
    parcel = await request.app[AFTER].deliver(_order_id(request), shipment)
    return reply(parcel, headers=PRIVATE)


def _answer(request: web.Request, done: Done, status: int) -> web.Response:
    headers = PRIVATE | {"Location": f"/orders/{_order_id(request)}"}
    if done.replayed:
        headers["Idempotent-Replayed"] = "true"
    return reply(msgspec.Raw(done.body), status=status, headers=headers)


def _order_id(request: web.Request) -> UUID:
    return UUID(request.match_info["order"])


def _key(request: web.Request) -> str:
    known = _KEY.fullmatch(request.headers.get("Idempotency-Key", ""))
    if known is None:
        raise IdempotencyKeyRequired
    return known[1]


_PROBLEMS = (
    NotFound,
    Invalid,
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    NotConfirmed,
    NotLeft,
    Unavailable,
)
_HEADERS = {"Idempotency-Key": "16 to 128 of A-Z a-z 0-9 _ -, new for each one that you mean"}
_SENDS = {
    "Location": "the order, which shows what became of it",
    "Idempotent-Replayed": "true where this key has had this answer before",
}

ROUTES = [
    get(
        "/orders",
        list_orders,
        summary="All orders, newest first",
        query=OrdersQuery,
        reply=OrderPage,
        scope=READ,
        problems=(Unavailable,),
    ),
    post(
        f"/orders/{_ORDER}/refunds",
        refund,
        summary="Give back what was paid for units, for shipping, or an amount",
        body=RefundWanted,
        reply=Refund,
        status=202,
        scope=WRITE,
        problems=_PROBLEMS,
        headers=_HEADERS,
        sends=_SENDS,
    ),
    post(
        f"/orders/{_ORDER}/shipments",
        ship,
        summary="Tell that a parcel has left",
        body=ShipmentWanted,
        reply=Shipment,
        status=201,
        scope=WRITE,
        problems=_PROBLEMS,
        headers=_HEADERS,
        sends=_SENDS,
    ),
    post(
        f"/orders/{_ORDER}/shipments/{_SHIPMENT}/delivery",
        deliver,
        summary="Tell that a parcel was handed over; again changes nothing",
        reply=Shipment,
        scope=WRITE,
        problems=(NotFound, Unavailable),
    ),
]
