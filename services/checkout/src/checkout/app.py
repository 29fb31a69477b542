"""The processes of checkout and their connections: nothing else opens one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from aiohttp import ClientSession, DummyCookieJar, web

import bus.relay
import notify.api
from bus.consumer import consume
from bus.sql import SqlOutbox
from chassis import http
from chassis.database import Database, database
from chassis.process import run_until_stopped, serve
from chassis.redis import connect
from chassis.settings import load
from checkout import account, backoffice, campaigns, me, pages, paper, rules, seller, till, visitor
from checkout import api as api_
from checkout import worker as worker_
from checkout.domain import Timers
from checkout.letters import Shop
from checkout.provider import Provider
from checkout.provider.stripe import Stripe
from checkout.settings import PREFIX, Settings
from checkout.store import schema, tables
from checkout.store.account import Account
from checkout.store.after import After
from checkout.store.carts import Carts
from checkout.store.checkout import Checkout
from checkout.store.coupons import Coupons
from checkout.store.customers import Customers
from checkout.store.invoices import Invoices
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from checkout.store.sessions import Limits, Sessions
from checkout.store.watch import Watch
from notify.book import Book
from notify.dispatch import dispatch, sweep
from notify.mail import mailer
from notify.sender import Sender, public_session

REDIS_SECONDS = 3.0
REDIS_CONNECTIONS = 32
LIMIT_SECONDS = 3_600
"""A mailbox or an address gets no more links than it may have within so long."""
PREFETCH = 200
"""Events in hand at one time; those that arrive together share a transaction."""


@asynccontextmanager
async def carts(settings: Settings) -> AsyncIterator[Carts]:
    """The Redis of carts; a command runs at most once, for it may add units."""
    client = connect(settings.redis_url, connections=REDIS_CONNECTIONS, timeout=REDIS_SECONDS)
    try:
        yield Carts(client, settings.key_prefix, settings.cart_ttl_s)
    finally:
        await client.aclose()


def accounts(settings: Settings, sql: Database, carts: Carts, checkout: Checkout) -> Account:
    """Customers, whose sessions are in the Redis of carts."""
    redis, prefix = carts.redis, settings.key_prefix
    return Account(
        Customers(sql, f"{settings.public_url.rstrip('/')}/sign-in/confirm"),
        Sessions(redis, prefix, settings.session_idle_s, settings.session_max_s),
        Limits(redis, prefix, LIMIT_SECONDS),
        carts,
        checkout,
        per_email=settings.sign_ins_per_email,
        per_address=settings.sign_ins_per_address,
    )


@asynccontextmanager
async def provider(settings: Settings) -> AsyncIterator[Provider]:
    """Whoever moves the money."""
    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        yield Stripe(session, settings.payment_url, settings.payment_key)


def application(settings: Settings) -> web.Application:
    """The HTTP side: the API and the pages."""

    async def sql() -> None:
        await app[DATABASE].ping()

    async def redis() -> None:
        await app[CARTS].ping()

    async def stores(app: web.Application) -> AsyncIterator[None]:
        async with database(settings.database_url) as sql, carts(settings) as redis:
            app[DATABASE], app[CARTS] = sql, redis
            app[campaigns.COUPONS] = Coupons(sql)
            app[notify.api.BOOK] = Book(sql, tables.notices)
            orders = app[backoffice.ORDERS] = Orders(sql, timers(settings), shop(settings))
            app[backoffice.AFTER] = After(sql, shop(settings))
            checkout = app[visitor.CHECKOUT] = Checkout(
                redis,
                Projections(sql),
                app[campaigns.COUPONS],
                Limits(redis.redis, settings.key_prefix, LIMIT_SECONDS),
                orders,
                Watch(sql),
                Customers(sql),
                currency=settings.currency,
                rules=rules.parse(settings.rules),
                queue_limit=settings.queue_limit,
            )
            app[visitor.ACCOUNT] = accounts(settings, sql, redis, checkout)
            yield

    app = http.application(
        name="checkout",
        routes=ROUTES,
        api_keys_file=settings.api_keys_file,
        checks=[("sql", sql), ("redis", redis)],
        description="Carts, orders and their payments.",
    )
    app[notify.api.LOOPBACK] = settings.webhooks_on_loopback
    app[pages.CART_TTL_S] = settings.cart_ttl_s
    app[visitor.SESSION_MAX_S] = settings.session_max_s
    app.on_response_prepare.append(visitor.drop_brought_cart)
    app[api_.WEBHOOK_SECRET] = settings.payment_webhook_secret
    app.cleanup_ctx.append(stores)
    return app


async def api() -> None:
    settings = load(Settings, PREFIX)
    await serve(application(settings), settings.host, settings.port)


async def relay() -> None:
    settings = load(Settings, PREFIX)
    async with database(settings.database_url) as sql:
        outbox = SqlOutbox(sql.engine, tables.outbox, sql.reader)
        await run_until_stopped(
            bus.relay.relay(settings.broker_url, "checkout", outbox),
            health=(settings.host, settings.relay_port),
            checks=[("sql", sql.ping)],
        )


async def worker() -> None:
    settings = load(Settings, PREFIX)
    broker = settings.broker_url
    async with (
        database(settings.database_url) as sql,
        carts(settings) as redis,
        provider(settings) as paid,
    ):
        work = worker_.Work(
            orders=Orders(sql, timers(settings), shop(settings)),
            after=After(sql, shop(settings)),
            projections=Projections(sql),
            carts=redis,
            provider=paid,
        )
        await run_until_stopped(
            consume(
                *(broker, "checkout", "stock", worker_.STOCK_HANDLERS, work),
                prefetch=PREFETCH,
                partitions=settings.queue_partitions,
            ),
            consume(
                *(broker, "checkout", "catalog", worker_.CATALOG_HANDLERS, work),
                partitions=settings.queue_partitions,
            ),
            *(loop(work) for loop in worker_.LOOPS),
            worker_.erasures(Customers(sql)),
            health=(settings.host, settings.worker_port),
            checks=[("sql", sql.ping), ("redis", redis.ping)],
        )


async def notifier() -> None:
    """Makes invoices, and sends the mails and webhooks that wait."""
    settings = load(Settings, PREFIX)
    mails = mailer(settings.smtp_url, settings.mail_from, settings.mail_dir)
    sells = seller.parse(settings.seller)
    async with database(settings.database_url) as sql, public_session() as session:
        book = Book(sql, tables.notices)
        papers = [paper.issue(Invoices(sql, sells, shop(settings)))] if sells else []
        await run_until_stopped(
            *papers,
            dispatch(book, Sender(session, mails, loopback=settings.webhooks_on_loopback)),
            sweep(book),
            health=(settings.host, settings.notify_port),
            checks=[("sql", sql.ping)],
        )


async def migrate() -> None:
    """Bring the schema up to date; a second run changes nothing."""
    async with database(load(Settings, PREFIX).database_url) as sql:
        await schema.HISTORY.migrate(sql)


def shop(settings: Settings) -> Shop:
    """Who writes to customers."""
    sells = seller.parse(settings.seller)
    url = settings.public_url.rstrip("/")
    if sells is None:
        return Shop(url=url)
    return Shop(name=sells.name, url=url, language=sells.language, invoices=True)


def timers(settings: Settings) -> Timers:
    """The saga's times."""
    return Timers(
        stock=timedelta(seconds=settings.stock_timeout_s),
        payment=timedelta(seconds=settings.payment_timeout_s),
        commit=timedelta(seconds=settings.commit_timeout_s),
        whole=timedelta(seconds=settings.order_timeout_s),
    )


ROUTES = visitor.guarded(
    [
        *api_.ROUTES,
        *backoffice.ROUTES,
        *campaigns.ROUTES,
        *pages.ROUTES,
        *till.ROUTES,
        *me.ROUTES,
        *account.ROUTES,
        *notify.api.mail_routes("/mails", backoffice.READ),
        *notify.api.routes("/webhooks", backoffice.WRITE),
    ]
)
"""All that the API answers, except on every service's own paths."""

DATABASE = web.AppKey("database", Database)
CARTS = web.AppKey("carts", Carts)
