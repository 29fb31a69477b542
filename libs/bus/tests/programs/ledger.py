"""A service as small as can be, once per store, to be killed by tests: `ledger.py STORE`.

The writer raises levels by one, each with its event in one atomic step, and notes what was
committed in the file ACKS. The relay and the consumer are those of `bus`. The consumer counts the
events of each subject in the step that marks them as seen, so that nothing but the truth about
losses, repetitions and order is left in its store.
"""

import asyncio
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from importlib import reload
from typing import Any, Protocol
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa
import uvloop
from elasticsearch import AsyncElasticsearch
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bus import failpoints, sql
from bus.consumer import consume, consume_batches
from bus.documents import MAPPING, ElasticOutbox, pend
from bus.outbox import Outbox
from bus.redis_stream import RedisOutbox
from bus.relay import relay
from shop_contracts.envelope import Event, new
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

OWNER, CONSUMER = "stock", "search"
WRITERS = 4
PAUSE = 0.05


class Effect(Struct, frozen=True):
    """What the consumer did for one subject."""

    times: int = 0
    last: int = 0
    disorder: int = 0

    def after(self, version: int) -> "Effect":
        """With one more event done."""
        return Effect(self.times + 1, version, self.disorder + (version != self.last + 1))


class Ledger(Protocol):
    """Levels with an outbox on one side, effects with an inbox or a version guard on the other."""

    outbox: Outbox

    async def prepare(self) -> None: ...
    async def forget(self) -> None: ...
    async def close(self) -> None: ...

    async def raise_levels(self, skus: Sequence[str]) -> dict[str, int]:
        """Raise each level by one, each with its event; the versions of those committed."""

    async def apply(self, events: Sequence[Event[Fact]]) -> None:
        """Count the events that were not seen before."""

    async def levels(self) -> dict[str, int]: ...
    async def effects(self) -> dict[str, Effect]: ...


def change(sku: str, version: int, id_: UUID | None = None) -> Event[StockChangedV1]:
    fact = StockChangedV1(
        sku=sku, on_hand=version, reserved=0, available=version, cause=Cause.ADJUSTED
    )
    return new(fact, id=id_ or uuid4(), entityversion=version)


class SqlLedger:
    """On SQLite or MariaDB."""

    def __init__(self, url: str) -> None:
        metadata = sa.MetaData()
        self._metadata = metadata
        self._engine = _engine(url)
        self._outbox = sql.outbox_table(metadata)
        self._inbox = sql.inbox_table(metadata)
        numbers = ("version",), ("times", "last", "disorder")
        self._level, self._effect = (
            sa.Table(
                name,
                metadata,
                sa.Column("sku", sa.String(64), primary_key=True),
                *(sa.Column(column, sa.Integer, nullable=False) for column in columns),
            )
            for name, columns in zip(("level", "effect"), numbers, strict=True)
        )
        self.outbox: Outbox = sql.SqlOutbox(self._engine, self._outbox)

    async def prepare(self) -> None:
        await self.forget()
        async with self._engine.begin() as connection:
            await connection.run_sync(self._metadata.create_all)

    async def forget(self) -> None:
        async with self._engine.begin() as connection:
            await connection.run_sync(self._metadata.drop_all)

    async def close(self) -> None:
        await self._engine.dispose()

    async def raise_levels(self, skus: Sequence[str]) -> dict[str, int]:
        async with self._engine.begin() as connection:
            known = await self._rows(connection, self._level, skus)
            raised = {sku: (known[sku].version if sku in known else 0) + 1 for sku in skus}
            values = {sku: {"version": version} for sku, version in raised.items()}
            await self._put(connection, self._level, values)
            await sql.add(connection, self._outbox, *(change(*item) for item in raised.items()))
            failpoints.reach("ledger.writer.before_commit")
        return raised

    async def apply(self, events: Sequence[Event[Fact]]) -> None:
        async with self._engine.begin() as connection:
            fresh = await sql.unseen(connection, self._inbox, CONSUMER, events)
            failpoints.reach("ledger.consumer.marked")
            known = await self._rows(
                connection, self._effect, {event.meta.subject for event in fresh}
            )
            done = {sku: Effect(row.times, row.last, row.disorder) for sku, row in known.items()}
            for event in fresh:
                done[event.meta.subject] = done.get(event.meta.subject, Effect()).after(
                    event.meta.entityversion
                )
            values = {sku: _fields(effect) for sku, effect in done.items()}
            await self._put(connection, self._effect, values)

    async def levels(self) -> dict[str, int]:
        async with self._engine.connect() as connection:
            return {row.sku: row.version for row in await connection.execute(self._level.select())}

    async def effects(self) -> dict[str, Effect]:
        async with self._engine.connect() as connection:
            return {
                row.sku: Effect(row.times, row.last, row.disorder)
                for row in await connection.execute(self._effect.select())
            }

    async def _rows(
        self, connection: AsyncConnection, table: sa.Table, skus: Sequence[str] | set[str]
    ) -> dict[str, Any]:
        query = sa.select(table).where(table.c.sku.in_(list(skus))).with_for_update()
        return {row.sku: row for row in await connection.execute(query)}

    async def _put(
        self,
        connection: AsyncConnection,
        table: sa.Table,
        values: Mapping[str, dict[str, int]],
    ) -> None:
        """One statement: an UPDATE of many rows is one round trip for each."""
        rows = [{"sku": sku, **fields} for sku, fields in values.items()]
        columns = [column.name for column in table.c if not column.primary_key]
        if not rows:
            return
        if connection.dialect.name == "sqlite":
            lite = sqlite.insert(table)
            new = {name: lite.excluded[name] for name in columns}
            await connection.execute(lite.on_conflict_do_update(["sku"], set_=new), rows)
        else:
            maria = mysql.insert(table)
            new = {name: maria.inserted[name] for name in columns}
            await connection.execute(maria.on_duplicate_key_update(new), rows)


class RedisLedger:
    """On Redis: one script for each step."""

    RAISE = """#!lua
local raised = {}
for i = 3, #KEYS do
  local version = redis.call('HINCRBY', KEYS[1], KEYS[i], 1)
  redis.call('XADD', KEYS[2], '*', 'sku', KEYS[i], 'version', version, 'id', ARGV[i - 2])
  raised[#raised + 1] = version
end
return raised
"""
    APPLY = """#!lua
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], '1', 'NX', 'EX', '86400') then
    local sku, version = ARGV[2 * i - 3], tonumber(ARGV[2 * i - 2])
    local last = tonumber(redis.call('HGET', KEYS[1], sku .. '|last') or 0)
    redis.call('HINCRBY', KEYS[1], sku .. '|times', 1)
    redis.call('HSET', KEYS[1], sku .. '|last', version)
    if version ~= last + 1 then redis.call('HINCRBY', KEYS[1], sku .. '|disorder', 1) end
  end
end
"""

    def __init__(self, url: str, prefix: str) -> None:
        self._redis: Any = Redis.from_url(url, decode_responses=True, socket_timeout=30)
        self._slot = f"{prefix}{{s0}}:"
        self._raise = self._redis.register_script(self.RAISE)
        self._apply = self._redis.register_script(self.APPLY)
        self.outbox: Outbox = RedisOutbox(self._redis, f"{self._slot}outbox", build=self._build)

    @staticmethod
    def _build(fields: dict[str, str]) -> Event[Fact]:
        return change(fields["sku"], int(fields["version"]), UUID(fields["id"]))

    async def prepare(self) -> None:
        await self.forget()

    async def forget(self) -> None:
        found = [key async for key in self._redis.scan_iter(f"{self._slot}*", count=1_000)]
        for start in range(0, len(found), 1_000):
            await self._redis.unlink(*found[start : start + 1_000])

    async def close(self) -> None:
        await self._redis.aclose()

    async def raise_levels(self, skus: Sequence[str]) -> dict[str, int]:
        keys = [f"{self._slot}level", f"{self._slot}outbox", *skus]
        raised = await self._raise(keys, [str(uuid4()) for _ in skus])
        return dict(zip(skus, map(int, raised), strict=True))

    async def apply(self, events: Sequence[Event[Fact]]) -> None:
        keys = [f"{self._slot}effect", *(f"{self._slot}in:{event.meta.id}" for event in events)]
        pairs = [
            value for event in events for value in (event.meta.subject, event.meta.entityversion)
        ]
        await self._apply(keys, pairs)

    async def levels(self) -> dict[str, int]:
        found = await self._redis.hgetall(f"{self._slot}level")
        return {sku: int(version) for sku, version in found.items()}

    async def effects(self) -> dict[str, Effect]:
        found = await self._redis.hgetall(f"{self._slot}effect")
        fields: dict[str, dict[str, int]] = {}
        for name, value in found.items():
            sku, _, field = name.partition("|")
            fields.setdefault(sku, {})[field] = int(value)
        return {sku: Effect(**values) for sku, values in fields.items()}


class ElasticLedger:
    """On Elasticsearch: a document per subject and side, written by compare-and-set."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = AsyncElasticsearch(url, request_timeout=30)
        self._level, self._effect = f"{prefix}level", f"{prefix}effect"
        self.outbox: Outbox = ElasticOutbox(self._client, self._level)

    async def prepare(self) -> None:
        await self.forget()
        number = {"type": "integer"}
        for index, properties in (
            (self._level, {"version": number, **MAPPING}),
            (self._effect, dict.fromkeys(("times", "last", "disorder"), number)),
        ):
            mappings = {"dynamic": "strict", "properties": properties}
            await self._client.indices.create(index=index, mappings=mappings)

    async def forget(self) -> None:
        for index in (self._level, self._effect):
            await self._client.options(ignore_status=404).indices.delete(index=index)

    async def close(self) -> None:
        await self._client.close()

    async def raise_levels(self, skus: Sequence[str]) -> dict[str, int]:
        seen = await self._read(self._level, skus)
        sources: dict[str, dict[str, Any]] = {}
        for sku in skus:
            source = dict(seen[sku]["_source"]) if sku in seen else {"version": 0}
            source["version"] += 1
            pend(source, [change(sku, source["version"])])
            sources[sku] = source
        lost = await self._write(self._level, seen, sources)
        return {sku: source["version"] for sku, source in sources.items() if sku not in lost}

    async def apply(self, events: Sequence[Event[Fact]]) -> None:
        left = list(events)
        while left:
            seen = await self._read(self._effect, {event.meta.subject for event in left})
            done = {sku: Effect(**found["_source"]) for sku, found in seen.items()}
            for event in left:
                effect = done.get(event.meta.subject, Effect())
                # the version guard: it stands in the very document that it guards
                if event.meta.entityversion > effect.last:
                    done[event.meta.subject] = effect.after(event.meta.entityversion)
            failpoints.reach("ledger.consumer.marked")
            lost = await self._write(
                self._effect, seen, {sku: _fields(effect) for sku, effect in done.items()}
            )
            left = [event for event in left if event.meta.subject in lost]

    async def levels(self) -> dict[str, int]:
        return {sku: source["version"] for sku, source in (await self._all(self._level)).items()}

    async def effects(self) -> dict[str, Effect]:
        return {sku: Effect(**source) for sku, source in (await self._all(self._effect)).items()}

    async def _all(self, index: str) -> dict[str, dict[str, Any]]:
        await self._client.indices.refresh(index=index)
        found = await self._client.search(index=index, size=10_000)
        return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}

    async def _read(self, index: str, skus: Sequence[str] | set[str]) -> dict[str, Any]:
        if not skus:
            return {}
        got = await self._client.mget(index=index, ids=list(skus))
        return {doc["_id"]: doc for doc in got["docs"] if doc["found"]}

    async def _write(
        self, index: str, seen: Mapping[str, Any], sources: Mapping[str, dict[str, Any]]
    ) -> set[str]:
        operations: list[dict[str, Any]] = []
        for sku, source in sources.items():
            action: dict[str, Any] = {"create": {"_id": sku}}
            if sku in seen:
                seq = {"if_seq_no": seen[sku]["_seq_no"]}
                action = {
                    "index": {"_id": sku, **seq, "if_primary_term": seen[sku]["_primary_term"]}
                }
            operations += [action, source]
        if not operations:
            return set()
        answer = await self._client.bulk(
            index=index, operations=operations, filter_path=["items.*._id", "items.*.status"]
        )
        results = [next(iter(item.values())) for item in answer["items"]]
        if bad := [one for one in results if one["status"] not in {200, 201, 409}]:
            raise ConnectionError(f"not written: {bad[0]}")
        return {one["_id"] for one in results if one["status"] == 409}


def _fields(effect: Effect) -> dict[str, int]:
    return {"times": effect.times, "last": effect.last, "disorder": effect.disorder}


def _engine(url: str) -> AsyncEngine:
    if not url.startswith("sqlite"):
        return create_async_engine(url, isolation_level="READ COMMITTED")
    engine = create_async_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begins(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def open_ledger(store: str, env: Mapping[str, str]) -> Ledger:
    match store:
        case "redis":
            return RedisLedger(env["LEDGER_URL"], env["LEDGER_PREFIX"])
        case "elasticsearch":
            return ElasticLedger(env["LEDGER_URL"], env["LEDGER_PREFIX"])
        case _:
            return SqlLedger(env["LEDGER_URL"])


async def write(ledger: Ledger) -> None:
    """Raise levels, batch by batch, until told to stop; note what was committed."""
    subjects, batch = int(os.environ["LEDGER_SUBJECTS"]), int(os.environ["LEDGER_BATCH"])
    acks = os.open(os.environ["LEDGER_ACKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    # a writer has subjects of its own, so that writers never wait for each other
    own = [[f"S-{n}" for n in range(w, subjects, WRITERS)] for w in range(WRITERS)]

    async def writer(skus: list[str]) -> None:
        while True:
            for start in range(0, len(skus), batch):
                try:
                    done = await ledger.raise_levels(skus[start : start + batch])
                except Exception as error:  # noqa: BLE001 - nothing was promised, so try again
                    sys.stderr.write(f"not written: {error!r}\n")
                    await asyncio.sleep(PAUSE)
                    continue
                failpoints.reach("ledger.writer.after_commit")
                os.write(acks, "".join(f"{sku} {at}\n" for sku, at in done.items()).encode())
                await asyncio.sleep(float(os.environ["LEDGER_PAUSE"]))

    await asyncio.gather(*(writer(skus) for skus in own))


async def forward(ledger: Ledger) -> None:
    await relay(os.environ["BROKER_URL"], OWNER, ledger.outbox)


async def follow(ledger: Ledger) -> None:
    """Apply what comes: in batches, or one by one, each n-th of them failing the first time."""
    fails = int(os.environ.get("LEDGER_FAILS", "0"))
    handed: set[UUID] = set()

    async def one(context: Ledger, event: Event[Fact]) -> None:
        fresh = event.meta.id not in handed
        handed.add(event.meta.id)
        if fails and fresh and len(handed) % fails == 0:
            raise ConnectionError("this one is to fail")
        await context.apply([event])

    async def batch(context: Ledger, events: Sequence[Event[Fact]]) -> None:
        await context.apply(events)

    url = os.environ["BROKER_URL"]
    count = int(os.environ.get("LEDGER_PARTITIONS", "0"))
    if os.environ["LEDGER_CONSUMER"] == "batches":
        await consume_batches(url, CONSUMER, OWNER, batch, ledger, partitions=count)
    await consume(url, CONSUMER, OWNER, {StockChangedV1: one}, ledger, partitions=count)


ROLES: dict[str, Callable[[Ledger], Coroutine[Any, Any, None]]] = {
    "writer": write,
    "relay": forward,
    "consumer": follow,
}


class Task(Struct, frozen=True):
    """One process to start: what it does, with which environment, and where it writes."""

    role: str
    env: dict[str, str]
    log: str


class Born(Struct, frozen=True, tag=True):
    """A process runs."""

    pid: int


class Died(Struct, frozen=True, tag=True):
    """A process is over; a negative code is the signal that ended it."""

    pid: int
    code: int


def nursery(store: str) -> None:
    """Start a process for each line, a `Task`, and tell its birth and its death in lines.

    Forks, so that what costs seconds, the imports, is done once. Ends with its input, and with it
    all that it started.
    """
    poll = select.poll()
    poll.register(0, select.POLLIN)
    children: dict[int, int] = {}
    rest = b""
    while True:
        for fd, _ in poll.poll():
            if fd in children:
                pid = children.pop(fd)
                poll.unregister(fd)
                os.close(fd)
                _tell(Died(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
                continue
            data = os.read(0, 65_536)
            if not data:
                for pid in children.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                pid = _begin(store, msgspec.json.decode(line, type=Task))
                death = os.pidfd_open(pid)
                children[death] = pid
                poll.register(death, select.POLLIN)
                _tell(Born(pid))


def _tell(what: Born | Died) -> None:
    os.write(1, msgspec.json.encode(what) + b"\n")


def _begin(store: str, task: Task) -> int:
    if pid := os.fork():
        return pid
    log = os.open(task.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, to in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(fd, to)
    os.environ |= task.env
    # it was read when the module was
    reload(failpoints)
    code = 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ROLES[task.role](open_ledger(store, os.environ)))
    except BaseException:  # noqa: BLE001 - told in the log; this process ends here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    nursery(*sys.argv[1:])
