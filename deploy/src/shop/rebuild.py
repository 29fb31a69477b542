"""The `rebuild` verb: a service makes its store again out of what is kept. Knows no store."""

import fcntl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from shop import audit, services
from shop.stack import Stack, tail

REBUILDS = {"search": "search-worker", "stock": "stock-journal"}
"""Services that can, by the process whose settings they need for it."""


class RebuildFailed(Exception):
    """The store could not be rebuilt; what was asked before is asked still."""


def run(stack: Stack, service: str, tell: Callable[[dict[str, Any]], None]) -> None:
    """Rebuild and tell each line of its log as it comes. Raises RebuildFailed."""
    if service not in REBUILDS:
        raise RebuildFailed(f"{service} cannot be rebuilt; these can: {', '.join(REBUILDS)}")
    known = {p.name: p for p in services.prepare(stack.profile, mariadb=stack.mariadb)}
    job = services.job(stack.profile, known[REBUILDS[service]], "rebuild")
    with _alone(stack, service):
        audit.note(stack.profile, f"rebuild {service}")
        with (
            open(job.log, "wb") as log,  # noqa: PTH123 - a Process names its log by text
            subprocess.Popen(
                job.command,
                env=job.env,
                cwd=job.directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as running,
        ):
            for line in running.stdout or ():
                log.write(line)
                tell(_read(line))
        if running.returncode != 0:
            raise RebuildFailed(f"{job.name} failed:\n{tail(stack.profile.var / job.log)}")


@contextmanager
def _alone(stack: Stack, service: str) -> Iterator[None]:
    """One rebuild of a service at a time: each deletes what a broken one left."""
    with (stack.run / f"rebuild-{service}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RebuildFailed(f"{service} is being rebuilt already") from error
        yield


def _read(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {"event": line.decode(errors="replace").rstrip()}
