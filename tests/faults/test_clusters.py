"""A shop that has outgrown one broker: the addresses of a cluster are all that changes."""

import asyncio
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial
from operator import eq, lt
from uuid import uuid4

import msgspec
import pytest

from bus.consumer import consume
from bus.outbox import Entry
from bus.relay import relay
from bus.topology import apply
from shop import servers
from shop.client import until
from shop.process import Process
from shop.profiles import Profile, profile
from shop.secrets import secret, write_private
from shop.stack import Stack
from shop_contracts.envelope import Event, new
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = [pytest.mark.connected, pytest.mark.long]

NODES = ["one", "two", "three"]
APART = 100  # between the ports of two nodes
SKUS, CHANGES = 20, 6_000
FORMING = [
    "cluster_formation.peer_discovery_backend = classic_config",
    *(
        f"cluster_formation.classic_config.nodes.{n} = {node}@localhost"
        for n, node in enumerate(NODES, 1)
    ),
]


class Cluster:
    """Three brokers that are one, each of which can be killed."""

    def __init__(self) -> None:
        base = profile("clusters")
        self.stack = Stack(base, mariadb=False)
        self._nodes = {node: self._profile(base, node, APART * n) for n, node in enumerate(NODES)}

    def _profile(self, base: Profile, node: str, offset: int) -> Profile:
        ports = {name: port + offset for name, port in base.ports.items()}
        # a cluster that was stopped waits for whoever stopped last: each run forms a new one
        shutil.rmtree(base.folder(node, "rabbitmq"))
        own = Profile(node, {**ports, "epmd": base.ports["epmd"]}, base.folder(node))
        logins = base.folder("secrets")
        logins.chmod(0o711)
        if not (own.var / "secrets").exists():
            (own.var / "secrets").symlink_to(logins)
        return own

    def start(self) -> None:
        first, *others = [self._process(node) for node in NODES]
        for processes in ([servers.epmd(self.stack.profile), first], others):
            states = [[], *self.stack.starting(processes)][-1]
            assert {"ready"} == {state.state for state in states}

    def _process(self, node: str) -> Process:
        own = self._nodes[node]
        home = own.folder("rabbitmq")
        write_private(home / ".erlang.cookie", secret(self.stack.profile, "erlang_cookie"))
        (home / ".erlang.cookie").chmod(0o400)
        process = servers.rabbitmq(own)
        with (home / "rabbitmq.conf").open("a") as config:
            config.write("\n".join(FORMING) + "\n")
        env = {**process.env, "RABBITMQ_NODENAME": f"{node}@localhost"}
        return msgspec.structs.replace(process, name=f"rabbitmq-{node}", env=env)

    def addresses(self, user: str) -> str:
        return ",".join(servers.amqp(own, user) for own in self._nodes.values())

    def kill(self, node: str) -> None:
        self.stack.kill(f"rabbitmq-{node}")

    def back(self) -> int:
        """How many that were killed are ready again; -1 while one is away."""
        states = self.stack.status()
        away = any(state.state != "ready" for state in states)
        return -1 if away else sum(state.restarts for state in states)


class Changes:
    """An outbox in memory that hands out changes a few at a time, for as long as there are any."""

    def __init__(self, total: int) -> None:
        versions: dict[str, int] = defaultdict(int)
        self.left: list[Entry] = []
        for ref in range(total):
            sku = f"C-{ref % SKUS}"
            versions[sku] += 1
            data = StockChangedV1(
                sku=sku, on_hand=ref, reserved=0, available=ref, cause=Cause.ADJUSTED
            )
            self.left.append(Entry.of(ref, new(data, id=uuid4(), entityversion=versions[sku])))
        self.all = [entry.event for entry in self.left]

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        await asyncio.sleep(0.15)
        return self.left[len(behind) :][: min(limit, 60)]

    async def settle(self, entries: Sequence[Entry]) -> None:
        gone = {entry.ref for entry in entries}
        self.left = [entry for entry in self.left if entry.ref not in gone]

    async def waiting(self) -> tuple[int, None]:
        return len(self.left), None


class Reader:
    """A read model with a version guard, and whether it ever went back."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.version: dict[str, int] = defaultdict(int)
        self.skipped: list[tuple[str, int]] = []

    async def take(self, event: Event[StockChangedV1]) -> None:
        sku, version = event.data.sku, event.meta.entityversion
        if version > self.version[sku] + 1:
            self.skipped.append((sku, version))
        self.version[sku] = max(version, self.version[sku])
        self.seen.add(str(event.meta.id))

    async def count(self) -> int:
        return len(self.seen)


@pytest.fixture(scope="module")
async def cluster(stack: object) -> AsyncIterator[Cluster]:
    await asyncio.to_thread(Stack(profile("clusters"), mariadb=False).down)
    cluster = Cluster()
    await asyncio.to_thread(cluster.start)
    yield cluster
    await asyncio.to_thread(cluster.stack.down)


async def changed(reader: Reader, event: Event[StockChangedV1]) -> None:
    await reader.take(event)


async def test_each_broker_of_a_cluster_may_die_in_its_turn(cluster: Cluster) -> None:
    await apply(cluster.addresses("deploy"))
    outbox, reader = Changes(CHANGES), Reader()
    publishing = asyncio.create_task(relay(cluster.addresses("stock"), "stock", outbox))
    reading = asyncio.create_task(
        consume(cluster.addresses("search"), "search", "stock", {StockChangedV1: changed}, reader)
    )
    try:
        for n, node in enumerate(NODES, 1):
            await until(reader.count, partial(lt, CHANGES * n // (len(NODES) + 1)), within=120)
            await asyncio.to_thread(cluster.kill, node)
            await until(partial(asyncio.to_thread, cluster.back), partial(eq, n), within=120)
        await until(reader.count, partial(eq, CHANGES), within=120)
    finally:
        for task in (publishing, reading):
            task.cancel()
        await asyncio.gather(publishing, reading, return_exceptions=True)

    assert not outbox.left
    assert {str(event.meta.id) for event in outbox.all} == reader.seen
    assert [] == reader.skipped
