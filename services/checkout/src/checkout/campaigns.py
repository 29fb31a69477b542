"""Coupons for those who run the shop: make, list, disable. Knows no driver."""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from chassis.http import get, patch, post, query, read, reply
from chassis.problems import NotFound, Unavailable
from checkout.coupons import Coupon, CouponTerms, spelled
from checkout.store.coupons import Coupons
from checkout.store.problems import CodeTaken

COUPONS = web.AppKey("coupons", Coupons)
SCOPE = "coupons:write"
PRIVATE = {"Cache-Control": "private, no-store"}


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which coupons to list: those whose codes come after `after`."""

    after: Annotated[str, Meta(max_length=32)] = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class CouponList(Struct, frozen=True, kw_only=True):
    """Coupons by code; `next` is the `after` of the next page, if there may be one."""

    coupons: list[Coupon]
    next: str | None


class Switch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the coupon works no more."""

    disabled: bool


async def create(request: web.Request) -> web.Response:
    """Make a coupon; without a code it gets one that nobody guesses."""
    coupon = await request.app[COUPONS].create(await read(request, CouponTerms))
    return reply(coupon, status=201, headers=PRIVATE | {"Location": f"/coupons/{coupon.code}"})


async def find_all(request: web.Request) -> web.Response:
    """Coupons and how often they are used."""
    page = query(request, Page)
    found = await request.app[COUPONS].page(page.after, page.limit)
    more = found[-1].code if len(found) == page.limit else None
    return reply(CouponList(coupons=found, next=more), headers=PRIVATE)


async def find(request: web.Request) -> web.Response:
    """One coupon and how often it is used."""
    coupon = await request.app[COUPONS].find(spelled(request.match_info["code"]))
    if coupon is None:
        raise NotFound("There is no such coupon.")
    return reply(coupon, headers=PRIVATE)


async def switch(request: web.Request) -> web.Response:
    """Let a coupon work no more, or again; orders that use it stay as they are."""
    disabled = (await read(request, Switch)).disabled
    code = spelled(request.match_info["code"])
    return reply(await request.app[COUPONS].disable(code, disabled=disabled), headers=PRIVATE)


ROUTES = [
    post(
        "/coupons",
        create,
        summary="Make a coupon",
        body=CouponTerms,
        reply=Coupon,
        status=201,
        scope=SCOPE,
        problems=(CodeTaken, Unavailable),
        sends={"Location": "the coupon"},
    ),
    get(
        "/coupons",
        find_all,
        summary="Coupons by code",
        query=Page,
        reply=CouponList,
        scope=SCOPE,
        problems=(Unavailable,),
    ),
    get(
        "/coupons/{code}",
        find,
        summary="A coupon and how often it is used",
        reply=Coupon,
        scope=SCOPE,
        problems=(NotFound, Unavailable),
    ),
    patch(
        "/coupons/{code}",
        switch,
        summary="Let a coupon work no more, or again",
        body=Switch,
        reply=Coupon,
        scope=SCOPE,
        problems=(NotFound, Unavailable),
    ),
]
