"""The store on a Redis that is killed with commands in flight, and whose file ends anywhere.

A model says what each step does, once; a step whose answer was lost is asked for again under the
same id, as a redelivered event or a repeated request is. Everything is then read from raw keys.

The figures are printed: `pytest -rP -m long services/stock/tests/test_crashes.py`.
"""

import asyncio
import os
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from chassis.problems import Unavailable
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from stock.app import connect
from stock.domain import Action, Adjust, build
from stock.prices import PriceEntry, moment
from stock.settings import Settings
from stock.store import StockStore
from stock.store.problems import HoldOver, HoldTaken, InsufficientStock, UnknownHold

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]

SKUS = ("a", "b", "c")
S = "{s0}:"
COUNTERS = ("recv", "avail", "resv", "sold")
CARTS = [UUID(int=number) for number in range(3)]


Keys = dict[str, dict[str, str]]


async def breaches(redis: Any) -> list[str]:
    """What is wrong between the keys; nothing, at any moment and behind any crash."""
    outbox = [fields for _, fields in await redis.xrange(f"{S}outbox")]
    events = [build(fields) for fields in outbox]
    # An answer that is asked for again is the same event again: one fact, whoever counts.
    facts = {(e.meta.subject, e.meta.key, e.meta.entityversion): e.meta.id for e in events}
    found = []
    if len(facts) != len({event.meta.id for event in events}):
        found.append("two facts under one id, or one under two")
    versions = defaultdict(set)
    for subject, kind, version in facts:
        if kind.startswith("reservation."):
            versions[subject].add(version)
    found += [
        f"{order}: told versions {seen}"
        for order, seen in versions.items()
        if seen != set(range(1, len(seen) + 1))
    ]
    holds = await _hashes(redis, "r")
    index = dict(await redis.zrange(f"{S}exp", 0, -1, withscores=True))
    if index != {n: float(hold["exp"]) for n, hold in holds.items() if hold["state"] == "held"}:
        found.append(f"the index of holds is {index}")
    found += await _unbalanced(redis, holds, events)
    found += await _mispriced(redis, outbox)
    return found


async def _hashes(redis: Any, kind: str) -> Keys:
    return {
        key.removeprefix(f"{S}{kind}:"): await redis.hgetall(key)
        async for key in redis.scan_iter(f"{S}{kind}:*", count=1000)
    }


async def _unbalanced(redis: Any, holds: Keys, events: list[Event[Fact]]) -> list[str]:
    """Where counters, holds, ledger, its index and the events do not agree."""
    held: Counter[str] = Counter()
    for hold in holds.values():
        if hold["state"] == "held":
            for i in range(1, int(hold["n"]) + 1):
                held[hold[f"s{i}"]] += int(hold[f"q{i}"])
    movements = defaultdict(list)
    for at, fields in await redis.xrange(f"{S}ledger"):
        if "davail" in fields:
            movements[fields["sku"]].append((at, fields))
    quantities = await _hashes(redis, "q")
    quantities = {sku: q for sku, q in quantities.items() if "ver" in q}
    found = [] if movements.keys() == quantities.keys() else ["the ledger knows other SKUs"]
    for sku, q in quantities.items():
        counters = [int(q[name]) for name in COUNTERS]
        sums, lowest = [0, 0, 0, 0], 0
        for _, fields in movements[sku]:
            sums = [total + int(fields[f"d{n}"]) for total, n in zip(sums, COUNTERS, strict=True)]
            lowest = min(lowest, *sums)
        told = [
            str(event.meta.id)
            for event in events
            if event.meta.subject == sku and event.meta.key == "stock.changed.v1"
        ]
        laws = {
            "not below zero": lowest == 0 <= min(counters),
            "received = available + reserved + sold": counters[0] == sum(counters[1:]),
            "reserved = held": counters[2] == held[sku],
            "the ledger sums to the counters": sums == counters,
            "the n-th movement makes version n": [int(f["ver"]) for _, f in movements[sku]]
            == list(range(1, int(q["ver"]) + 1)),
            "the index of movements is the ledger's": [at for at, _ in movements[sku]]
            == await redis.lrange(f"{S}moves:{sku}", 0, -1),
            "each movement is told once": told == [f["event"] for _, f in movements[sku]],
        }
        found += [f"{sku}: {law}, but {q}" for law, holds_ in laws.items() if not holds_]
    return found


async def _mispriced(redis: Any, outbox: list[dict[str, str]]) -> list[str]:
    """Where prices, their boundaries and their events do not agree."""
    found = []
    for sku, price in (await _hashes(redis, "price")).items():
        ends = await redis.zscore(f"{S}bounds", sku)
        told = [f for f in outbox if f["type"] == "price.changed.v1" and f["sku"] == sku]
        if (
            price.get("until", "") != ("" if ends is None else str(int(ends)))
            or [int(f["version"]) for f in told] != list(range(1, int(price["ver"]) + 1))
            or told[-1]["prices"] != price["prices"]
        ):
            found.append(f"{sku}: {price} ends {ends}, told {told}")
    return found


class Crashing(RuleBasedStateMachine):
    """Random steps, some with a kill -9 while they are under way, against a model."""

    server: Any
    steps = 0  # of all examples
    kills = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model: dict[str, list[int]] = {sku: [0, 0, 0] for sku in SKUS}
        self.orders: dict[int, tuple[str, dict[str, int]]] = {}
        self.carts: dict[int, dict[str, int]] = {}
        self.back: dict[int, Counter[str]] = defaultdict(Counter)
        self.ids = [uuid4() for _ in range(12)]
        self.run(self._open())

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    async def _open(self) -> None:
        settings = Settings(redis_url=self.server.url, redis_timeout=10)
        self.redis: Any = connect(settings)
        await self.redis.flushall()
        self.store = StockStore(self.redis, hold_ms=3_600_000)
        await self.store.install.make()

    def teardown(self) -> None:
        async def close() -> None:
            assert [] == await breaches(self.redis)
            await self.redis.aclose()

        self.run(close())
        self.runner.close()

    async def step(self, crash: int | None, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer; with `crash`, Redis dies so many ten-thousandths of a second after asking."""
        if crash is not None:
            first = asyncio.ensure_future(ask())
            await asyncio.sleep(crash / 10_000)
            type(self).kills += 1
            self.server.kill()
            self.server.start()
            try:
                return await first
            except Unavailable:
                pass
            finally:
                # what was connected to the one that died
                await self.redis.connection_pool.disconnect()
        return await ask()

    def fits(self, lines: dict[str, int], given: dict[str, int] | None = None) -> bool:
        given = given or {}
        return all(self.model[sku][0] + given.get(sku, 0) >= qty for sku, qty in lines.items())

    def move(self, lines: dict[str, int], avail: int, resv: int, sold: int) -> None:
        for sku, qty in lines.items():
            for place, sign in enumerate((avail, resv, sold)):
                self.model[sku][place] += sign * qty

    @initialize()
    def stocked(self) -> None:
        for sku, units in zip(SKUS, (6, 9, 15), strict=True):
            self.run(self.store.quantities.adjust(sku, Adjust(stock=units, action=Action.SET)))
            self.model[sku][0] = units

    @rule(sku=st.sampled_from(SKUS), by=st.integers(-6, 6), crash=st.none() | st.integers(0, 20))
    def adjust(self, sku: str, by: int, crash: int | None) -> None:
        key = str(uuid4())
        command = Adjust(stock=abs(by), action=Action.INCREMENT if by >= 0 else Action.DECREMENT)
        try:
            level = self.run(
                self.step(crash, lambda: self.store.quantities.adjust(sku, command, key=key))
            ).level
        except InsufficientStock:
            assert self.model[sku][0] + by < 0
            return
        self.model[sku][0] += by
        assert self.model[sku][:2] == [level.available, level.reserved]

    @rule(
        order=st.integers(0, 11),
        lines=st.dictionaries(st.sampled_from(SKUS), st.integers(1, 4), min_size=1),
        crash=st.none() | st.integers(0, 20),
        cart=st.none() | st.integers(0, 2),
    )
    def reserve(
        self, order: int, lines: dict[str, int], crash: int | None, cart: int | None
    ) -> None:
        cause = uuid4()
        taking = None if cart is None else CARTS[cart]
        answer = self.run(
            self.step(
                crash,
                lambda: self.store.holds.reserve(
                    self.ids[order], list(lines.items()), cause, taking=taking
                ),
            )
        )
        if order in self.orders:
            assert "dup" == answer
            return
        given = {} if cart is None else self.carts.get(cart, {})
        held = self.fits(lines, given)
        # a step that was asked for twice may be answered by its own first run
        assert answer in {"held" if held else "rejected", "dup" if crash is not None else ""}
        self.orders[order] = ("held" if held else "rejected", lines)
        if held:
            self.move(given, 1, -1, 0)
            self.move(lines, -1, 1, 0)
            if given and cart is not None:
                del self.carts[cart]

    @precondition(lambda self: self.orders)
    @rule(
        pick=st.integers(0, 11),
        op=st.sampled_from(["commit", "release", "return"]),
        crash=st.none() | st.integers(0, 20),
    )
    def finish(self, pick: int, op: Any, crash: int | None) -> None:
        order = sorted(self.orders)[pick % len(self.orders)]
        state, lines = self.orders[order]
        cause = uuid4()
        answer = self.run(
            self.step(
                crash,
                lambda: self.store.holds.finish(op, self.ids[order], list(lines.items()), cause),
            )
        )
        new, *moved = self.ended(op, state, lines)
        if op == "return" and self.back[order]:
            new = None
        if new is not None:
            assert answer in {new, "dup" if crash is not None else ""}
            self.orders[order] = (new, lines)
            self.move(lines, *moved)
        else:
            assert answer in {"noop", "conflict", "again", "dup"}

    def ended(self, op: str, state: str, lines: dict[str, int]) -> tuple[Any, ...]:
        """The state behind the step and what moves; None: nothing happens."""
        nothing = (None, 0, 0, 0)
        if op == "commit" and state == "expired":
            return ("committed", -1, 0, 1) if self.fits(lines) else ("commit_failed", 0, 0, 0)
        return {
            ("commit", "held"): ("committed", 0, -1, 1),
            ("commit", "rejected"): ("commit_failed", 0, 0, 0),
            ("commit", "released"): ("commit_failed", 0, 0, 0),
            ("release", "held"): ("released", 1, -1, 0),
            ("return", "held"): ("released", 1, -1, 0),
            ("return", "committed"): ("returned", 1, 0, -1),
        }.get((op, state), nothing)

    @precondition(lambda self: self.orders)
    @rule(pick=st.integers(0, 11), qty=st.integers(1, 2), crash=st.none() | st.integers(0, 20))
    def restock(self, pick: int, qty: int, crash: int | None) -> None:
        order = sorted(self.orders)[pick % len(self.orders)]
        state, lines = self.orders[order]
        sku, back, cause = min(lines), self.back[order], uuid4()
        answer = self.run(
            self.step(crash, lambda: self.store.holds.restock(self.ids[order], [(sku, qty)], cause))
        )
        if state == "committed" and back[sku] + qty <= lines[sku]:
            assert answer in {"restocked", "dup" if crash is not None else ""}
            back[sku] += qty
            self.move({sku: qty}, 1, 0, -1)
        else:
            assert answer == ("early" if state == "held" else "conflict")

    @precondition(lambda self: any(state == "held" for state, _ in self.orders.values()))
    @rule(pick=st.integers(0, 11), crash=st.none() | st.integers(0, 20))
    def expire(self, pick: int, crash: int | None) -> None:
        held = [order for order, (state, _) in sorted(self.orders.items()) if state == "held"]
        order = held[pick % len(held)]
        self.run(self._pass(str(self.ids[order])))
        self.run(self.step(crash, self.store.holds.expire_due))
        self.orders[order] = ("expired", self.orders[order][1])
        self.move(self.orders[order][1], 1, -1, 0)

    async def _pass(self, name: str) -> None:
        """The hold's time is over, without waiting for it; both places change at once."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(f"{S}r:{name}", "exp", "1")
            pipe.zadd(f"{S}exp", {name: 1})
            await pipe.execute()

    @rule(
        cart=st.integers(0, 2),
        lines=st.dictionaries(st.sampled_from(SKUS), st.integers(1, 4), min_size=1),
        crash=st.none() | st.integers(0, 20),
    )
    def hold(self, cart: int, lines: dict[str, int], crash: int | None) -> None:
        given = self.carts.get(cart, {})
        try:
            self.run(
                self.step(crash, lambda: self.store.carts.hold(CARTS[cart], list(lines.items())))
            )
        except InsufficientStock:
            assert not self.fits(lines, given)
            return
        except HoldTaken:
            assert not given
            return
        self.move(given, 1, -1, 0)
        self.move(lines, -1, 1, 0)
        self.carts[cart] = lines

    @rule(
        cart=st.integers(0, 2),
        over=st.booleans(),
        crash=st.none() | st.integers(0, 20),
    )
    def end_cart(self, cart: int, over: bool, crash: int | None) -> None:
        given = self.carts.pop(cart, {})
        if given and over:
            self.run(self._pass(f"cart:{CARTS[cart]}"))
        try:
            self.run(self.step(crash, lambda: self.store.carts.release(CARTS[cart])))
        except HoldOver:
            assert over or not given
        except (HoldTaken, UnknownHold):
            assert not given
        self.move(given, 1, -1, 0)

    @rule(
        sku=st.sampled_from(SKUS),
        amount=st.integers(1, 3),
        later=st.booleans(),
        crash=st.none() | st.integers(0, 20),
    )
    def price(self, sku: str, amount: int, later: bool, crash: int | None) -> None:
        entry = PriceEntry(
            currency="EUR",
            amount_minor=amount,
            valid_from=moment(4_000_000_000_000) if later else None,
        )
        self.run(self.step(crash, lambda: self.store.prices.edit([(sku, "merge", [entry])])))
        plan = self.run(self.store.prices.plan(sku)).prices
        assert entry in plan

    @rule()
    def turn(self) -> None:
        assert 0 == self.run(self.store.prices.turn_due())

    @invariant()
    def agrees(self) -> None:
        async def look() -> None:
            for sku, (avail, resv, sold) in self.model.items():
                q = await self.redis.hmget(f"{S}q:{sku}", ("avail", "resv", "sold"))
                assert [avail, resv, sold] == [int(n or 0) for n in q], sku

        type(self).steps += 1
        self.run(look())


def crash_test(server: Any, number: int, examples: int, steps: int) -> int:
    """Runs the machine with this seed; how many steps that were."""
    machine = type("Machine", (Crashing,), {"server": server})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"seed {number}: {machine.steps} steps, {machine.kills} kills")  # noqa: T201 -- the figure is what it is for
    return machine.steps


def test_no_step_is_lost_halved_or_done_twice_when_redis_is_killed_in_it(
    redis_server: Callable[..., Any],
) -> None:

    assert crash_test(redis_server(), 1, examples=6, steps=25) > 100


@pytest.mark.long
@pytest.mark.parametrize("number", [11, 12, 13, 14, 15])
def test_ten_thousand_steps_with_kills_keep_every_invariant(
    redis_server: Callable[..., Any], number: int
) -> None:

    assert crash_test(redis_server(), number, examples=60, steps=50) >= 2_000


@pytest.mark.parametrize(
    "tamper",
    [
        ("HINCRBY", f"{S}q:a", "avail", 1),
        ("HINCRBY", f"{S}q:a", "resv", -1),
        ("ZREM", f"{S}exp", str(UUID(int=1))),
        ("HSET", f"{S}r:{UUID(int=1)}", "q1", 5),
        ("LPOP", f"{S}moves:a"),
        ("XTRIM", f"{S}ledger", "MAXLEN", 2),
        ("XTRIM", f"{S}outbox", "MAXLEN", 2),
        ("HSET", f"{S}price:a", "prices", ""),
        ("ZADD", f"{S}bounds", 1, "a"),
    ],
)
async def test_what_is_wrong_is_seen(redis_server: Callable[..., Any], tamper: Any) -> None:
    async with connect(Settings(redis_url=redis_server().url)) as redis:
        store = StockStore(redis)
        await store.install.make()
        await store.quantities.adjust("a", Adjust(stock=5, action=Action.SET))
        await store.holds.reserve(UUID(int=1), [("a", 2)], uuid4())
        await store.prices.put("a", [PriceEntry(currency="EUR", amount_minor=1)])
        assert [] == await breaches(redis)

        await redis.execute_command(*tamper)

        assert [] != await breaches(redis)


# --- the file


async def test_half_a_step_at_the_end_of_the_file_joins_nothing_that_follows(
    redis_server: Callable[..., Any],
) -> None:
    server = redis_server()

    async def one_more() -> int:
        async with connect(Settings(redis_url=server.url)) as redis:
            store = StockStore(redis)
            await store.install.make()
            await store.quantities.adjust("a", Adjust(stock=1, action=Action.INCREMENT))
            assert [] == await breaches(redis)
            return (await store.quantities.level("a")).available

    def restart() -> None:
        server.kill()
        server.start()

    assert 1 == await one_more()
    (file,) = server.folder.glob("appendonlydir/*.incr.aof")
    for tenth in range(1, 10):
        whole = file.stat().st_size
        await one_more()
        server.kill()
        os.truncate(file, whole + (file.stat().st_size - whole) * tenth // 10)
        server.start()
        await one_more()
        restart()
        assert 1 + 2 * tenth == await one_more()


async def test_damage_is_no_cut_and_nothing_is_taken_off(
    redis_server: Callable[..., Any],
) -> None:
    server = redis_server()
    async with connect(Settings(redis_url=server.url)) as redis:
        store = StockStore(redis)
        await store.install.make()
        for _ in range(3):
            await store.quantities.adjust("a", Adjust(stock=1, action=Action.INCREMENT))
    (file,) = server.folder.glob("appendonlydir/*.incr.aof")
    server.kill()
    was = file.read_bytes()
    for command in (b"MULTI", b"XADD", b"RPUSH"):
        at = was.rindex(command) - len("$5\r\n")
        damaged = was[:at] + b"X" + was[at + 1 :]
        file.write_bytes(damaged)

        with pytest.raises(RuntimeError):
            server.start()
        assert damaged == file.read_bytes()


async def some_history(store: StockStore, redis: Any, steps: int) -> None:
    """A bit of everything that writes."""
    draw = random.Random(6)
    orders: list[tuple[UUID, list[tuple[str, int]]]] = []
    for sku in SKUS:
        await store.quantities.adjust(sku, Adjust(stock=12, action=Action.SET))
    await store.quantities.set_threshold("a", 5)
    for number in range(steps):
        lines = [(sku, draw.randint(1, 3)) for sku in draw.sample(SKUS, draw.randint(1, 3))]
        kind = draw.choice(["order", "order", "end", "end", "cart", "adjust", "price", "pass"])
        if kind == "order":
            orders.append((uuid4(), lines))
            await store.holds.reserve(*orders[-1], uuid4(), taking=draw.choice([None, *CARTS]))
        elif kind == "end" and orders:
            order, was = draw.choice(orders)
            step: Any = draw.choice(["commit", "release", "return"])
            await store.holds.finish(step, order, was, uuid4())
        elif kind == "cart":
            with suppress(InsufficientStock, HoldTaken):
                await store.carts.hold(draw.choice(CARTS), lines)
        elif kind == "adjust":
            command = Adjust(stock=draw.randint(0, 9), action=Action.INCREMENT)
            await store.quantities.adjust(draw.choice(SKUS), command, key=str(uuid4()))
        elif kind == "price":
            price = PriceEntry(
                currency="EUR", amount_minor=number, valid_until=moment(4_000_000_000_000 + number)
            )
            await store.prices.edit([(draw.choice(SKUS), "merge", [price])])
        elif kind == "pass" and (held := await redis.zrange(f"{S}exp", 0, -1)):
            name = draw.choice(held)
            async with redis.pipeline(transaction=True) as pipe:
                pipe.hset(f"{S}r:{name}", "exp", "1")
                pipe.zadd(f"{S}exp", {name: 1})
                await pipe.execute()
            await store.holds.expire_due()


def cuts(data: bytes, every: int) -> list[int]:
    """Where the file may end: behind commands, and in the middle of them."""
    ends = [at for at in range(len(data)) if data[at : at + 1] == b"*"]
    return sorted({*ends[:: max(1, every // 50)], *range(0, len(data), every), len(data)})


async def truncated(server: Any, every: int, steps: int) -> int:
    """Starts Redis on its file cut at many places; how many. Each must be a state of the shop."""
    settings = Settings(redis_url=server.url, redis_timeout=30)
    async with connect(settings) as redis:
        store = StockStore(redis, hold_ms=3_600_000)
        await store.install.make()
        await some_history(store, redis, steps)
        assert [] == await breaches(redis)
    server.kill()
    (file,) = Path(server.folder).glob("appendonlydir/*.incr.aof")
    whole = file.read_bytes()
    lengths = cuts(whole, every)
    for length in lengths:
        file.write_bytes(whole[:length])
        server.start()
        async with connect(settings) as redis:
            assert [] == await breaches(redis), f"of {len(whole)} bytes {length}"
        server.kill()
    print(f"{len(lengths)} lengths of {len(whole)} bytes")  # noqa: T201 -- as above
    return len(lengths)


async def test_the_file_is_a_state_of_the_shop_wherever_it_ends(
    redis_server: Callable[..., Any],
) -> None:

    assert await truncated(redis_server(), 1_013, steps=12) > 20


@pytest.mark.long
@pytest.mark.parametrize(("every", "steps", "least"), [(67, 60, 1_000), (1, 4, 2_000)])
async def test_the_file_of_a_long_history_and_each_byte_of_a_short_one_is_a_state_of_the_shop(
    redis_server: Callable[..., Any], every: int, steps: int, least: int
) -> None:

    assert await truncated(redis_server(), every, steps=steps) > least
