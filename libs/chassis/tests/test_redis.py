"""Commands that leave together answer as each alone would, however the connection fares."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import DataError, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as TooSlow

from chassis import line
from chassis.redis import FAILED, Script, connect

pytestmark = pytest.mark.connected

SECONDS = 10.0
SOON = 0.3


class Way:
    """The way to Redis, which can be held up and cut."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._ends: list[asyncio.StreamWriter] = []
        self.connections = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            self.cut()
            server.close()
            await server.wait_closed()

    def hold(self) -> None:
        """Let nothing more through to Redis."""
        self._open.clear()

    def free(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """End every connection."""
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection(*self._to)
        self._ends += (writer, back)
        await asyncio.gather(self._pass(reader, back, held=True), self._pass(there, writer))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                if held:
                    await self._open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def keys(stack: Any, prefix: str) -> AsyncIterator[str]:
    """A start for keys, all of which are gone after the test."""
    yield f"{prefix}together:"
    async with Redis.from_url(stack.redis_stock_url) as plain:
        if found := [key async for key in plain.scan_iter(f"{prefix}together:*", count=1000)]:
            await plain.unlink(*found)


@pytest.fixture
async def redis(stack: Any) -> AsyncIterator[Redis]:
    async with connect(stack.redis_stock_url, connections=4, timeout=SECONDS) as client:
        yield client


@pytest.fixture
async def way(stack: Any) -> AsyncIterator[tuple[Way, str]]:
    """A way to Redis, and the address at its near end."""
    url = urlsplit(stack.redis_stock_url)
    assert url.hostname is not None
    assert url.port is not None
    way = Way(url.hostname, url.port)
    async with way.serving() as port:
        login = url.netloc.rpartition("@")[0]
        yield way, url._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()


async def test_each_gets_its_own_answer_over_one_connection(
    way: tuple[Way, str], keys: str
) -> None:
    count = 2_000
    async with connect(way[1], connections=4, timeout=SECONDS) as redis:
        await asyncio.gather(*(redis.set(f"{keys}{n}", n) for n in range(count)))

        found = await asyncio.gather(*(redis.get(f"{keys}{n}") for n in range(count)))

    assert [str(n) for n in range(count)] == found
    assert 1 == way[0].connections


async def test_replies_are_what_redis_py_makes_of_them(stack: Any, redis: Redis, keys: str) -> None:
    async def ask(client: Any) -> list[Any]:
        script = client.register_script("return {KEYS[1], ARGV[1], false, 7, {'a', {}}}")
        await client.unlink(f"{keys}hash", f"{keys}text")
        return [
            await client.hset(f"{keys}hash", mapping={"a": 1, "b": "ü"}),
            await client.hgetall(f"{keys}hash"),
            await client.hgetall(f"{keys}none"),
            await client.hmget(f"{keys}hash", ["b", "none"]),
            await client.hget(f"{keys}hash", "a"),
            await client.set(f"{keys}text", "x", px=60_000, nx=True),
            await client.set(f"{keys}text", "y", nx=True),
            await client.set(f"{keys}text", "z", xx=True, get=True),
            await client.getex(f"{keys}text", ex=60),
            await client.get(f"{keys}none"),
            await script(keys=[f"{keys}text"], args=[1]),
            await client.unlink(f"{keys}text", f"{keys}none"),
            await client.xadd(f"{keys}stream", {"a": 1}, id="1-1"),
            await client.xlen(f"{keys}stream"),
            await client.unlink(f"{keys}stream"),
            [type(part) for part in await client.time()],
            await client.ping(),
        ]

    async with Redis.from_url(stack.redis_stock_url, decode_responses=True) as plain:
        assert await ask(plain) == await ask(redis)


async def test_an_error_is_told_to_the_one_whose_it_is(redis: Redis, keys: str) -> None:
    await redis.set(f"{keys}text", "no hash")

    wrong, unknown, right = await asyncio.gather(
        redis.hmget(f"{keys}text", ["a"]),
        redis.evalsha("0" * 40, 0),
        redis.hmget(f"{keys}none", ["a"]),
        return_exceptions=True,
    )

    assert isinstance(wrong, ResponseError)
    assert isinstance(unknown, NoScriptError)
    assert [None] == right
    with pytest.raises(DataError):
        await redis.get(object())  # type: ignore[arg-type]


async def test_a_script_that_redis_does_not_know_is_sent_whole(
    redis: Redis, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what was loaded could be gone before it runs
    monkeypatch.setattr(redis, "script_load", None)
    counts = Script(redis, f"return redis.call('INCRBY', KEYS[1], ARGV[1]) -- {keys}")

    assert 3 == await counts([f"{keys}n"], [3])
    assert 5 == await counts(keys=[f"{keys}n"], args=[2])


async def test_a_cluster_does_the_same_commands_wherever_their_keys_are(
    redis_cluster: str, prefix: str
) -> None:
    url = redis_cluster.replace("://", "://default:@")
    async with connect(url, connections=2, timeout=SECONDS) as redis:
        counts = Script(redis, f"return redis.call('INCRBY', KEYS[1], ARGV[1]) -- {prefix}")
        keys = [f"{prefix}cluster:{n}" for n in range(20)]

        assert await redis.ping()
        assert [2] * 20 == await asyncio.gather(*(counts([key], [2]) for key in keys))
        assert ["2"] * 20 == await asyncio.gather(*(redis.getex(key, ex=60) for key in keys))
        with pytest.raises(FAILED):
            await redis.evalsha("0" * 40, 2, *keys[:2])
        for key in keys:
            await redis.unlink(key)


async def test_a_node_that_is_away_holds_up_nobody_who_asks_another(
    cluster_nodes: tuple[str, list[Any]],
) -> None:
    url, nodes = cluster_nodes
    keys = [f"k{n}" for n in range(300)]

    async def lost(redis: Redis) -> set[str]:
        found = await asyncio.gather(*(redis.get(key) for key in keys), return_exceptions=True)
        return {key for key, one in zip(keys, found, strict=True) if isinstance(one, FAILED)}

    async with connect(url, connections=4, timeout=SECONDS) as redis:
        await asyncio.gather(*(redis.set(key, 1) for key in keys))
        nodes[0].kill()
        first = await lost(redis)

        assert 0 < len(first) < len(keys)
        # whoever finds it away makes the client look for who has its slots
        for _ in range(5):
            assert first == await lost(redis)
            await asyncio.sleep(SOON)
        nodes[0].start()
        async with asyncio.timeout(60):
            while await lost(redis):
                await asyncio.sleep(SOON)


async def test_a_slot_that_moves_is_followed_and_nothing_is_run_twice(
    cluster_nodes: tuple[str, list[Any]],
) -> None:
    url, nodes = cluster_nodes
    async with connect(url, connections=4, timeout=SECONDS) as redis:
        add = Script(redis, "return redis.call('INCR', KEYS[1])")
        assert 1 == await add(["elsewhere"])
        slot = nodes[0].ask("CLUSTER", "KEYSLOT", "count").strip()
        at = int(slot) * 3 // 16_384
        here, there = nodes[at], nodes[(at + 1) % 3]
        ids = [node.ask("CLUSTER", "MYID").strip() for node in (here, there)]

        there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        assert 1 == await add(["count"])
        for node in (there, here):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

        assert {2, 3, 4} == set(await asyncio.gather(*(add(["count"]) for _ in range(3))))
    assert "4" == there.ask("GET", "count").strip()


async def test_a_cluster_that_is_away_is_told_as_one_redis_is() -> None:
    async with connect("redis+cluster://127.0.0.1:1", connections=2, timeout=1) as redis:
        with pytest.raises(FAILED):
            await redis.get("key")


async def test_one_who_gives_up_takes_nobody_along(redis: Redis, keys: str) -> None:
    for waited in range(3):
        gone = asyncio.create_task(redis.hmget(f"{keys}1", ["a"]))
        stays = asyncio.create_task(redis.hmget(f"{keys}2", ["a"]))
        for _ in range(waited):
            await asyncio.sleep(0)
        gone.cancel()

        assert [None] == await stays


async def test_a_read_that_blocks_holds_up_nobody(redis: Redis, keys: str) -> None:
    blocked = asyncio.create_task(redis.xread({f"{keys}stream": "$"}, block=5_000))
    await asyncio.sleep(0)

    assert await redis.get(f"{keys}none") is None
    assert not blocked.done()
    blocked.cancel()
    await asyncio.wait([blocked])


async def test_all_are_told_when_redis_is_away_and_the_next_ask_again() -> None:
    async with connect("redis://127.0.0.1:1", connections=4, timeout=1) as redis:
        for _ in range(2):
            found = await asyncio.gather(
                *(redis.get(f"k{n}") for n in range(3)), return_exceptions=True
            )
            assert [Unreachable] * 3 == [type(error) for error in found]


async def test_what_was_lost_on_the_way_is_told_and_never_run_twice(
    way: tuple[Way, str], redis: Redis, keys: str
) -> None:
    async with connect(way[1], connections=4, timeout=SECONDS) as client:
        add = client.register_script("return redis.call('INCR', KEYS[1])")
        assert 1 == await add(keys=[f"{keys}count"])
        way[0].hold()
        lost = [asyncio.create_task(add(keys=[f"{keys}count"])) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        way[0].cut()
        found = await asyncio.gather(*lost, return_exceptions=True)
        way[0].free()

        assert [Unreachable] * 5 == [type(error) for error in found]
        assert 1 + int(await redis.get(f"{keys}count") or 0) == await add(keys=[f"{keys}count"])
        assert int(await redis.get(f"{keys}count")) <= 1 + 5 + 1


async def test_a_connection_that_ended_while_idle_is_replaced_unseen(
    way: tuple[Way, str], keys: str
) -> None:
    async with connect(way[1], connections=4, timeout=SECONDS) as redis:
        await redis.set(f"{keys}a", 1)
        way[0].cut()
        async with asyncio.timeout(SECONDS):
            while redis._line._task is not None:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)

        assert "1" == await redis.get(f"{keys}a")


async def test_a_reply_that_does_not_come_ends_the_wait_and_the_connection(
    way: tuple[Way, str], keys: str
) -> None:
    async with connect(way[1], connections=4, timeout=SOON) as redis:
        await redis.set(f"{keys}a", 1)
        way[0].hold()
        found = await asyncio.gather(
            *(redis.get(f"{keys}a") for _ in range(3)), return_exceptions=True
        )
        assert [TooSlow] * 3 == [type(error) for error in found]

        way[0].free()
        assert "1" == await redis.get(f"{keys}a")


async def test_no_more_wait_than_there_is_room_for(
    way: tuple[Way, str], keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "UNSENT_BYTES", 1_000)
    monkeypatch.setattr(line, "MOST", 100)
    async with connect(way[1], connections=4, timeout=SECONDS) as redis:
        await redis.ping()
        way[0].hold()
        kept = [asyncio.create_task(redis.set(f"{keys}{n % 10}", "x" * 5_000)) for n in range(100)]
        await asyncio.sleep(0)
        with pytest.raises(Unreachable, match="Too many"):
            await redis.get(f"{keys}1")

        way[0].free()
        assert [True] * 100 == await asyncio.gather(*kept)


async def test_who_waits_is_told_when_the_client_is_closed(way: tuple[Way, str]) -> None:
    redis = connect(way[1], connections=4, timeout=SECONDS)
    await redis.ping()
    way[0].hold()
    waiting = asyncio.create_task(redis.ping())
    await asyncio.sleep(0)
    await redis.aclose()

    with pytest.raises(Unreachable):
        await waiting
