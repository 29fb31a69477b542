"""A small supervisor, one per profile: starts, watches, restarts and stops processes.

It knows processes only as `Process` says; what they serve is not its business. A client speaks
JSON lines to its unix socket: one `Request`, answered by lists of `State` and an empty line.
"""

import asyncio
import base64
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from shop import records
from shop.account import give
from shop.process import Http, Process, State, Talk

SOCKET = "supervisor.sock"
LOCK = "supervisor.lock"
STEADY = 60.0
SLOWEST = 30.0
DEATHS_BEFORE_READY = 3
LOG_LIMIT = 20 * 1024 * 1024
REQUEST_LIMIT = 4 * 1024 * 1024


class Request(Struct, frozen=True):
    """What a client asks: `start` brings processes, the others name them (none: all)."""

    do: str  # start | stop | kill | status | shutdown
    names: list[str] = []
    processes: list[Process] = []


class Child:
    """One process under watch, from its first start until it is told to stop."""

    def __init__(self, process: Process, supervisor: "Supervisor") -> None:
        self.process = process
        self.supervisor = supervisor
        self.state = "stopped"
        self.pid: int | None = None
        self.since = time.time()
        self.restarts = 0
        self.ready = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def seen(self) -> State:
        return State(
            name=self.process.name,
            state=self.state,
            pid=self.pid,
            port=self.process.port,
            since=self.since,
            restarts=self.restarts,
        )

    def turn(self, state: str) -> None:
        self.state, self.since = state, time.time()
        _say(f"{self.process.name}: {state}" + (f" (pid {self.pid})" if self.pid else ""))
        if state == "ready":
            self.ready.set()
        else:
            self.ready.clear()

    def start(self) -> None:
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self.task is None:
            return
        task, self.task = self.task, None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if self.state != "stopped":
            self.turn("stopped")

    async def _keep(self) -> None:
        pause = 0.5
        while True:
            self.turn("waiting")
            for need in self.process.needs:
                if other := self.supervisor.children.get(need):
                    await other.ready.wait()
            born = time.monotonic()
            await self._live()
            pause = 0.5 if time.monotonic() - born > STEADY else min(pause * 2, SLOWEST)
            self.turn("dead")
            self.restarts += 1
            await asyncio.sleep(pause)

    async def _live(self) -> None:
        """One life of the process, from its start to its end."""
        with _log(Path(self.process.log)) as log:
            running = await asyncio.create_subprocess_exec(
                *self.process.command,
                cwd=self.process.directory,
                env=self.process.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = running.pid
        records.write(self.supervisor.folder, self.process.name, running.pid)
        self.turn("starting")
        watch = asyncio.create_task(self._watch())
        try:
            await running.wait()
        except asyncio.CancelledError:
            self.turn("stopping")
            await self._end(running)
            raise
        finally:
            watch.cancel()
            records.kill_group(running.pid, signal.SIGKILL)
            records.forget(self.supervisor.folder, self.process.name)
            _say(f"{self.process.name}: exit {running.returncode}")
            self.pid = None
            self.turn("stopped")

    async def _end(self, running: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            running.terminate()
        try:
            await asyncio.wait_for(running.wait(), self.process.stop_within)
        except TimeoutError:
            _say(f"{self.process.name}: did not stop in {self.process.stop_within} s, killing it")
            records.kill_group(running.pid, signal.SIGKILL)
            await running.wait()

    async def _watch(self) -> None:
        while not await answers(self.process.ready):  # noqa: ASYNC110 -- another program's state
            await asyncio.sleep(0.1)
        self.turn("ready")


class Supervisor:
    """The children of one profile, and the socket through which they are commanded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: dict[str, Child] = {}
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until told to shut down; then stop everything, dependants first."""
        if left := await asyncio.to_thread(records.stop, self.folder):
            _say(f"stopped what an earlier supervisor left: {', '.join(left)}")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ended.set)
        with short_path(self.folder) as folder:
            (folder / SOCKET).unlink(missing_ok=True)
            server = await asyncio.start_unix_server(
                self._serve, folder / SOCKET, limit=REQUEST_LIMIT
            )
        _say("ready")
        await self.ended.wait()
        await self.stop(list(self.children))
        server.close()
        (self.folder / SOCKET).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            async for states in self._answer(await _read(reader)):
                writer.write(msgspec.json.encode(states) + b"\n")
                await writer.drain()
            writer.write(b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, request: Request) -> AsyncIterator[list[State]]:
        names = request.names or list(self.children)
        unknown = [name for name in names if name not in self.children]
        if request.do == "start":
            async for states in self._start(request.processes):
                yield states
            return
        if request.do in ACTS:
            await ACTS[request.do](self, [name for name in names if name not in unknown])
        yield [child.seen() for child in self.children.values()]

    async def _start(self, processes: list[Process]) -> AsyncIterator[list[State]]:
        for process in processes:
            old = self.children.get(process.name)
            if old is not None and old.process != process and not old.ready.is_set():
                await old.stop()
            if old is None or old.task is None:
                self.children[process.name] = Child(process, self)
        wanted = [self.children[process.name] for process in processes]
        deaths = {child: child.restarts + DEATHS_BEFORE_READY for child in wanted}
        deadline = time.monotonic() + max((p.ready_within for p in processes), default=0)
        for child in wanted:
            child.start()
        while time.monotonic() < deadline:
            yield [child.seen() for child in wanted]
            if all(child.ready.is_set() for child in wanted):
                return
            if any(child.restarts >= limit for child, limit in deaths.items()):
                return
            await asyncio.sleep(0.1)

    async def stop(self, names: list[str]) -> None:
        """Stop these for good; each after those of them that need it."""
        stopping: dict[str, asyncio.Task[None]] = {}

        async def stop(child: Child) -> None:
            dependants = [
                stopping[name] for name in names if child.process.name in self._needs(name)
            ]
            await asyncio.gather(*dependants)
            await child.stop()

        for name in names:
            stopping[name] = asyncio.create_task(stop(self.children[name]))
        await asyncio.gather(*stopping.values())

    def _needs(self, name: str) -> list[str]:
        return self.children[name].process.needs

    async def kill(self, names: list[str]) -> None:
        """SIGKILL these, for tests of what survives it; they start again by themselves."""
        for name in names:
            if pid := self.children[name].pid:
                records.kill_group(pid, signal.SIGKILL)

    async def shut_down(self, _: list[str]) -> None:
        """Stop everything, and then end."""
        await self.stop(list(self.children))
        self.ended.set()

    async def look(self, _: list[str]) -> None:
        """Change nothing: the states are the answer."""


async def answers(ready: Talk | Http | None) -> bool:
    """Whether a process is ready; one that cannot be asked is ready when it runs."""
    if ready is None:
        return True
    try:
        async with asyncio.timeout(5):
            return await (_talk(ready) if isinstance(ready, Talk) else _get(ready))
    except (OSError, TimeoutError, ValueError):
        return False


async def _talk(ready: Talk) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", ready.port)
    try:
        writer.write(ready.send)
        heard = b""
        while ready.expect not in heard:
            if not (more := await reader.read(4096)):
                return False
            heard += more
        return True
    finally:
        writer.close()


async def _get(ready: Http) -> bool:
    url = urlsplit(ready.url)
    target = url.path + (f"?{url.query}" if url.query else "")
    head = [f"GET {target} HTTP/1.1", f"Host: {url.netloc}", "Connection: close"]
    if ready.login:
        head.append(f"Authorization: Basic {base64.b64encode(ready.login.encode()).decode()}")
    request = "\r\n".join([*head, "", ""]).encode()
    return await _talk(Talk(url.port or 80, b"HTTP/1.1 200 ", request))


@contextmanager
def short_path(folder: Path) -> Iterator[Path]:
    """The folder under a short name: a unix socket's path may have 107 bytes only."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@contextmanager
def _log(path: Path) -> Iterator[int]:
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    give(path)  # a server may open its /dev/stdout by that name
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _read(reader: asyncio.StreamReader) -> Request:
    return msgspec.json.decode(await reader.readuntil(b"\n"), type=Request)


def _say(line: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stdout.write(f"{stamp} {line}\n")
    sys.stdout.flush()


def main(arguments: Iterable[str]) -> None:
    """Run the supervisor of the run folder given, detached; at most one per folder."""
    folder = Path(next(iter(arguments)))
    if os.fork():
        return
    os.setsid()
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    asyncio.run(_run(folder))


async def _run(folder: Path) -> None:
    await Supervisor(folder).run()


ACTS: dict[str, Callable[[Supervisor, list[str]], Awaitable[None]]] = {
    "status": Supervisor.look,
    "stop": Supervisor.stop,
    "kill": Supervisor.kill,
    "shutdown": Supervisor.shut_down,
}

if __name__ == "__main__":
    main(sys.argv[1:])
