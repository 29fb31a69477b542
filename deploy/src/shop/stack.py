"""One profile's stack from the outside: the client of its supervisor. Prints nothing."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Self

import msgspec

from shop import records, services
from shop.process import Process, State
from shop.profiles import ROOT, Profile, profile
from shop.supervisor import LOCK, SOCKET, Request, short_path

BOOT_WITHIN = 30.0
LINE = 400


class StackFailed(Exception):
    """Something did not come up; the message says what and shows the end of its log."""


class Stack:
    """Starts and stops processes of a profile, by name.

    >>> stack = Stack.open("test")
    >>> stack.start(["stock-api", "stock-relay"])
    >>> stack.kill("stock-relay")
    """

    def __init__(self, profile: Profile, *, mariadb: bool) -> None:
        self.profile = profile
        self.mariadb = mariadb
        self.run = profile.folder("run")

    @classmethod
    def open(cls, name: str = "shop", *, mariadb: bool | None = None) -> Self:
        """The stack of that profile, running or not; MariaDB's use is remembered."""
        found = profile(name)
        mark = found.folder("run") / "with-mariadb"
        if mariadb:
            mark.touch()
        elif mariadb is False:
            mark.unlink(missing_ok=True)
        return cls(found, mariadb=mark.exists())

    def start(
        self, names: list[str] | None = None, *, env: Mapping[str, str] | None = None
    ) -> list[State]:
        """Start our own processes and wait until they are ready; None starts all of them.

        `env` is added to the environment of those that are not running yet, such as
        `{"FAILPOINT": "stock.relay.before_confirm:kill:3"}`. Raises StackFailed.
        """
        known = [
            msgspec.structs.replace(process, env={**process.env, **(env or {})})
            for process in services.prepare(self.profile, mariadb=self.mariadb)
        ]
        chosen = known if names is None else [process for process in known if process.name in names]
        if names is not None and (unknown := set(names) - {process.name for process in known}):
            raise StackFailed(f"no process is called {', '.join(sorted(unknown))}")
        states = _final(self.starting(chosen))
        self.check(chosen, states)
        return states

    def starting(self, processes: list[Process]) -> Iterator[list[State]]:
        """Start processes; yields their states until all are ready or the time is over."""
        self._boot()
        yield from self._ask(Request("start", processes=processes))

    def check(self, processes: list[Process], states: list[State]) -> None:
        """Raise StackFailed when a process is not ready."""
        seen = {state.name: state for state in states}
        late = [p for p in processes if p.name not in seen or seen[p.name].state != "ready"]
        if late:
            # one that dies again and again is the cause; the others only wait
            worst = max(late, key=lambda p: seen[p.name].restarts if p.name in seen else 0)
            raise StackFailed(f"{worst.name} is not ready:\n{tail(Path(worst.log))}")

    def deploy(self) -> None:
        """Declare the broker's topology and create missing tables. Raises StackFailed."""
        for process in services.deployments(self.profile, mariadb=self.mariadb):
            with Path(process.log).open("wb") as log:
                done = subprocess.run(
                    process.command,
                    env=process.env,
                    cwd=process.directory,
                    stdout=log,
                    stderr=log,
                    check=False,
                )
            if done.returncode != 0:
                raise StackFailed(f"{process.name} failed:\n{tail(Path(process.log))}")

    def stop(self, *names: str) -> None:
        """Stop processes gracefully; they stay down."""
        self._last(Request("stop", list(names)))

    def kill(self, name: str) -> None:
        """SIGKILL a process; the supervisor starts it again."""
        self._last(Request("kill", [name]))

    def status(self) -> list[State]:
        """Every process of the stack; `leftover` ones have lost their supervisor."""
        if self.up():
            return self._last(Request("status"))
        return [
            State(name=record.name, state="leftover", pid=record.pid)
            for record in records.living(self.run)
        ]

    def up(self) -> bool:
        """Whether the supervisor answers."""
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def down(self) -> None:
        """Stop everything in reverse order, and what a dead supervisor left behind."""
        supervisor = self.supervisor()
        if self.up():
            self._last(Request("shutdown"))
        deadline = time.monotonic() + BOOT_WITHIN
        while supervisor and records.members(supervisor):
            if time.monotonic() > deadline:
                records.kill_group(supervisor, signal.SIGKILL)
            time.sleep(0.05)
        records.stop(self.run)

    def supervisor(self) -> int | None:
        """The pid of the supervisor; None when none runs."""
        descriptor = os.open(self.run / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(os.read(descriptor, 20) or b"0") or None
        finally:
            os.close(descriptor)
        return None

    def _boot(self) -> None:
        if self.up():
            return
        log = (self.profile.folder("log") / "supervisor.log").open("ab")
        with log:
            _daemon(self.run, log)
        deadline = time.monotonic() + BOOT_WITHIN
        while not self.up():
            if time.monotonic() > deadline:
                raise StackFailed(f"the supervisor did not start:\n{tail(Path(log.name))}")
            time.sleep(0.05)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            with short_path(self.run) as folder:
                connection.connect(str(folder / SOCKET))
        except OSError:
            connection.close()
            raise
        return connection

    def _ask(self, request: Request) -> Iterator[list[State]]:
        with self._connect() as connection:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    if line == b"\n":
                        break
                    yield msgspec.json.decode(line, type=list[State])

    def _last(self, request: Request) -> list[State]:
        return _final(self._ask(request))


def _daemon(run: Path, log: IO[bytes]) -> None:
    subprocess.run(
        [sys.executable, "-m", "shop.supervisor", str(run)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=ROOT,
        check=True,
    )


def _final(answers: Iterator[list[State]]) -> list[State]:
    return [[], *answers][-1]


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log."""
    if not log.exists():
        return "(no log)"
    return "\n".join(line[:LINE] for line in log.read_text(errors="replace").splitlines()[-lines:])
