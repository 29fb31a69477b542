"""The `verify` verb: orders, holds, money and events against each other. Changes nothing.

`breaches` is the law, pure; `read` fetches the books from the live stores. The books are read one
after the other, so ask when the shop is quiet: what is on its way would look like a breach.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import sqlalchemy as sa
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from bus.broker import connected
from bus.partitions import standing
from bus.replay import follow
from checkout.store import tables
from checkout.totals import Breakdown, disagreements
from shop import followed
from shop.followed import Followed, Sold
from shop.profiles import Profile
from shop.servers import admin_redis, amqp
from shop.services import database_url
from shop_contracts.topology import TOPOLOGY, partition

WAY = ("placed", "reserved", "authorised", "committed", "confirmed")
ENDS = frozenset({"confirmed", "cancelled"})
QUIET_SECONDS = 2.0
PAGE = 5_000
OURS = ("checkout.stock", "stock.checkout")
"""The work queues in which an order may be on its way."""


class Order(Struct, frozen=True, kw_only=True):
    """One order as checkout's database has it."""

    status: str
    reason: str | None
    total_minor: int
    breakdown: Breakdown | None
    lines: dict[str, int]
    path: list[str]
    payments: dict[str, str]
    placed_at: datetime


class Units(Struct, frozen=True):
    """One SKU's counters, or what its ledger adds up to."""

    received: int
    available: int
    reserved: int
    sold: int


class Hold(Struct, frozen=True):
    """What stock keeps for one order, and of it what came back."""

    state: str
    lines: dict[str, int]
    back: dict[str, int] = {}


class Money(Struct, frozen=True):
    """One movement of the provider's ledger."""

    intent: str
    reference: str
    op: str
    amount: int

    @property
    def order(self) -> str:
        """The order that the movement belongs to."""
        return self.reference.partition(":")[0]


class Coupon(Struct, frozen=True):
    """How often a coupon counts itself used, and how often it may be."""

    used: int
    limit: int | None


class Books(Struct, kw_only=True):
    """Everything that must agree. `uses` says which order uses which coupon."""

    coupons: dict[str, Coupon] = {}
    uses: dict[str, str] = {}
    orders: dict[str, Order] = {}
    follows: dict[str, Followed] = {}
    units: dict[str, Units] = {}
    moved: dict[str, Units] = {}
    holds: dict[str, Hold] = {}
    expiring: set[str] = set()
    money: list[Money] = []
    events: dict[str, Counter[str]] = {}
    events_since: datetime | None = None
    waiting: dict[str, int] = {}
    parked: dict[str, int] = {}


def breaches(books: Books) -> list[str]:
    """What does not agree, a sentence each."""
    return [
        *_stock(books),
        *_histories(books),
        *_ends(books),
        *_sums(books),
        *_coupons(books),
        *_money(books),
        *_follows(books),
        *_events(books),
        *(f"{name} still holds {count}" for name, count in books.waiting.items() if count),
        *(f"{name} has {count} parked" for name, count in books.parked.items() if count),
    ]


def _stock(books: Books) -> Iterator[str]:
    held: Counter[str] = Counter()
    for hold in books.holds.values():
        if hold.state == "held":
            held.update(hold.lines)
    for sku, has in books.units.items():
        if has.received != has.available + has.reserved + has.sold:
            yield f"{sku}: received is not available + reserved + sold: {has}"
        if min(has.available, has.reserved, has.sold, has.received) < 0:
            yield f"{sku}: oversold: {has}"
        if has.reserved != held[sku]:
            yield f"{sku}: {has.reserved} reserved, but the holds want {held[sku]}"
        if sku in books.moved and books.moved[sku] != has:
            yield f"{sku}: the ledger adds up to {books.moved[sku]}, not {has}"
    living = {order for order, hold in books.holds.items() if hold.state == "held"}
    for order in living ^ books.expiring:
        yield f"order {order}: held and expiring do not agree"


def _histories(books: Books) -> Iterator[str]:
    for id_, order in books.orders.items():
        steps = [
            s for s, before in zip(order.path, [None, *order.path], strict=False) if s != before
        ]
        way = steps[:-1] if steps and steps[-1] == "cancelled" else steps
        if not steps or tuple(way) != WAY[: len(way)] or steps[-1] != order.status:
            yield f"order {id_}: its history is no way of the saga: {' '.join(order.path)}"
        if (order.status == "cancelled") != (order.reason is not None):
            yield f"order {id_}: {order.status} with reason {order.reason}"


def _ends(books: Books) -> Iterator[str]:
    money: dict[str, Counter[str]] = defaultdict(Counter)
    for move in books.money:
        money[move.order][move.op] += 1
    for id_, order in books.orders.items():
        if order.status not in ENDS:
            yield f"order {id_}: has not ended, it is {order.status}"
            continue
        hold = books.holds[id_].state if id_ in books.holds else "none"
        confirmed, moved = order.status == "confirmed", money[id_]
        captured = moved["captured"] == 1 or (confirmed and not order.total_minor)
        # units that came back after the sale are refunds, which `_money` bounds
        sold = hold == "committed" or (confirmed and hold == "returned" and bool(moved["refunded"]))
        if not confirmed == sold == captured:
            yield f"order {id_}: {order.status}, its units {hold}, its money {dict(moved)}"
        if not confirmed and hold in {"held", "committed"}:
            yield f"order {id_}: cancelled, but its units are {hold}"
        if not confirmed and moved["authorised"] != moved["canceled"]:
            yield f"order {id_}: cancelled, but its authorisation stands"


def _sums(books: Books) -> Iterator[str]:
    """What each order costs adds up from its lines, its shipping and its taxes."""
    for id_, order in books.orders.items():
        found = order.breakdown
        if found is None:
            continue  # from before they were kept
        yield from (f"order {id_}: {fault}" for fault in disagreements(found))
        if found.total_minor != order.total_minor:
            yield f"order {id_}: {order.total_minor} to pay, its parts are {found.total_minor}"
        if {line.sku: line.qty for line in found.lines} != order.lines:
            yield f"order {id_}: its amounts are not those of its lines"


def _coupons(books: Books) -> Iterator[str]:
    """Each order that lives uses the coupon that it got its discount for, and no other does."""
    for id_, order in books.orders.items():
        got = order.breakdown.coupon if order.breakdown else None
        wanted = None if order.status == "cancelled" else got
        if books.uses.get(id_) != wanted:
            yield f"order {id_}: it uses the coupon {books.uses.get(id_)}, not {wanted}"
    times = Counter(books.uses.values())
    for code, coupon in books.coupons.items():
        if coupon.used != times[code]:
            yield f"coupon {code}: used {coupon.used} times, by {times[code]} orders"
        if coupon.limit is not None and times[code] > coupon.limit:
            yield f"coupon {code}: used {times[code]} times, {coupon.limit} allowed"


def _money(books: Books) -> Iterator[str]:
    by_intent: dict[str, Counter[str]] = defaultdict(Counter)
    times: Counter[tuple[str, str]] = Counter()
    for move in books.money:
        by_intent[move.intent][move.op] += move.amount
        if move.op != "refunded":
            times[move.order, move.op] += 1
        if move.order not in books.orders:
            yield f"the provider has {move.op} {move.amount} for {move.order}, which is no order"
    for (id_, op), count in times.items():
        if count > 1:
            yield f"order {id_}: {op} {count} times"
    for move in books.money:
        order = books.orders.get(move.order)
        if order is not None and move.op == "captured" and move.amount != order.total_minor:
            yield f"order {move.order}: {move.amount} captured of {order.total_minor}"
    for intent, sums in by_intent.items():
        if sums["refunded"] > sums["captured"]:
            yield f"payment {intent}: more is given back than was taken"


def _follows(books: Books) -> Iterator[str]:
    given: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for move in books.money:
        if move.op == "refunded":
            given[move.order].append((move.reference, move.amount))
    for id_, order in books.orders.items():
        hold, since = books.holds.get(id_), books.events_since
        told = (
            None if since is None or order.placed_at < since else books.events.get(id_, Counter())
        )
        sold = Sold(
            confirmed=order.status == "confirmed", lines=order.lines, total_minor=order.total_minor
        )
        back = hold.back if hold is not None and hold.state == "committed" else None
        follows = books.follows.get(id_, Followed())
        for sentence in followed.breaches(sold, follows, given[id_], back, told):
            yield f"order {id_}: {sentence}"


def _events(books: Books) -> Iterator[str]:
    """One `order.placed` and one end for each order that is younger than the log."""
    for id_, order in books.orders.items():
        if books.events_since is None or order.placed_at < books.events_since:
            continue
        told = books.events.get(id_, Counter())
        ends = told["order.confirmed.v1"], told["order.cancelled.v1"]
        expected = (int(order.status == "confirmed"), int(order.status == "cancelled"))
        if told["order.placed.v1"] != 1 or (order.status in ENDS and ends != expected):
            yield f"order {id_}: {order.status}, but told is {dict(told)}"


# ---- reading ----


async def read(profile: Profile, *, mariadb: bool) -> Books:
    """The books of the shop that runs in this profile."""
    books = Books()
    await _read_orders(books, database_url(profile, "checkout", mariadb=mariadb))
    for node in profile.nodes():
        await _read_stock(books, admin_redis(node, "redis-stock"))
    await _read_money(books, profile.url("payments-simulator", path="/simulator/ledger"))
    await _read_events(books, amqp(profile, "admin"))
    return books


async def settled(profile: Profile, *, mariadb: bool, within: float) -> list[str]:
    """The breaches that are left when the shop has had `within` seconds to become quiet."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while found := breaches(await read(profile, mariadb=mariadb)):
        if loop.time() > end:
            return found
        await asyncio.sleep(1)
    return []


async def _read_orders(books: Books, url: str) -> None:
    engine = create_async_engine(url)
    lines: dict[Any, dict[str, int]] = defaultdict(dict)
    paths: dict[Any, list[str]] = defaultdict(list)
    payments: dict[Any, dict[str, str]] = defaultdict(dict)
    try:
        async with engine.connect() as connection:
            line, step, paid, order = (
                table.c
                for table in (
                    tables.order_lines,
                    tables.order_history,
                    tables.payments,
                    tables.orders,
                )
            )
            for id_, sku, qty in await connection.execute(
                sa.select(line.order_id, line.sku, line.qty)
            ):
                lines[id_][sku] = qty
            for id_, status in await connection.execute(
                sa.select(step.order_id, step.to_status).order_by(step.order_id, step.version)
            ):
                paths[id_].append(status)
            for id_, op, state in await connection.execute(
                sa.select(paid.order_id, paid.op, paid.state)
            ):
                payments[id_][op] = state
            for row in await connection.execute(
                sa.select(
                    order.id,
                    order.status,
                    order.reason,
                    order.total_minor,
                    order.breakdown,
                    order.placed_at,
                )
            ):
                books.orders[str(row.id)] = Order(
                    status=row.status,
                    reason=row.reason,
                    total_minor=row.total_minor,
                    breakdown=row.breakdown,
                    lines=lines[row.id],
                    path=paths[row.id],
                    payments=payments[row.id],
                    placed_at=row.placed_at,
                )
            books.uses = {
                str(row.order_id): row.code
                for row in await connection.execute(sa.select(tables.coupon_uses))
            }
            code = tables.coupons.c
            books.coupons = {
                row.code: Coupon(row.used, row.limit_total)
                for row in await connection.execute(
                    sa.select(code.code, code.used, code.limit_total)
                )
            }
            books.follows = await followed.read(connection)
            count = sa.select(sa.func.count()).select_from(tables.outbox)
            books.waiting["checkout's outbox"] = await connection.scalar(count) or 0
    finally:
        await engine.dispose()


async def _read_stock(books: Books, url: str) -> None:
    # redis-py types every reply for bytes and text
    redis: Any
    async with Redis.from_url(url, decode_responses=True) as redis:
        async for key in redis.scan_iter("{s*}:*", count=PAGE):
            _, _, rest = key.partition("}:")
            kind, _, name = rest.partition(":")
            match kind:
                case "q":
                    has = await redis.hmget(key, ["recv", "avail", "resv", "sold"])
                    books.units[name] = Units(*(int(value or 0) for value in has))
                # parts in other partitions follow the hold, which names all its lines
                case "r" if not name.startswith("part:"):
                    books.holds[name] = _hold(await redis.hgetall(key))
                case "exp" if not name:
                    named = await redis.zrange(key, 0, -1)
                    books.expiring |= {each for each in named if not each.startswith("part:")}
                case "ledger" if not name:
                    await _read_ledger(books, redis, key)
                case "outbox" if not name:
                    waiting = books.waiting.get("stock's outbox", 0)
                    books.waiting["stock's outbox"] = waiting + await redis.xlen(key)


def _hold(fields: dict[str, str]) -> Hold:
    count = int(fields.get("n", 0))
    lines = {fields[f"s{i}"]: int(fields[f"q{i}"]) for i in range(1, count + 1)}
    back = {fields[f"s{i}"]: int(fields.get(f"b{i}", 0)) for i in range(1, count + 1)}
    return Hold(fields["state"], lines, back)


async def _read_ledger(books: Books, redis: Any, key: str) -> None:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    whole: dict[str, bool] = {}
    start = "-"
    while entries := await redis.xrange(key, min=start, count=PAGE):
        for _, fields in entries:
            if "sku" not in fields:
                continue  # it moved no units
            sku = fields["sku"]
            # a ledger whose beginning is archived adds up to no counter
            whole.setdefault(sku, fields["ver"] == "1")
            for place, name in enumerate(("drecv", "davail", "dresv", "dsold")):
                sums[sku][place] += int(fields[name])
        start = f"({entries[-1][0]}"
    books.moved |= {sku: Units(*values) for sku, values in sums.items() if whole[sku]}


async def _read_money(books: Books, url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        answer.raise_for_status()
        books.money = msgspec.json.decode(await answer.read(), type=list[Money])


async def _read_events(books: Books, url: str) -> None:
    """The order events of checkout's log, each id once, and what waits in queues."""
    seen: set[str] = set()
    oldest = min((order.placed_at for order in books.orders.values()), default=datetime.now(UTC))
    async with aclosing(follow(url, "checkout", oldest - timedelta(minutes=1))) as stream:
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    event = (await anext(stream)).event
            except TimeoutError:
                break
            meta = event.meta
            books.events_since = books.events_since or meta.time
            if str(meta.id) not in seen and meta.key.startswith("order."):
                seen.add(str(meta.id))
                books.events.setdefault(meta.subject, Counter())[meta.key] += 1
    await _read_queues(books, url)


async def _read_queues(books: Books, url: str) -> None:
    async with connected(url, "verify") as connection:
        channel = await connection.channel()
        names = [*_queues()]
        for work in OURS:
            names += [partition(work, n) for n in range(await standing(connection, work))]
        for name in names:
            queue = await channel.declare_queue(name, passive=True)
            count = queue.declaration_result.message_count or 0
            (books.parked if name.endswith(".parking") else books.waiting)[name] = count


def _queues() -> Sequence[str]:
    return [spec.name for spec in TOPOLOGY.queues if spec.name.startswith(OURS)]
