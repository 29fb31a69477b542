"""Bringing a stack up in order: packages, servers, broker topology, tables, our processes."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from bus.parking import Parked
from feeds.jobs import Job
from shop import doctor, elastic, packages, servers, services
from shop.process import Process, State
from shop.secrets import api_key, secret, write_private
from shop.stack import Stack, StackFailed, tail

COLOURS = {"ready": "green", "dead": "red", "leftover": "red", "stopped": "dim"}
FOLLOW_EVERY = 0.2
ERROR_SHOWN = 200
LINE_EVERY = 10.0


def install(stack: Stack, console: Console, *, browser: bool = False, bench: bool = False) -> None:
    """Install what is missing. Raises packages.CannotInstall, elastic.DownloadFailed."""
    wanted = packages.missing(mariadb=stack.mariadb, browser=browser, bench=bench)
    if wanted:
        console.print(f"installing {', '.join(wanted)}")
        with bar(console, TaskProgressColumn()) as progress:
            task = progress.add_task("packages", total=100)
            packages.install(
                wanted,
                lambda percent, text: progress.update(
                    task, completed=percent, description=text[:60]
                ),
            )
    with bar(console, DownloadColumn()) as progress:
        task = progress.add_task(f"Elasticsearch {elastic.VERSION}", total=elastic.BYTES)
        progress.update(task, visible=False)
        elastic.distribution(
            lambda done, total: progress.update(task, completed=done, total=total, visible=True)
        )


def up(
    stack: Stack, console: Console, *, servers_only: bool = False, only: list[str] | None = None
) -> None:
    """Bring the stack up as far as asked; doing it again changes nothing. Raises StackFailed."""
    if not stack.up() and (taken := list(doctor.taken_ports(stack))):
        raise StackFailed("\n".join(f"{finding.what}: {finding.advice}" for finding in taken))
    infrastructure = servers.prepare(stack.profile, mariadb=stack.mariadb)
    ours = [] if servers_only else services.prepare(stack.profile, mariadb=stack.mariadb)
    chosen = _closure([*infrastructure, *ours], only)
    write_stack_file(stack)
    _bring(stack, [process for process in infrastructure if process.name in chosen], console)
    if wanted := [process for process in ours if process.name in chosen]:
        stack.deploy()
        _bring(stack, wanted, console)
    console.print(table(stack.status()))


def write_stack_file(stack: Stack) -> None:
    """Write `stack.json`: where tests find the servers, with the administrators' logins."""
    profile = stack.profile
    database = servers.mariadb_url(profile, "admin", "checkout") if stack.mariadb else None
    addresses = {
        "redis_stock_url": servers.admin_redis(profile, "redis-stock"),
        "redis_carts_url": servers.admin_redis(profile, "redis-carts"),
        "amqp_url": servers.amqp(profile, "admin", "%2F"),
        "management_url": servers.management(profile),
        "elasticsearch_url": profile.url("elasticsearch"),
        "mariadb_url": database,
    }
    write_private(profile.var / "stack.json", msgspec.json.encode(addresses).decode())


def where(stack: Stack) -> str:
    """Where everything listens, with its login; in lines that can be copied whole."""
    profile = stack.profile
    rows = [("shop", profile.url("edge", path="/"), "")]
    rows += [(f"{name} API", profile.url(name, path="/docs"), "") for name in servers.SERVICES]
    rows += [("API key for writes", api_key(profile), "")]
    rows += [("RabbitMQ", profile.url("rabbitmq-management", path="/"), _login(stack, "rabbitmq"))]
    for instance in ("redis-stock", "redis-carts"):
        url = profile.url(instance, scheme="redis")
        rows.append((instance, url, f"default {secret(profile, 'redis_admin')}"))
    rows += [("Elasticsearch", profile.url("elasticsearch", path="/_cat/indices?v"), "")]
    if stack.mariadb:
        rows += [("MariaDB", profile.url("mariadb", scheme="mysql"), _login(stack, "mariadb"))]
    return "\n".join(f"{what:<20}{url:<50}{login}".rstrip() for what, url, login in rows)


def _login(stack: Stack, server: str) -> str:
    return f"admin {secret(stack.profile, f'{server}_admin')}"


def table(states: list[State]) -> Table:
    """The processes as a table for people."""
    shown = Table(box=None, pad_edge=False)
    for column in ("name", "state", "pid", "port", "for", "restarts"):
        shown.add_column(column, justify="left" if column in ("name", "state") else "right")
    for state in states:
        colour = COLOURS.get(state.state, "yellow")
        age = _age(time.time() - state.since) if state.since else ""
        columns = [state.name, f"[{colour}]{state.state}[/{colour}]", state.pid or ""]
        columns += [state.port or "", age, state.restarts or ""]
        shown.add_row(*(str(column) for column in columns))
    return shown


class _Lines(Progress):
    """Where nobody watches, a build log shows each task at its start and every ten seconds."""

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        task = next(task for task in self.tasks if task.id == task_id)
        now = time.monotonic()
        if not task.visible or now < task.fields.get("again", 0):
            return
        task.fields["again"] = now + LINE_EVERY
        known = f" {task.percentage:.0f} %" if task.total else ""
        self.console.print(f"{task.description}{known}", markup=False, highlight=False)


def parked(messages: Sequence[Parked]) -> Table:
    """Parked messages as a table for people."""
    shown = Table(box=None, pad_edge=False, caption=f"{len(messages)} parked")
    for column in ("queue", "id", "type", "made", "reason", "error"):
        shown.add_column(column, overflow="fold" if column in {"id", "error"} else "ellipsis")
    for one in messages:
        made = f"{one.made_at:%Y-%m-%d %H:%M:%S}" if one.made_at else ""
        shown.add_row(one.queue, one.id, one.type, made, one.reason, Text(one.error[:ERROR_SHOWN]))
    return shown


def bar(console: Console, column: ProgressColumn) -> Progress:
    """A progress bar that is gone when it is full; lines without a terminal."""
    text = TextColumn("{task.description}")
    kind = Progress if console.is_terminal else _Lines
    return kind(text, BarColumn(), column, console=console, transient=True)


def summary(done: dict[str, Job]) -> Table:
    """What became of the rows of an import, by service."""
    shown = Table(box=None, pad_edge=False)
    for column in ("", "created", "updated", "unchanged", "failed", "warnings"):
        shown.add_column(column, justify="right" if column else "left")
    for service, job in done.items():
        counts = job.counts
        numbers = (counts.created, counts.updated, counts.unchanged, counts.failed, job.warnings)
        shown.add_row(service, *map(str, numbers))
    return shown


def logs(stack: Stack, name: str, console: Console, *, lines: int, follow: bool) -> None:
    """Print the end of a log, and then what is added to it. Raises StackFailed."""
    folder = stack.profile.folder("log")
    path = folder / f"{name}.log"
    if not path.exists():
        known = ", ".join(sorted(log.stem for log in folder.glob("*.log"))) or "none yet"
        raise StackFailed(f"no log of {name!r}; there are: {known}")
    console.out(tail(path, lines), highlight=False)
    position = path.stat().st_size
    while follow:
        time.sleep(FOLLOW_EVERY)
        position = _print_from(path, position, console)


def _print_from(path: Path, position: int, console: Console) -> int:
    with path.open("rb") as file:
        # a log that was rotated starts over
        file.seek(position if position <= os.fstat(file.fileno()).st_size else 0)
        if added := file.read():
            console.out(added.decode(errors="replace"), end="", highlight=False)
        return file.tell()


def _bring(stack: Stack, processes: list[Process], console: Console) -> None:
    states: list[State] = []
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            for states in stack.starting(processes):
                live.update(table(states))
    else:
        again = 0.0
        for states in stack.starting(processes):
            late = [state.name for state in states if state.state != "ready"]
            if late and time.monotonic() >= again:
                console.print(f"starting {', '.join(late)}", soft_wrap=True, highlight=False)
                again = time.monotonic() + LINE_EVERY
    stack.check(processes, states)


def _closure(processes: list[Process], only: list[str] | None) -> set[str]:
    """The names asked for and all that they need; everything when nothing is asked for."""
    needs = {process.name: process.needs for process in processes}
    if only is None:
        return set(needs)
    if unknown := [name for name in only if name not in needs]:
        raise StackFailed(
            f"no process is called {', '.join(unknown)}; there are {', '.join(needs)}"
        )
    chosen: set[str] = set()
    ahead = list(only)
    while ahead:
        name = ahead.pop()
        if name in needs and name not in chosen:
            chosen.add(name)
            ahead += needs[name]
    return chosen


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
