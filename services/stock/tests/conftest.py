"""A store of this session's own keys on the real Redis, emptied for each test."""

import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from redis.asyncio import Redis

from stock.app import connect
from stock.settings import Settings
from stock.store import StockStore


class Stack(Protocol):
    redis_stock_url: str


@pytest.fixture
def settings(stack: Stack, prefix: str) -> Settings:
    """Each test has keys of its own."""
    return Settings(
        redis_url=stack.redis_stock_url,
        key_prefix=f"{prefix}{secrets.token_hex(3)}:",
        redis_timeout=10,
    )


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = connect(settings)
    yield client
    keys = [key async for key in client.scan_iter(f"{settings.key_prefix}*", count=1000)]
    if keys:
        await client.unlink(*keys)
    await client.aclose()


@pytest.fixture
def store(redis: Redis, settings: Settings) -> StockStore:
    return StockStore(redis, settings.key_prefix)


class Server:
    """A Redis of one test's own: it may be killed, and its files read."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.folder = folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always"),
                *("--save", "", "--aof-use-rdb-preamble", "no"),
                *("--auto-aof-rewrite-percentage", "0", *self._options),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the private Redis did not start")
            time.sleep(0.005)

    def kill(self) -> None:
        """As a power cut does; what is on disk stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

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
