"""How we measure: candidates in turn (A B A B), medians, and CPU beside the rate. Knows no service.

These machines are small and shared: a ratio within one run holds, a figure alone does not. The CPU
time that a process spends per request is steadier than its rate.
"""

import asyncio
import os
import re
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import psutil
from msgspec import Struct
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

SCRIPTS = Path(__file__).parent / "peers"
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class Load(Struct, frozen=True):
    """What one run of the load generator saw."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int
    requests: int


class Left(Struct, frozen=True):
    """What a run left to be done: so many events, for so many seconds."""

    events: int
    seconds: float


class Candidate(Struct, frozen=True):
    """Something to be measured: an address, and the processes whose CPU it costs.

    `pids` are its own, which a ratio compares; `beside`, by name, whatever else works for it. A run
    is over, and its CPU counted, when `settled` returns.
    """

    name: str
    url: str
    script: str | None = None
    pids: tuple[int, ...] = ()
    promises: str = ""
    beside: Mapping[str, int] = {}
    settled: Callable[[], Awaitable[Left]] | None = None


class Result(Struct, frozen=True):
    """A candidate with its runs; CPU in microseconds a request."""

    candidate: Candidate
    loads: list[Load]
    cpu_us: list[float]
    beside_us: dict[str, list[float]] = {}
    left: list[Left] = []

    @property
    def rate(self) -> float:
        """The median rate, in requests per second."""
        return statistics.median(load.rate for load in self.loads)


async def wrk(
    url: str, script: str | None, *, seconds: int, connections: int, env: Mapping[str, str]
) -> Load:
    """One run of wrk with one thread. Raises RuntimeError with its output when it fails."""
    arguments = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "--timeout", "10s"]
    if script:
        arguments += ["-s", str(SCRIPTS / script)]
    process = await asyncio.create_subprocess_exec(
        *arguments,
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **env},
    )
    output = (await process.communicate())[0].decode()
    if process.returncode != 0:
        raise RuntimeError(f"wrk {url} failed:\n{output}")

    def number(pattern: str, default: str = "0") -> str:
        found = re.search(pattern, output)
        return found.group(1) if found else default

    def milliseconds(percent: str) -> float:
        found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m)", output)
        return float(found.group(1)) * UNITS[found.group(2)] if found else float("nan")

    socket_errors = sum(
        int(count)
        for line in re.findall(r"Socket errors: (.*)", output)
        for count in re.findall(r"\d+", line)
    )
    return Load(
        rate=float(number(r"Requests/sec:\s+([\d.]+)")),
        p50_ms=milliseconds("50"),
        p99_ms=milliseconds("99"),
        errors=int(number(r"Non-2xx or 3xx responses: (\d+)")) + socket_errors,
        requests=int(number(r"(\d+) requests in")),
    )


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU that the processes and their children have used so far."""
    total = 0.0
    for pid in pids:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system
    return total


async def interleave(
    candidates: Sequence[Candidate],
    console: Console,
    *,
    rounds: int,
    seconds: int,
    connections: int = 64,
    env: Mapping[str, str] | None = None,
) -> list[Result]:
    """Each candidate once per round, after a short warm-up of each."""
    results = [Result(candidate, [], []) for candidate in candidates]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(candidates) * (rounds + 1))
        for turn in range(rounds + 1):
            for result in results:
                candidate = result.candidate
                progress.update(task, description=candidate.name)
                before = cpu_seconds(candidate.pids)
                beside = {name: cpu_seconds([pid]) for name, pid in candidate.beside.items()}
                load = await wrk(
                    candidate.url,
                    candidate.script,
                    seconds=seconds if turn else 1,
                    connections=connections,
                    env=env or {},
                )
                left = await candidate.settled() if candidate.settled else None
                if turn:
                    each = 1e6 / max(load.requests, 1)
                    result.loads.append(load)
                    result.cpu_us.append((cpu_seconds(candidate.pids) - before) * each)
                    for name, pid in candidate.beside.items():
                        used = (cpu_seconds([pid]) - beside[name]) * each
                        result.beside_us.setdefault(name, []).append(used)
                    if left is not None:
                        result.left.append(left)
                progress.advance(task)
    return results


def show(title: str, results: Sequence[Result], console: Console) -> None:
    """The runs as a table: medians, with the smallest and largest rate beside them."""
    table = Table(title=title)
    for column in ("what", "requests/s", "min-max", "p50 ms", "p99 ms", "CPU µs/request"):
        table.add_column(column, justify="left" if column == "what" else "right")
    table.add_column("failed", justify="right")
    events = any(result.left for result in results)
    if events:
        table.add_column("events left", justify="right")
    table.add_column("what it promises")
    for result in results:
        rates = [load.rate for load in result.loads]
        table.add_row(
            result.candidate.name,
            f"{result.rate:,.0f}",
            f"{min(rates):,.0f}-{max(rates):,.0f}",
            f"{_median(result.loads, lambda load: load.p50_ms):.1f}",
            f"{_median(result.loads, lambda load: load.p99_ms):.1f}",
            f"{statistics.median(result.cpu_us):.0f}" if result.candidate.pids else "-",
            str(sum(load.errors for load in result.loads)),
            *([_worst(result.left)] if events else []),
            result.candidate.promises,
        )
    console.print(table)
    for result in results:
        if result.beside_us:
            each = (f"{name} {statistics.median(us):.0f}" for name, us in result.beside_us.items())
            line = f"CPU µs/request beside {result.candidate.name}: {', '.join(each)}"
            console.print(line, highlight=False, soft_wrap=True)


def _worst(left: Sequence[Left]) -> str:
    if not left:
        return "-"
    worst = max(left, key=lambda one: one.seconds)
    return f"{worst.events} for {worst.seconds:.2f} s"


def _median(loads: Sequence[Load], value: Callable[[Load], float]) -> float:
    return statistics.median(value(load) for load in loads)


def ratio(console: Console, path: str, ours: Result, peer: Result, bar: float) -> None:
    """The line to quote."""
    times = ours.rate / peer.rate
    line = f"{path}: [bold]{times:.2f}x[/bold] of {peer.candidate.name} (to reach: {bar:.2f}x)"
    if ours.candidate.pids and peer.candidate.pids:
        cheaper = statistics.median(peer.cpu_us) / max(statistics.median(ours.cpu_us), 1e-9)
        line += f"; by CPU of our processes per request {cheaper:.2f}x"
    console.print(line, highlight=False, soft_wrap=True)
