"""Receivers over HTTP, for whoever may manage them: the same routes in every service that has any.

The secret is told once, when it is made. Knows no message's meaning.
"""

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from chassis.http import Route, delete, get, post, query, read, reply
from chassis.problems import Fault, Invalid
from notify.addresses import MAX_URL, NotAllowed, allowed
from notify.book import (
    Book,
    Delivery,
    Disabled,
    Message,
    NoSuchDelivery,
    NoSuchWebhook,
    StillWaiting,
    Webhook,
)

BOOK = web.AppKey("book", Book)
LOOPBACK = web.AppKey("loopback", bool)

TEST_TYPE = "webhook.test"

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class UrlNotAllowed(Invalid):
    """The URL is none of a public https server."""

    slug = "url-not-allowed"
    title = "This address cannot be called"


class NewWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receiver: an https URL, and the types of messages it wants beside those asked for it."""

    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL)]
    types: Annotated[
        list[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.]{0,63}\Z")]], Meta(max_length=50)
    ] = []


class Registered(Struct, frozen=True, kw_only=True):
    """A receiver, with its secret if it was made just now."""

    webhook: Webhook
    secret: str | None = None


class Webhooks(Struct, frozen=True, kw_only=True):
    """All receivers."""

    items: list[Webhook]


class DeliveriesQuery(Struct, frozen=True, kw_only=True):
    """A page of deliveries: at most `limit` that are older than the one named by `after`."""

    after: UUID | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class Deliveries(Struct, frozen=True, kw_only=True):
    """Deliveries, newest first; `next` is the `after` of the page behind."""

    items: list[Delivery]
    next: UUID | None


class Sent(Struct, frozen=True, kw_only=True):
    """A delivery that is on its way."""

    delivery: UUID


async def post_webhook(request: web.Request) -> web.Response:
    """Register a receiver; the same URL again only changes its types."""
    new = await read(request, NewWebhook)
    try:
        allowed(new.url, loopback=request.app[LOOPBACK])
    except NotAllowed as error:
        fault: Fault = {"pointer": "/url", "code": "not-allowed", "detail": str(error)}
        raise UrlNotAllowed(errors=[fault]) from error
    webhook, secret = await request.app[BOOK].register(new.url, new.types)
    return reply(Registered(webhook=webhook, secret=secret))


async def list_webhooks(request: web.Request) -> web.Response:
    """All receivers."""
    return reply(Webhooks(items=await request.app[BOOK].webhooks()))


async def get_webhook(request: web.Request) -> web.Response:
    """A receiver, and whether it is switched off."""
    return reply(await request.app[BOOK].webhook(_id(request)))


async def delete_webhook(request: web.Request) -> web.Response:
    """Forget a receiver and everything that was for it."""
    await request.app[BOOK].remove(_id(request))
    return reply(None, status=204)


async def post_secret(request: web.Request) -> web.Response:
    """Give a receiver a new secret; for a day its messages are signed by both."""
    book, id_ = request.app[BOOK], _id(request)
    secret = await book.rotate(id_)
    return reply(Registered(webhook=await book.webhook(id_), secret=secret))


async def post_enable(request: web.Request) -> web.Response:
    """Send to a receiver again, beginning with what waited meanwhile."""
    return reply(await request.app[BOOK].enable(_id(request)))


async def post_disable(request: web.Request) -> web.Response:
    """Let a receiver's messages wait until it is enabled."""
    return reply(await request.app[BOOK].disable(_id(request)))


async def post_test(request: web.Request) -> web.Response:
    """Send a receiver a message that means nothing."""
    body = msgspec.json.encode({"type": TEST_TYPE, "data": {}})
    message = Message(type=TEST_TYPE, subject="test", body=body, webhook_id=_id(request))
    return reply(Sent(delivery=await request.app[BOOK].send(message)), status=202)


async def list_deliveries(request: web.Request) -> web.Response:
    """What was for a receiver and what became of it, newest first, with every try."""
    page = query(request, DeliveriesQuery)
    items = await request.app[BOOK].deliveries(_id(request), before=page.after, limit=page.limit)
    more = items[-1].id if len(items) == page.limit else None
    return reply(Deliveries(items=items, next=more))


async def list_given_up(request: web.Request) -> web.Response:
    """Mails that never went, newest first; to whom and what is forgotten."""
    page = query(request, DeliveriesQuery)
    items = await request.app[BOOK].given_up(before=page.after, limit=page.limit)
    more = items[-1].id if len(items) == page.limit else None
    return reply(Deliveries(items=items, next=more))


async def post_redeliver(request: web.Request) -> web.Response:
    """Try an ended delivery again, from the start of the schedule and under its own id."""
    delivery = UUID(request.match_info["delivery"])
    await request.app[BOOK].redeliver(_id(request), delivery)
    return reply(Sent(delivery=delivery), status=202)


def _id(request: web.Request) -> UUID:
    return UUID(request.match_info["webhook"])


def routes(prefix: str, scope: str) -> list[Route]:
    """The routes below `prefix`, for keys with `scope`; the application needs BOOK and LOOPBACK."""
    one = f"{prefix}/{{webhook:{_UUID}}}"
    none = (NoSuchWebhook,)
    no_delivery = (NoSuchDelivery, Disabled, StillWaiting)

    def here(
        make: Callable[..., Route], path: str, handler: object, summary: str, **rest: object
    ) -> Route:
        return make(path, handler, summary=summary, scope=scope, **rest)

    return [
        here(
            post,
            prefix,
            post_webhook,
            "Register a webhook",
            body=NewWebhook,
            reply=Registered,
            problems=(UrlNotAllowed,),
        ),
        here(get, prefix, list_webhooks, "All webhooks", reply=Webhooks),
        here(get, one, get_webhook, "A webhook", reply=Webhook, problems=none),
        here(delete, one, delete_webhook, "Forget a webhook", status=204, problems=none),
        here(
            post,
            f"{one}/secret",
            post_secret,
            "Replace a webhook's secret",
            reply=Registered,
            problems=none,
        ),
        here(post, f"{one}/enable", post_enable, "Enable a webhook", reply=Webhook, problems=none),
        here(
            post, f"{one}/disable", post_disable, "Disable a webhook", reply=Webhook, problems=none
        ),
        here(
            post,
            f"{one}/test",
            post_test,
            "Send a webhook a test message",
            reply=Sent,
            status=202,
            problems=(*none, Disabled),
        ),
        here(
            get,
            f"{one}/deliveries",
            list_deliveries,
            "What was sent to a webhook",
            query=DeliveriesQuery,
            reply=Deliveries,
            problems=none,
        ),
        here(
            post,
            f"{one}/deliveries/{{delivery:{_UUID}}}/redeliver",
            post_redeliver,
            "Send a delivery once more",
            reply=Sent,
            status=202,
            problems=no_delivery,
        ),
    ]


def mail_routes(prefix: str, scope: str) -> list[Route]:
    """What became of mails, below `prefix`, for keys with `scope`; the application needs BOOK."""
    return [
        get(
            f"{prefix}/given-up",
            list_given_up,
            summary="Mails that never went, with every try",
            scope=scope,
            query=DeliveriesQuery,
            reply=Deliveries,
        )
    ]
