"""A merge of carts that dies or is overtaken between two of its steps loses and doubles nothing."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from hypothesis import HealthCheck, given
from hypothesis import settings as drawn
from hypothesis import strategies as st
from redis.asyncio import Redis

import checkout.store.carts
import checkout.store.merging
from chassis.problems import NotFound
from checkout.settings import Settings
from checkout.store.carts import Carts, own
from checkout.store.problems import CartFull

pytestmark = [pytest.mark.connected, pytest.mark.everywhere]

MERGES = """
import asyncio, os, sys
from uuid import UUID
from chassis.redis import connect
from checkout.store.carts import Carts

async def merge(url, prefix, guest, customer):
    async with connect(url, connections=2, timeout=10) as redis:
        await Carts(redis, prefix, 3_600).merge(guest, UUID(customer))

def fork(*told):
    child = os.fork()
    if not child:
        asyncio.run(merge(*told))
        os._exit(0)
    return child

url, prefix, *pairs = sys.argv[1:]
children = [fork(url, prefix, *pair) for pair in zip(pairs[::2], pairs[1::2])]
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
STEPS = ["frozen", "taken", "released"]


async def lines(carts: Carts, cart_id: str) -> dict[str, int]:
    try:
        return (await carts.get(cart_id)).lines
    except NotFound:
        return {}


async def merges_that_die(config: Settings, step: str, *pairs: tuple[str, UUID]) -> list[int]:
    """The exit codes of processes, each of which merges one pair of a guest and a customer."""
    told = [config.redis_url, config.key_prefix, *(str(each) for pair in pairs for each in pair)]
    env = {"SHOP_PROFILE": "test", "FAILPOINT": f"checkout.merge.{step}:kill"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MERGES, *told),
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return [int(code) for code in said.split()]


async def guest_who_adds(carts: Carts, guest: str, _: UUID) -> None:
    with pytest.raises(NotFound):
        await carts.add(guest, "A", 1)


async def guest_who_looks(carts: Carts, guest: str, _: UUID) -> None:
    assert {} == await lines(carts, guest)


async def order_that_ended(carts: Carts, guest: str, _: UUID) -> None:
    await carts.settle(guest, "order-1", [])


async def second_sign_in(carts: Carts, guest: str, customer: UUID) -> None:
    await carts.merge(guest, customer)


async def sign_in_of_somebody_else(carts: Carts, guest: str, _: UUID) -> None:
    bob = uuids.uuid7()
    await carts.merge(guest, bob)
    assert {} == await lines(carts, own(bob))


Next = Callable[[Carts, str, UUID], Awaitable[None]]
NEXT: list[Next] = [
    *(guest_who_adds, guest_who_looks, order_that_ended),
    *(second_sign_in, sign_in_of_somebody_else),
]


@pytest.mark.parametrize("step", STEPS)
async def test_a_merge_that_dies_is_ended_by_whoever_comes_next(
    carts: Carts, settings: Settings, step: str
) -> None:
    customers = [uuids.uuid7() for _ in NEXT]
    guests = []
    for ada in customers:
        await carts.ensure(ada)
        await carts.put(own(ada), "A", 2)
        guests.append((await carts.create()).id)
        await carts.put(guests[-1], "A", 3)
        await carts.put(guests[-1], "B", 1)

    codes = await merges_that_die(settings, step, *zip(guests, customers, strict=True))
    for come, guest, ada in zip(NEXT, guests, customers, strict=True):
        await come(carts, guest, ada)

    assert [-signal.SIGKILL] * len(NEXT) == codes
    for guest, ada in zip(guests, customers, strict=True):
        for _ in range(2):
            assert {"A": 5, "B": 1} == await lines(carts, own(ada))
            await carts.merge(guest, ada)


async def test_a_merge_that_died_leaves_what_found_no_room_with_its_version(
    carts: Carts, settings: Settings
) -> None:
    ada, guest = uuids.uuid7(), (await carts.create()).id
    await carts.ensure(ada)
    await asyncio.gather(*(carts.put(own(ada), f"S-{n}", 1) for n in range(100)))
    before = await carts.put(guest, "A", 3)
    full = await carts.get(own(ada))

    await merges_that_die(settings, "frozen", (guest, ada))

    # nothing has moved, so whoever has seen either cart may still change it
    assert (before, full) == (await carts.get(guest), await carts.get(own(ada)))
    assert {} == (await carts.remove(guest, "A", before.version)).lines


class Actor:
    """Somebody whose every command waits for its turn."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._go = asyncio.Event()
        self._waits = asyncio.Event()

    async def begin(self, doing: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.create_task(doing)
        await self._until_it_waits()

    async def turn(self) -> bool:
        """Let one command through, and wait for the next one; whether there was any."""
        if self.task.done():
            return False
        self._waits.clear()
        self._go.set()
        await self._until_it_waits()
        return True

    async def end(self, *, dies: bool) -> None:
        if dies:
            self.task.cancel()
        while await self.turn():
            pass
        with suppress(asyncio.CancelledError):
            await self.task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def execute_command(self, *args: Any) -> Any:
        self._waits.set()
        await self._go.wait()
        self._go.clear()
        return await self._redis.execute_command(*args)

    async def _until_it_waits(self) -> None:
        waits = asyncio.create_task(self._waits.wait())
        await asyncio.wait({waits, self.task}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()


GUESTS, CUSTOMERS, SKUS, ROOM = 3, 2, ["A", "B", "C", "D"], 3

_numbers = st.integers(0, 11)
_deeds = st.lists(st.tuples(st.sampled_from(["add", "merge", "merge", "get"]), _numbers, _numbers))


class World:
    """Guests' and customers' carts, and the units that were put into any of them."""

    def __init__(self, carts: Carts) -> None:
        self.carts = carts
        self.guests: list[str] = []
        self.customers = [uuids.uuid7() for _ in range(CUSTOMERS)]
        self.added: Counter[str] = Counter()

    async def open(self) -> None:
        self.guests = [(await self.carts.create()).id for _ in range(GUESTS)]
        self.all = [*self.guests, *[(await self.carts.ensure(one)).id for one in self.customers]]
        for n, sku in enumerate(SKUS):
            await self.carts.add(self.guests[n % GUESTS], sku, 1)
            self.added[sku] += 1

    async def live(self, actor: Actor, deeds: list[tuple[str, int, int]]) -> None:
        carts = Carts(cast("Redis", actor), self.carts._prefix, self.carts._ttl_s)
        for what, one, other in deeds:
            cart, sku = self.all[one % len(self.all)], SKUS[other % len(SKUS)]
            with suppress(NotFound, CartFull):
                if what == "get":
                    await carts.get(cart)
                elif what == "merge":
                    customer = self.customers[other % CUSTOMERS]
                    await carts.merge(self.guests[one % GUESTS], customer)
                else:
                    await carts.add(cart, sku, 1)
                    self.added[sku] += 1

    async def units(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for cart in self.all:
            found.update(await lines(self.carts, cart))
        return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carts that are soon full."""
    for module in (checkout.store.carts, checkout.store.merging):
        monkeypatch.setattr(module, "MAX_LINES", ROOM)


@pytest.mark.usefixtures("small")
@drawn(suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(_deeds, st.booleans()), min_size=2, max_size=5),
    st.lists(_numbers, max_size=80),
)
async def test_no_interleaving_of_merges_adds_and_deaths_loses_or_doubles_a_unit(
    carts: Carts, lives: list[tuple[list[tuple[str, int, int]], bool]], turns: list[int]
) -> None:
    world = World(carts)
    await world.open()
    actors = [Actor(carts.redis) for _ in lives]
    for actor, (deeds, _) in zip(actors, lives, strict=True):
        await actor.begin(world.live(actor, deeds))
    for number in turns:
        await actors[number % len(actors)].turn()
    # who has not died by now comes late: others have ended what it began
    await world.units()
    for actor, (_, dies) in zip(actors, lives, strict=True):
        await actor.end(dies=dies)
    seen = await world.units()
    for guest in world.guests:
        await carts.merge(guest, world.customers[0])

    assert world.added == seen == await world.units()


@pytest.mark.usefixtures("small")
async def test_who_comes_late_to_the_end_of_a_merge_leaves_the_next_one_alone(carts: Carts) -> None:
    ada, guest = uuids.uuid7(), (await carts.create()).id
    await carts.ensure(ada)
    for cart, sku in ((own(ada), "S-1"), (own(ada), "S-2"), (guest, "A"), (guest, "B")):
        await carts.put(cart, sku, 1)
    late, dying = Actor(carts.redis), Actor(carts.redis)

    async def merge(actor: Actor) -> None:
        await Carts(cast("Redis", actor), carts._prefix, carts._ttl_s).merge(guest, ada)

    await late.begin(merge(late))
    for _ in ("freezes", "takes"):
        assert await late.turn()
    # somebody else ends it meanwhile, and somebody begins another one
    assert {"B": 1} == await lines(carts, guest)
    await carts.put(guest, "C", 1)
    await dying.begin(merge(dying))
    assert await dying.turn()
    await late.end(dies=False)
    await dying.end(dies=True)

    assert {"B": 1, "C": 1} == await lines(carts, guest)
    assert {"S-1": 1, "S-2": 1, "A": 1} == await lines(carts, own(ada))
