"""Fixtures of every test that needs servers: where they are, and a part of them of its own."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
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
START = ROOT / "deploy" / "redis" / "start.sh"

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


def free_port() -> int:
    """A port of this machine that nobody listens on, and that no client is given.

    A server that was killed would not get back a port above these while a client has it as its own.
    """
    while True:
        port = 21_000 + secrets.randbelow(6_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


class Server:
    """A Redis of one test's own: it may be killed, and its files read."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [
            *("sh", str(START), "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always"),
            *("--save", "", "--aof-use-rdb-preamble", "no"),
            *("--auto-aof-rewrite-percentage", "0", *self._options),
        ]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log)
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text()
                raise RuntimeError(f"the private Redis did not start: {said[-1_000:]}")
            time.sleep(0.005)

    def kill(self) -> None:
        """As a power cut does; what is on disk stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def ask(self, *command: str) -> str:
        """What redis-cli prints for a command."""
        asked = ["redis-cli", "-p", str(self.port), *command]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(5) == b"+PONG"
        except OSError:
            return False


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts Redis servers that belong to the test, with further options."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path_factory.mktemp("redis"), *options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis Cluster of this session's own: three masters."""
    with _cluster(tmp_path_factory) as nodes:
        yield _address(nodes)


@pytest.fixture
def cluster_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Server]]]:
    """A Redis Cluster of one test's own, whose nodes may be killed, and its address."""
    with _cluster(tmp_path_factory) as nodes:
        yield _address(nodes), nodes


def _address(nodes: list[Server]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@contextmanager
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    nodes: list[Server] = []
    buses: list[int] = []
    try:
        for _ in range(3):
            buses.append(free_port())
            options = ["--cluster-enabled", "yes", "--cluster-port", str(buses[-1])]
            options += ["--cluster-require-full-coverage", "no", "--appendfsync", "everysec"]
            nodes.append(Server(tmp_path_factory.mktemp("cluster"), *options))
        for number, node in enumerate(nodes):
            first, last = 16_384 * number // 3, 16_384 * (number + 1) // 3 - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            if number:
                node.ask("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port), str(buses[0]))
        deadline = time.monotonic() + 60
        for node in nodes:
            while True:
                info = node.ask("CLUSTER", "INFO")
                # with less than full coverage, a node is content before it knows the others
                known = "cluster_known_nodes:3" in info and "cluster_slots_assigned:16384" in info
                if "cluster_state:ok" in info and known:
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no cluster: {info}")
                time.sleep(0.05)
        yield nodes
    finally:
        for node in nodes:
            node.kill()
