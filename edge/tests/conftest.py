"""A real edge on free ports, in front of an origin that records what reaches it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, web
from msgspec import Struct

from shop import servers
from shop.profiles import Profile, profile

DEADLINE = 90.0


class Origin:
    """All four services at once; `seen` is what came through the edge, without probes."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.replies: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/healthz":
            return web.Response()
        self.seen.append(request)
        if (reply := self.replies.get(request.path)) is not None:
            return await reply(request)
        await request.read()
        return web.Response(text=f"{request.method} {request.raw_path}")

    def serve(self, path: str, text: str, **headers: str) -> None:
        """Answer `path` with this HTML; a header's `_` stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def reply(_: web.Request) -> web.StreamResponse:
            return web.Response(text=text, content_type="text/html", headers=named)

        self.replies[path] = reply


class Edge(Struct, frozen=True):
    """Where the edge listens, and what stands behind it."""

    url: str
    host: str
    port: int
    purge_url: str
    workdir: str
    origin: Origin
    varnish: asyncio.subprocess.Process
    log_folder: Path

    def logs(self) -> str:
        """All that nginx and Varnish have written down."""
        return "\n".join(path.read_text() for path in self.log_folder.iterdir())


@pytest.fixture
async def edge(shared_edge: Edge) -> Edge:
    """The session's edge with nothing in its cache."""
    shared_edge.origin.seen.clear()
    shared_edge.origin.replies.clear()
    ban = ["varnishadm", "-n", shared_edge.workdir, "ban", "req.url", "~", "."]
    done = await asyncio.create_subprocess_exec(*ban, stdout=asyncio.subprocess.DEVNULL)
    assert 0 == await done.wait()
    return shared_edge


@pytest.fixture(scope="session")
async def shared_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with _running(tmp_path_factory.mktemp("edge")) as edge:
        yield edge


@pytest.fixture
async def own_edge(tmp_path: Path) -> AsyncIterator[Edge]:
    """An edge for a test that breaks it."""
    async with _running(tmp_path) as edge:
        yield edge


@asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[Edge]:
    origin = Origin()
    runner = web.AppRunner(_application(origin))
    await runner.setup()
    here = _free_ports(profile().ports)
    await web.TCPSite(runner, "127.0.0.1", here["catalog"]).start()
    same = dict.fromkeys(servers.SERVICES, here["catalog"])
    stack = Profile("edge-test", here | same, folder)
    processes = [await _start(stack, name) for name in ("varnish", "nginx")]
    try:
        await _ready(stack, processes)
        yield Edge(
            stack.url("edge"),
            "127.0.0.1",
            here["edge"],
            stack.url("varnish-purge", path="/"),
            str(stack.folder("varnish", "n")),
            origin,
            processes[0],
            stack.folder("log"),
        )
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in processes))
        await runner.cleanup()


def _application(origin: Origin) -> web.Application:
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", origin.answer)
    return app


def _free_ports(names: dict[str, int]) -> dict[str, int]:
    held = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    ports = {name: each.getsockname()[1] for name, each in held.items()}
    for each in held.values():
        each.close()
    return ports


async def _start(stack: Profile, name: str) -> asyncio.subprocess.Process:
    process = servers.SERVERS[name](stack)
    log = os.open(process.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        return await asyncio.create_subprocess_exec(
            *process.command, cwd=process.directory, env=process.env, stdout=log, stderr=log
        )
    finally:
        os.close(log)


async def _ready(stack: Profile, processes: list[asyncio.subprocess.Process]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE), ClientSession() as session:
            while all(process.returncode is None for process in processes):
                with suppress(ClientError):
                    async with session.get(stack.url("edge", path="/healthz")) as response:
                        if response.status == web.HTTPOk.status_code:
                            return
                await asyncio.sleep(0.05)  # between two looks, until the deadline
    logs = "\n".join(path.read_text() for path in stack.folder("log").glob("*.log"))
    pytest.fail(f"the edge did not start:\n{logs}")
