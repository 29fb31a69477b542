"""The processes of stock and their connections: nothing else opens one."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any

import structlog
from aiohttp import web
from msgspec.structs import asdict
from redis.asyncio import Redis

import bus.relay
import chassis.redis
import notify.api
from bus.consumer import consume
from bus.redis_stream import BLOCK_MILLISECONDS, RedisOutbox
from chassis import http
from chassis.cluster import is_cluster
from chassis.database import Database, database
from chassis.problems import Unavailable
from chassis.process import run_until_stopped, serve, stopping
from chassis.settings import load
from notify.book import Book
from notify.dispatch import dispatch, sweep
from notify.mail import mailer
from notify.sender import Sender, public_session
from stock import alerts, live, notices, pages, schema, uploads
from stock import api as api_
from stock import worker as worker_
from stock.auditor import Auditor, Bounds
from stock.bookkeeping import Bookkeeper
from stock.domain import build
from stock.journal import Journal
from stock.ledgers import BLOCK_MILLISECONDS as LEDGER_BLOCK_MILLISECONDS
from stock.ledgers import Ledgers
from stock.rebuild import Rebuild, heard
from stock.scripts import StoreIsEmpty
from stock.settings import PREFIX, Settings
from stock.store import StockStore
from stock.waiting import TABLES, Waiting

_log = structlog.stdlib.get_logger(__name__)

INSTALL_SECONDS = 0.5
FILLED = "redis filled (else ./shop rebuild stock)"


def connect(settings: Settings, *, patience: float = 0) -> Redis:
    """A client that runs each command at most once; `patience` seconds more for blocking reads."""
    return chassis.redis.connect(
        settings.redis_url,
        connections=settings.redis_connections,
        timeout=settings.redis_timeout,
        patience=patience,
    )


def application(settings: Settings) -> web.Application:
    """The HTTP side: the API and the fragments of pages."""

    async def redis() -> None:
        await app[api_.STORE].ping()

    async def filled() -> None:
        await app[api_.STORE].install.check()

    async def store(app: web.Application) -> AsyncIterator[None]:
        client = connect(settings)
        app[api_.STORE] = app[pages.STORE] = app[alerts.STORE] = _store(client, settings)
        app[INSTALLING] = asyncio.create_task(_installed(app[api_.STORE]))
        app[INSTALLING].add_done_callback(lambda _: _stop_when_refused(app[INSTALLING]))
        await asyncio.wait([app[INSTALLING]], timeout=settings.redis_timeout)
        yield
        app[INSTALLING].cancel()
        await asyncio.wait([app[INSTALLING]])
        await client.aclose()

    async def hub(app: web.Application) -> AsyncIterator[None]:
        client = connect(settings, patience=LEDGER_BLOCK_MILLISECONDS / 1000)
        keys = [slot.ledger for slot in app[api_.STORE].slots]
        ledgers = Ledgers(client, app[api_.STORE], keys, apart=is_cluster(settings.redis_url))
        app[live.HUB] = live.Hub(
            ledgers, places=settings.live_clients, pace=settings.live_pace_seconds
        )
        app[FOLLOWING] = asyncio.create_task(app[live.HUB].run())
        yield
        # a client of Redis that is just connecting may swallow a cancellation
        while not app[FOLLOWING].done():
            app[FOLLOWING].cancel()
            await asyncio.wait([app[FOLLOWING]], timeout=1)
        await client.aclose()

    async def sql(app: web.Application) -> AsyncIterator[None]:
        async with database(settings.database_url) as opened:
            app[notify.api.BOOK] = Book(opened, TABLES)
            app[alerts.WAITING] = _waiting(opened, settings)
            app[api_.JOURNAL] = Journal(opened)
            yield

    async def following() -> None:
        if app[FOLLOWING].done():
            raise RuntimeError("nobody follows the ledger for live clients")

    async def goodbye(app: web.Application) -> None:
        await app[live.HUB].close()

    app = http.application(
        name="stock",
        routes=[*api_.ROUTES, *uploads.ROUTES, *pages.ROUTES, *live.ROUTES, *alerts.ROUTES],
        api_keys_file=settings.api_keys_file,
        checks=[("redis", redis), (FILLED, filled), ("live", following)],
        description="Units, holds and prices of SKUs.",
    )
    app[uploads.SPOOL] = settings.spool_dir
    app[pages.CURRENCY] = settings.currency
    app[live.ORIGINS] = frozenset(settings.live_origins.split())
    app[alerts.KEYS] = http.ApiKeys(settings.api_keys_file)
    app[notify.api.LOOPBACK] = settings.webhooks_on_loopback
    app.cleanup_ctx.append(store)
    app.cleanup_ctx.append(hub)
    app.cleanup_ctx.append(sql)
    app.on_shutdown.append(goodbye)
    return app


async def api() -> None:
    settings = load(Settings, PREFIX)
    app = application(settings)
    await serve(app, settings.host, settings.port)
    if not app[INSTALLING].cancelled():
        app[INSTALLING].result()


async def relay() -> None:
    settings = load(Settings, PREFIX)
    # The outbox is read by a command that blocks, so this client waits longer than others.
    async with connect(settings, patience=BLOCK_MILLISECONDS / 1000) as redis:
        store = _store(redis, settings)
        keys = [slot.outbox for slot in store.slots]
        outbox = RedisOutbox(redis, *keys, build=build, apart=is_cluster(settings.redis_url))
        await run_until_stopped(
            _after(
                asyncio.create_task(_installed(store)),
                bus.relay.relay(settings.broker_url, "stock", outbox),
            ),
            health=_health(settings.host, settings.relay_port),
        )


async def worker() -> None:
    settings = load(Settings, PREFIX)
    async with connect(settings) as redis:
        store = _store(redis, settings)
        installing = asyncio.create_task(_installed(store))
        work = (
            consume(
                *(settings.broker_url, "stock", "checkout", worker_.HANDLERS, store),
                partitions=settings.queue_partitions,
            ),
            worker_.sweep(store),
            worker_.turn_prices(store),
            worker_.carry_imports(store, settings.spool_dir),
        )
        await run_until_stopped(
            *(_after(installing, each) for each in work),
            health=_health(settings.host, settings.worker_port),
            checks=[("redis", store.ping), (FILLED, store.install.check)],
        )


async def notifier() -> None:
    """Tells those who wait, by mail and webhook."""
    settings = load(Settings, PREFIX)
    mails = mailer(settings.smtp_url, settings.mail_from, settings.mail_dir)
    async with database(settings.database_url) as sql, public_session() as session:
        book = Book(sql, TABLES)
        waiting = _waiting(sql, settings)
        sender = Sender(session, mails, loopback=settings.webhooks_on_loopback)
        await run_until_stopped(
            notices.follow(settings.broker_url, waiting),
            notices.patience(waiting),
            dispatch(book, sender),
            sweep(book),
            health=_health(settings.host, settings.notify_port),
            checks=[("sql", sql.ping)],
        )


async def journal() -> None:
    """Follows the ledgers into SQL, and audits both."""
    settings = load(Settings, PREFIX)
    async with connect(settings) as redis, database(settings.database_url) as sql:
        store = _store(redis, settings)
        books = Bookkeeper(
            redis, store.slots, Journal(sql), keep_ms=settings.ledger_keep_seconds * 1000
        )
        bounds = Bounds(units=settings.audit_units, repairs=settings.audit_repairs)
        auditor = Auditor(redis, store.slots, Journal(sql), bounds)
        installing = asyncio.create_task(_installed(store))
        work = (
            *(books.follow(slot) for slot in store.slots),
            books.tidy(),
            auditor.run(settings.audit_pause_seconds),
        )
        await run_until_stopped(
            *(_after(installing, each) for each in work),
            health=_health(settings.host, settings.journal_port),
            checks=[
                ("redis", store.ping),
                (FILLED, store.install.check),
                ("sql", sql.ping),
                ("journal", books.check),
            ],
        )


async def migrate() -> None:
    """Bring the database's schema up to date, and install Redis where the journal knows of none.

    A second run changes nothing.
    """
    settings = load(Settings, PREFIX)
    async with database(settings.database_url) as sql:
        await schema.HISTORY.migrate(sql)
        cursors = await Journal(sql).cursors()
    async with connect(settings) as redis:
        try:
            await _store(redis, settings).install.make([n for n, at in cursors.items() if at])
        except StoreIsEmpty as error:
            # its processes wait, and say so too; all others may work
            _log.error("stock waits", reason=str(error))


async def rebuild() -> None:
    """Fill an empty Redis from the journal."""
    settings = load(Settings, PREFIX)
    async with connect(settings) as redis, database(settings.database_url) as sql:
        rebuilding = Rebuild(
            redis,
            _store(redis, settings).slots,
            Journal(sql),
            keep_ms=settings.ledger_keep_seconds * 1000,
        )
        told = await heard(settings.broker_url, await rebuilding.since())
        done = await rebuilding.run(told)
    _log.info("rebuilt", **asdict(done))


def _waiting(sql: Database, settings: Settings) -> Waiting:
    return Waiting(
        sql,
        Book(sql, TABLES),
        link=settings.public_url,
        patience=timedelta(seconds=settings.alert_patience_seconds),
    )


def _store(redis: Redis, settings: Settings) -> StockStore:
    hold_ms = settings.hold_seconds * 1000
    return StockStore(redis, settings.key_prefix, hold_ms, settings.partitions)


async def _installed(store: StockStore) -> None:
    """Return when the store says that its partitions are ours; raises OtherPartitions."""
    told = False
    while True:
        try:
            return await store.install.check()
        except StoreIsEmpty as error:
            if not told:
                _log.error("stock waits", reason=str(error))
            told = True
        except Unavailable:
            told = False
        await asyncio.sleep(INSTALL_SECONDS)


async def _after(installing: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> None:
    """Work once the partitions are ours: a process must not read and write in wrong places."""
    try:
        await asyncio.shield(installing)
    except BaseException:
        work.close()
        raise
    await work


def _stop_when_refused(installing: asyncio.Task[None]) -> None:
    if not installing.cancelled() and installing.exception():
        stopping().set()


def _health(host: str, port: int) -> tuple[str, int] | None:
    return (host, port) if port else None


INSTALLING = web.AppKey("installing", asyncio.Task[None])
FOLLOWING = web.AppKey("following", asyncio.Task[None])
