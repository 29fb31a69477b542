"""Fixtures of every test that needs servers: where they are, and a part of them of its own."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
import pytest
from hypothesis import settings

from bus import topology
from bus.broker import connected
from shop_contracts.topology import TOPOLOGY

ROOT = Path(__file__).parent

# An everyday run draws the same cases each time: what it finds, it finds before it is merged.
settings.register_profile("everyday", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile("everyday")


class StackFile(msgspec.Struct, frozen=True):
    """Where the servers of the test stack listen, with the logins of tests."""

    redis_stock_url: str
    redis_carts_url: str
    amqp_url: str
    management_url: str
    elasticsearch_url: str
    mariadb_url: str | None = None


@pytest.fixture(scope="session")
def stack() -> StackFile:
    path = Path(os.environ.get("SHOP_STACK_FILE", ROOT / "var" / "test" / "stack.json"))
    if not path.exists():
        pytest.fail("no test servers: run `./shop test`, or `./shop up --profile test` first")
    return msgspec.json.decode(path.read_bytes(), type=StackFile)


@pytest.fixture(scope="session")
def prefix() -> str:
    """A prefix for keys and indices that no other session uses."""
    return f"t{secrets.token_hex(3)}"


@pytest.fixture(scope="session")
async def virtual_host(stack: StackFile, prefix: str) -> AsyncIterator[str]:
    """A virtual host of this session's own, with the whole topology in it; its address."""
    async with _virtual_host(stack, prefix) as url:
        yield url


@pytest.fixture
async def new_broker_url(stack: StackFile, prefix: str) -> AsyncIterator[str]:
    """A virtual host of one test's own: its streams are empty, too."""
    async with _virtual_host(stack, f"{prefix}{secrets.token_hex(3)}") as url:
        yield url


@asynccontextmanager
async def _virtual_host(stack: StackFile, name: str) -> AsyncIterator[str]:
    management = urlsplit(stack.management_url)
    login = aiohttp.encode_basic_auth(management.username or "", management.password or "")
    api = f"http://{management.hostname}:{management.port}/api"
    name = quote(name, safe="")
    async with aiohttp.ClientSession(
        headers={"Authorization": login}, raise_for_status=True
    ) as session:
        await session.put(f"{api}/vhosts/{name}")
        await session.put(
            f"{api}/permissions/{name}/{management.username}",
            json={"configure": ".*", "write": ".*", "read": ".*"},
        )
        amqp = urlsplit(stack.amqp_url)
        url = amqp._replace(path=f"/{name}").geturl()
        await topology.apply(url)
        yield url
        await session.delete(f"{api}/vhosts/{name}")


@pytest.fixture(scope="module")
async def broker_url(virtual_host: str) -> str:
    """The session's virtual host, without what other modules left in its work queues."""
    async with connected(virtual_host, "tests") as connection:
        channel = await connection.channel()
        for spec in TOPOLOGY.queues:
            if spec.arguments["x-queue-type"] == "quorum":
                await (await channel.get_queue(spec.name)).purge()
    return virtual_host


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith(("CATALOG_", "STOCK_", "SEARCH_", "CHECKOUT_", "OTEL_", "FAILPOINT")):
            monkeypatch.delenv(name)
