"""What is missing or in the way on this machine, and what to do about it. Changes nothing."""

import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from msgspec import Struct

from shop import packages, ports, records
from shop.profiles import ROOT
from shop.stack import Stack

MEMORY_WANTED = 4 * 1024**3
MEMORY_NEEDED = 2 * 1024**3
DISK_NEEDED = 3 * 1024**3


class Finding(Struct, frozen=True):
    """Something found: what it is and what to do; `grave` ones keep the shop from starting."""

    what: str
    advice: str
    grave: bool = True


def examine(stack: Stack) -> list[Finding]:
    """Everything that is wrong for this stack; empty when nothing is."""
    return [finding for check in CHECKS for finding in check(stack)]


def taken_ports(stack: Stack) -> Iterator[Finding]:
    """Ports of the profile that somebody else holds."""
    ours = {pid for record in records.living(stack.run) for pid in records.members(record.pid)}
    for name, port in stack.profile.ports.items():
        holder = ports.owner(port)
        if holder is not None and holder.pid not in ours:
            advice = "stop it, or move all our ports: SHOP_PORT_OFFSET=1000 ./shop up"
            yield Finding(f"port {port} ({name}) is taken by {holder}", advice)


def _machine(_: Stack) -> Iterator[Finding]:
    if shutil.which("apt-get") is None:
        advice = "use Debian 12 or newer, Ubuntu 22.04 or newer, or install the servers yourself"
        yield Finding(f"{platform.system()} without apt-get", advice)
    if os.geteuid() != 0 and shutil.which("sudo") is None:
        yield Finding("neither root nor sudo: packages cannot be installed", "run as root", False)


def _packages(stack: Stack) -> Iterator[Finding]:
    for name in packages.missing(mariadb=stack.mariadb):
        found = "no JDK 17 or newer" if name == "jdk" else f"package {name} is missing"
        yield Finding(found, f"./shop up installs it; by hand: {packages.by_hand(name)}", False)


def _leftovers(stack: Stack) -> Iterator[Finding]:
    if stack.up():
        return
    for record in records.living(stack.run):
        what = f"{record.name} (pid {record.pid}) still runs without its supervisor"
        yield Finding(what, f"./shop down --profile {stack.profile.name}")


def _unwell(stack: Stack) -> Iterator[Finding]:
    if not stack.up():
        return
    for state in stack.status():
        if state.state in ("dead", "starting"):
            advice = f"./shop logs {state.name} --profile {stack.profile.name}"
            yield Finding(f"{state.name} is {state.state}, {state.restarts} restarts", advice)


def _memory(stack: Stack) -> Iterator[Finding]:
    free = psutil.virtual_memory().available
    if not stack.up() and free < MEMORY_WANTED:
        grave = free < MEMORY_NEEDED
        what = f"{free / 1024**3:.1f} GB of memory are free, {MEMORY_WANTED // 1024**3} are wanted"
        yield Finding(what, "close other programs", grave)


def _disk(_: Stack) -> Iterator[Finding]:
    free = shutil.disk_usage(ROOT).free
    if free < DISK_NEEDED:
        what = f"{free / 1024**3:.1f} GB of disk are free below {ROOT}"
        yield Finding(what, f"make {DISK_NEEDED // 1024**3} GB free")


def _kernel(_: Stack) -> Iterator[Finding]:
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    if overcommit.exists() and overcommit.read_text().strip() == "2":
        yield Finding("vm.overcommit_memory is 2", "sysctl vm.overcommit_memory=1", False)


def _names(_: Stack) -> Iterator[Finding]:
    try:
        found = socket.gethostbyname("localhost")
    except OSError:
        found = "nothing"
    if found != "127.0.0.1":
        advice = "put the line '127.0.0.1 localhost' into /etc/hosts"
        yield Finding(f"the name localhost leads to {found}; RabbitMQ's node needs it", advice)


CHECKS: list[Callable[[Stack], Iterator[Finding]]] = [
    _machine,
    _packages,
    taken_ports,
    _leftovers,
    _unwell,
    _memory,
    _disk,
    _kernel,
    _names,
]
