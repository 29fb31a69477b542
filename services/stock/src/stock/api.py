"""HTTP in: requests become calls of the store, jobs of the spool. Knows no driver."""

from typing import Annotated
from uuid import UUID

import uuid_utils.compat as uuids
from aiohttp import web
from msgspec import Meta, Struct, structs

from chassis import telemetry
from chassis.http import delete, get, patch, post, put, query, read, reply
from chassis.problems import Fault, Invalid
from shop_contracts.types import Currency, Sku, Time
from stock.domain import MAX_LINES, Adjust, Level, Movement, Reservation, Units
from stock.idempotency import BadKey, idempotency_key
from stock.journal import Journal
from stock.prices import (
    MAX_PRICES,
    Group,
    Priced,
    PriceEntry,
    Tier,
    applicable,
    duplicates,
)
from stock.store import StockStore
from stock.store.problems import (
    HoldOver,
    HoldTaken,
    InsufficientStock,
    KeyReused,
    TooManyUnits,
    UnknownHold,
    UnknownSku,
)

JOURNAL = web.AppKey("journal", Journal)
STORE = web.AppKey("store", StockStore)

MAX_QTY = 999
MAX_HOLD_SECONDS = 3_600


class Prices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All prices of one SKU."""

    prices: Annotated[list[PriceEntry], Meta(max_length=MAX_PRICES)]


class PricesQuery(Struct, frozen=True, kw_only=True):
    """Which SKUs to price, when (now unless `at` is given) and for whom.

    With a `qty` there is one price for each currency: that of the group's own highest tier if it
    has one, else of everybody's.
    """

    sku: Annotated[list[Sku], Meta(min_length=1, max_length=100)]
    at: Time | None = None
    currency: Currency | None = None
    group: Group | None = None
    qty: Tier | None = None


class PriceList(Struct, frozen=True, kw_only=True):
    """The priced ones of the SKUs asked for."""

    items: list[Priced]


class Threshold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From how many available units on a SKU runs low; null: never."""

    threshold: Units | None


HoldSeconds = Annotated[int, Meta(ge=1, le=MAX_HOLD_SECONDS)]


class WantedLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many units of one SKU; lines of one SKU are summed."""

    sku: Sku
    qty: Annotated[int, Meta(ge=1, le=MAX_QTY)]


class Reserve(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cart wants to hold, and for how long from now on."""

    id: UUID | None = None
    lines: Annotated[list[WantedLine], Meta(min_length=1, max_length=MAX_LINES)]
    hold_seconds: HoldSeconds | None = None


class Extend(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long from now on to hold what is held."""

    hold_seconds: HoldSeconds | None = None


class LedgerQuery(Struct, frozen=True, kw_only=True):
    """A page of the ledger: at most `limit` movements older than the version `after`."""

    after: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class Ledger(Struct, frozen=True, kw_only=True):
    """Movements of one SKU, newest first; `next` is the `after` of the page behind."""

    sku: Sku
    items: list[Movement]
    next: int | None


async def get_stock(request: web.Request) -> web.Response:
    """The units of a SKU as they are now."""
    return reply(await request.app[STORE].quantities.level(request.match_info["sku"]))


async def put_stock(request: web.Request) -> web.Response:
    """Change the units on hand; with an Idempotency-Key, repeating the call changes nothing."""
    command = await read(request, Adjust)
    adjusted = await request.app[STORE].quantities.adjust(
        request.match_info["sku"],
        command,
        key=idempotency_key(request),
        traceparent=telemetry.inject(),
    )
    return reply(
        adjusted.level, headers={"Idempotent-Replayed": "true"} if adjusted.replayed else None
    )


async def get_ledger(request: web.Request) -> web.Response:
    """Every movement of a SKU with its cause, newest first; old ones come from the journal."""
    page = query(request, LedgerQuery)
    sku = request.match_info["sku"]
    items = await request.app[STORE].quantities.ledger(sku, before=page.after, limit=page.limit)
    if page.after and items and items[0].version != page.after - 1:
        # a version that was left out: places in Redis's index are no versions any more
        items = []
    oldest, missing = items[-1].version if items else page.after, page.limit - len(items)
    if missing and oldest != 1:
        items += await request.app[JOURNAL].movements(sku, before=oldest, limit=missing)
    more = len(items) == page.limit and items[-1].version > 1
    return reply(Ledger(sku=sku, items=items, next=items[-1].version if more else None))


async def get_prices(request: web.Request) -> web.Response:
    """The prices of a SKU."""
    return reply(await request.app[STORE].prices.plan(request.match_info["sku"]))


async def put_prices(request: web.Request) -> web.Response:
    """Replace the prices of a SKU; what stands already changes nothing."""
    prices = (await read(request, Prices)).prices
    if twice := duplicates(prices):
        raise Invalid(errors=[_twice(place) for place in twice])
    sku = request.match_info["sku"]
    return reply(await request.app[STORE].prices.put(sku, prices, telemetry.inject()))


async def list_prices(request: web.Request) -> web.Response:
    """What is in force of several SKUs; those without a price are left out."""
    asked = query(request, PricesQuery)
    found = await request.app[STORE].prices.in_force(list(dict.fromkeys(asked.sku)), asked.at)
    return reply(
        PriceList(
            items=[
                structs.replace(
                    priced,
                    prices=applicable(
                        priced.prices, currency=asked.currency, group=asked.group, qty=asked.qty
                    ),
                )
                for priced in found
            ]
        )
    )


async def put_threshold(request: web.Request) -> web.Response:
    """From how many available units on `stock.ran_low` is told, each time they are crossed."""
    units = (await read(request, Threshold)).threshold
    return reply(
        await request.app[STORE].quantities.set_threshold(request.match_info["sku"], units)
    )


async def post_reservation(request: web.Request) -> web.Response:
    """Hold units for a cart, all lines or none.

    With the `id` of an earlier reservation its hold is replaced, so that a cart never stands in its
    own way; choose the `id` yourself to make a repetition harmless.
    """
    asked = await read(request, Reserve)
    held = await request.app[STORE].carts.hold(
        asked.id or uuids.uuid7(),
        [(line.sku, line.qty) for line in asked.lines],
        asked.hold_seconds,
        telemetry.inject(),
    )
    return reply(held, status=201, headers={"Location": f"/reservations/{held.id}"})


async def get_reservation(request: web.Request) -> web.Response:
    """What a reservation holds; its state is held, released, expired, or taken by an order."""
    return reply(await request.app[STORE].carts.reservation(_reservation(request)))


async def patch_reservation(request: web.Request) -> web.Response:
    """Hold for `hold_seconds` from now on, while the reservation still holds."""
    seconds = (await read(request, Extend)).hold_seconds
    return reply(await request.app[STORE].carts.extend(_reservation(request), seconds))


async def delete_reservation(request: web.Request) -> web.Response:
    """Give the units back; repeating it changes nothing."""
    await request.app[STORE].carts.release(_reservation(request), telemetry.inject())
    return web.Response(status=204)


def _reservation(request: web.Request) -> UUID:
    return UUID(request.match_info["id"])


def _twice(place: int) -> Fault:
    return {
        "pointer": f"/prices/{place}",
        "code": "duplicate",
        "detail": "A price with this currency, group and min_qty stands before it.",
    }


_SKU = "/products/{sku:[A-Za-z0-9][A-Za-z0-9._-]{0,63}}"
_RESERVATION = "/reservations/{id:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}}"
_WRITE = "stock:write"
_HOLD = "reservations:write"

ROUTES = [
    get(
        f"{_SKU}/stock",
        get_stock,
        summary="How many units of a SKU there are",
        reply=Level,
        problems=(UnknownSku,),
    ),
    put(
        f"{_SKU}/stock",
        put_stock,
        summary="Increment, decrement or set the units on hand",
        body=Adjust,
        reply=Level,
        scope=_WRITE,
        problems=(InsufficientStock, TooManyUnits, KeyReused, BadKey),
        headers={"Idempotency-Key": "Makes a repetition of this command harmless, for 30 days."},
        sends={"Idempotent-Replayed": "`true` when the command had been carried out before."},
    ),
    get(
        f"{_SKU}/ledger",
        get_ledger,
        summary="The movements of a SKU, newest first",
        query=LedgerQuery,
        reply=Ledger,
        problems=(UnknownSku,),
    ),
    get(
        f"{_SKU}/prices",
        get_prices,
        summary="The prices of a SKU",
        reply=Priced,
        problems=(UnknownSku,),
    ),
    put(
        f"{_SKU}/prices",
        put_prices,
        summary="Replace the prices of a SKU",
        body=Prices,
        reply=Priced,
        scope=_WRITE,
    ),
    get(
        "/prices",
        list_prices,
        summary="The prices of several SKUs",
        query=PricesQuery,
        reply=PriceList,
    ),
    put(
        f"{_SKU}/stock/threshold",
        put_threshold,
        summary="Say from how many units on a SKU runs low",
        body=Threshold,
        reply=Level,
        scope=_WRITE,
        problems=(UnknownSku,),
    ),
    post(
        "/reservations",
        post_reservation,
        summary="Hold units for a cart",
        body=Reserve,
        reply=Reservation,
        status=201,
        scope=_HOLD,
        problems=(InsufficientStock, HoldTaken),
        sends={"Location": "Where the reservation is read, extended and released."},
    ),
    get(
        _RESERVATION,
        get_reservation,
        summary="What a cart holds",
        reply=Reservation,
        scope=_HOLD,
        problems=(UnknownHold,),
    ),
    patch(
        _RESERVATION,
        patch_reservation,
        summary="Hold longer",
        body=Extend,
        reply=Reservation,
        scope=_HOLD,
        problems=(UnknownHold, HoldOver, HoldTaken),
    ),
    delete(
        _RESERVATION,
        delete_reservation,
        summary="Give a cart's units back",
        status=204,
        scope=_HOLD,
        problems=(UnknownHold, HoldOver, HoldTaken),
    ),
]
