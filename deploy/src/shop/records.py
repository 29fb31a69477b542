"""Pid records: what a stack has running, told apart from anything else on the machine."""

import os
import signal
import time
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct


class Record(Struct, frozen=True):
    """A process that we started: the start time in clock ticks makes its pid unmistakable."""

    name: str
    pid: int
    ticks: int
    boot: str


def write(folder: Path, name: str, pid: int) -> None:
    """Remember a process that we just started."""
    record = Record(name, pid, _ticks(pid), _boot())
    (folder / f"{name}.pid.json").write_bytes(msgspec.json.encode(record))


def forget(folder: Path, name: str) -> None:
    """Drop the record of a process that has ended."""
    (folder / f"{name}.pid.json").unlink(missing_ok=True)


def living(folder: Path) -> list[Record]:
    """The recorded processes that still run, or whose children do. Stale records go away."""
    found = []
    for path in sorted(folder.glob("*.pid.json")):
        record = msgspec.json.decode(path.read_bytes(), type=Record)
        if record.boot == _boot() and (_same(record) or _orphans(record)):
            found.append(record)
        else:
            path.unlink(missing_ok=True)
    return found


def stop(folder: Path, *, within: float = 20) -> list[str]:
    """End every recorded process, gently first; returns their names."""
    records = living(folder)
    for record in records:
        kill_group(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + within
    while any(members(record.pid) for record in records) and time.monotonic() < deadline:
        time.sleep(0.1)
    for record in records:
        kill_group(record.pid, signal.SIGKILL)
        forget(folder, record.name)
    return [record.name for record in records]


def members(group: int) -> list[int]:
    """The living processes of a group. Each process we start leads a group of its own."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            ours = os.getpgid(process.pid) == group
        except ProcessLookupError:
            continue
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def kill_group(group: int, number: signal.Signals) -> None:
    """Signal a whole group; one that has ended already is no error."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _same(record: Record) -> bool:
    try:
        return _ticks(record.pid) == record.ticks and bool(members(record.pid))
    except (FileNotFoundError, ProcessLookupError):
        return False


def _orphans(record: Record) -> bool:
    # the leader is gone: its group id cannot be given to another while members live
    return not Path(f"/proc/{record.pid}").exists() and bool(members(record.pid))


def _ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
