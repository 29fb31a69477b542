"""HTTP for those who wait for a SKU: ask, look, stop. Knows no driver.

Anybody may leave a mail address; a webhook is named by its id, by whoever may manage webhooks.
"""

from typing import Annotated
from uuid import UUID

from aiohttp import web
from msgspec import Meta, Struct

import notify.api
from chassis.http import ApiKeys, delete, get, page, post, read, reply
from chassis.pages import templates
from chassis.problems import Conflict, Fault, Forbidden, Invalid, Unauthorized
from notify.book import Disabled, NoSuchWebhook
from shop_contracts.types import MAX_SAFE, Currency, Sku
from stock.store import StockStore
from stock.store.problems import UnknownSku
from stock.waiting import Alert, NoSuchAlert, Priced, TooManyAlerts, Waiting, When, amounts

STORE = web.AppKey("alerts_store", StockStore)
WAITING = web.AppKey("waiting", Waiting)
KEYS = web.AppKey("alerts_keys", ApiKeys)

SCOPE = "stock:write"

# A mailbox as SMTP and people both write it; whether it exists, only a mail can tell.
_EMAIL = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+\Z"
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PRIVATE = {
    "Cache-Control": "private, no-store",
    "Surrogate-Control": 'no-store, content="ESI/1.0"',
    # the address of this page is what gives the right to it
    "Referrer-Policy": "no-referrer",
}

_alert = templates("stock").get_template("alert.html")


class AlreadySo(Conflict):
    """There is nothing to wait for: it can be had, or costs less, already."""

    slug = "already-so"
    title = "There is nothing to wait for"


class NewAlert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell once when a SKU is back in stock, or costs less than `below_minor` for everybody.

    Either `email` or `webhook`, the id of a registered one.
    """

    sku: Sku
    when: When
    currency: Currency | None = None
    below_minor: Annotated[int, Meta(ge=1, le=MAX_SAFE)] | None = None
    email: Annotated[str, Meta(max_length=254, pattern=_EMAIL)] | None = None
    webhook: UUID | None = None


class Accepted(Struct, frozen=True, kw_only=True):
    """An alert that stands; its `id` goes to webhooks' owners only, and by mail to the mailbox."""

    sku: Sku
    when: When
    id: UUID | None = None


async def post_alert(request: web.Request) -> web.Response:
    """Ask to be told, once. Asking twice is asking once, and is answered alike."""
    new = await read(request, NewAlert)
    if wrong := _faults(new):
        raise Invalid(errors=wrong)
    if new.webhook is not None:
        request.app[KEYS].check(request, SCOPE)
        webhook = await request.app[notify.api.BOOK].webhook(new.webhook)
        if webhook.state != "active":
            raise Disabled
    alert = Alert(
        sku=new.sku,
        when=new.when,
        currency=new.currency,
        below_minor=new.below_minor,
        email=new.email,
        webhook=new.webhook,
    )
    id_ = await wait_for(request.app[WAITING], request.app[STORE], alert)
    return reply(Accepted(sku=new.sku, when=new.when, id=id_ if new.webhook else None), status=202)


async def wait_for(waiting: Waiting, store: StockStore, alert: Alert) -> UUID:
    """Let the alert stand, unless it is fulfilled already. Raises AlreadySo, TooManyAlerts."""
    if alert.when == "back_in_stock":
        version, available = await _level(store, alert.sku)
        if available:
            raise AlreadySo(available=available)
        id_ = await waiting.add(alert, version=version, price_version=0)
        # What moved between the look and the alert is on its way past it.
        await waiting.moved([(alert.sku, *await _level(store, alert.sku))])
        return id_
    price = await _price(store, alert.sku)
    costs = price.amounts.get(alert.currency or "")
    if costs is not None and costs < (alert.below_minor or 0):
        raise AlreadySo(amount_minor=costs)
    id_ = await waiting.add(alert, version=0, price_version=price.version)
    await waiting.priced([await _price(store, alert.sku)])
    return id_


async def get_alert(request: web.Request) -> web.Response:
    """Where a mail leads whoever wants to hear no more; looking at it changes nothing."""
    await request.app[WAITING].known(UUID(request.match_info["id"]))
    return page(_alert.render(stopped=False), headers=_PRIVATE)


async def post_stop(request: web.Request) -> web.Response:
    """Stop everything that this alert's mail address waits for: a button, or a mail client."""
    await request.app[WAITING].cancel(UUID(request.match_info["id"]))
    return page(_alert.render(stopped=True), headers=_PRIVATE)


async def delete_alert(request: web.Request) -> web.Response:
    """Stop an alert; by mail, everything that its address waits for."""
    await request.app[WAITING].cancel(UUID(request.match_info["id"]))
    return reply(None, status=204)


async def _level(store: StockStore, sku: str) -> tuple[int, int]:
    try:
        level = await store.quantities.level(sku)
    except UnknownSku:
        return 0, 0  # it may have been shown before it was stocked
    return level.version, level.available


async def _price(store: StockStore, sku: str) -> Priced:
    found = await store.prices.in_force([sku])
    if not found:
        return Priced(sku=sku, version=0, amounts={})
    return Priced(sku=sku, version=found[0].version, amounts=amounts(found[0].prices))


def _faults(new: NewAlert) -> list[Fault]:
    """What the fields say together that none of them says alone."""
    found: list[Fault] = []
    if (new.email is None) == (new.webhook is None):
        found.append(_fault("/email", "one-of", "Give either an email or a webhook."))
    for name, given in (("currency", new.currency), ("below_minor", new.below_minor)):
        if new.when == "price_below" and given is None:
            found.append(_fault(f"/{name}", "missing", "A price is needed to be below."))
        if new.when == "back_in_stock" and given is not None:
            found.append(_fault(f"/{name}", "not-allowed", "This alert is about no price."))
    return found


def _fault(pointer: str, code: str, detail: str) -> Fault:
    return {"pointer": pointer, "code": code, "detail": detail}


_ONE = f"/alerts/{{id:{_UUID}}}"

ROUTES = [
    post(
        "/alerts",
        post_alert,
        summary="Be told once when a SKU is back, or costs less",
        body=NewAlert,
        reply=Accepted,
        status=202,
        problems=(AlreadySo, TooManyAlerts, NoSuchWebhook, Disabled, Unauthorized, Forbidden),
        headers={"Authorization": f"A key with the scope {SCOPE}, where a webhook is named."},
    ),
    delete(
        _ONE,
        delete_alert,
        summary="Stop an alert",
        status=204,
        scope=SCOPE,
        problems=(NoSuchAlert,),
    ),
    get(
        _ONE,
        get_alert,
        summary="The page that stops alerts",
        media="text/html",
        problems=(NoSuchAlert,),
    ),
    post(
        _ONE,
        post_stop,
        summary="Stop what a mail address waits for (RFC 8058)",
        media="text/html",
        problems=(NoSuchAlert,),
    ),
    *notify.api.routes("/alerts/webhooks", SCOPE),
]
