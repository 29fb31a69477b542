"""Bringing a stack up in order: packages, servers, broker topology, tables, our processes."""

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from shop.process import Process, State
from shop.stack import Stack, prepared
from shop.testing import write_stack_file

COLOURS = {"ready": "green", "dead": "red", "leftover": "red", "stopped": "dim"}


def up(stack: Stack, console: Console, *, servers_only: bool = False) -> None:
    """Bring the stack up as far as asked; doing it again changes nothing."""
    bring(stack, prepared(stack), console)
    write_stack_file(stack.profile, mariadb=stack.mariadb)


def bring(stack: Stack, processes: list[Process], console: Console) -> None:
    """Start processes while a live table shows how far each one is."""
    states: list[State] = []
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        for states in stack.starting(processes):
            live.update(table(states))
    stack.check(processes, states)
    console.print(table(states))


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


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
