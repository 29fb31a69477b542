"""The command line: each verb parses, makes one call and prints. Knows no server's details."""

import asyncio
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import DownloadColumn, MofNCompleteColumn

from bus.replay import Logged
from shop import containers, events, importing, parked, rebuild, setup, testing, verify
from shop import demo as demos
from shop import doctor as doctors
from shop.containers import NoContainers
from shop.elastic import DownloadFailed, NoJava
from shop.packages import CannotInstall
from shop.profiles import ROOT, UnknownProfile
from shop.servers import ServerMissing, amqp
from shop.stack import Stack, StackFailed

FAILURES = (
    *(StackFailed, CannotInstall, DownloadFailed, NoJava, ServerMissing, UnknownProfile),
    *(events.NoEvents, importing.ImportFailed, demos.DemoFailed, NoContainers),
    *(parked.ParkedFailed, rebuild.RebuildFailed),
)
DATA_SHOWN = 160
LOG_KEYS = {"event", "level", "logger", "time", "service"}

console = Console()
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Shopstream: start it, look at it, feed it, test it.",
)
events_app = typer.Typer(no_args_is_help=True, help="Look at the events on the broker.")
app.add_typer(events_app, name="events")
parked_app = typer.Typer(no_args_is_help=True, help="Messages that no consumer could work.")
app.add_typer(parked_app, name="parked")


class Bench(StrEnum):
    """What can be measured."""

    HTTP = "http"
    EVENTS = "events"
    HOLDS = "holds"
    ORDERS = "orders"


BENCHES = {
    Bench.HTTP: "http_paths.py",
    Bench.EVENTS: "events.py",
    Bench.HOLDS: "holds.py",
    Bench.ORDERS: "orders.py",
}

ProfileName = Annotated[
    str, typer.Option("--profile", help="Which stack: shop, try, clusters or test.")
]


@app.command(epilog="Example: [bold]./shop up --mariadb[/bold]")
def up(
    profile: ProfileName = "shop",
    *,
    mariadb: Annotated[
        bool | None,
        typer.Option("--mariadb/--sqlite", help="Where orders and the journal live; remembered."),
    ] = None,
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="Leave our own processes out.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Just these, and what they need: stock-api,search-worker")
    ] = "",
    boxed: Annotated[
        bool | None,
        typer.Option("--containers/--native", help="By default containers where they can run."),
    ] = None,
) -> None:
    """Install what is missing, start the shop and wait until everything is ready."""
    stack = Stack.open(profile, mariadb=mariadb)
    apart = "only a part is asked for" if servers_only or only else ""
    choice = containers.choose(
        stack.profile, wanted=boxed, only_native="it runs already" if stack.up() else apart
    )
    console.print(choice.why, highlight=False)
    if choice.engine is not None:
        containers.up(stack.profile, choice.engine, mariadb=stack.mariadb)
        console.print(f"the shop is at {stack.profile.url('edge', path='/')}")
        return
    setup.install(stack, console)
    chosen = only.split(",") if only else None
    setup.up(stack, console, servers_only=servers_only, only=chosen)
    if not servers_only:
        console.print(setup.where(stack), highlight=False, soft_wrap=True)


@app.command(epilog="Example: [bold]./shop demo[/bold]")
def demo(profile: ProfileName = "shop") -> None:
    """Start the shop, fill it with a sample, and walk a shopper through it; it stays up.

    Each request is printed, each event as the broker delivers it, and the new stock.
    """
    stack = Stack.open(profile)
    if containers.used(stack.profile):
        raise NoContainers("the shop runs in containers, whose broker is closed: ./shop down first")
    setup.install(stack, console)
    setup.up(stack, console)
    asyncio.run(demos.run(stack.profile, console))
    console.print("\n[bold]The shop is up. Where everything listens:[/bold]")
    console.print(setup.where(stack), highlight=False, soft_wrap=True)
    console.print(
        "\nStop it with ./shop down, look around with ./shop status and ./shop events tail"
    )


@app.command(epilog="Example: [bold]./shop down[/bold]")
def down(profile: ProfileName = "shop") -> None:
    """Stop everything that `up` started, and nothing else."""
    stack = Stack.open(profile)
    if containers.used(stack.profile):
        containers.down(stack.profile, containers.engine())
    with console.status("stopping"):
        stack.down()
    console.print("stopped")


@app.command(epilog="Example: [bold]./shop status[/bold]")
def status(profile: ProfileName = "shop") -> None:
    """Show what runs, on which port, and for how long."""
    stack = Stack.open(profile)
    if containers.used(stack.profile):
        containers.show(stack.profile, containers.engine(), "ps")
        return
    states = stack.status()
    if not states:
        console.print("nothing runs; start it with [bold]./shop up[/bold]")
        raise typer.Exit(1)
    console.print(setup.table(states))


@app.command(epilog="Example: [bold]./shop logs stock-relay -f[/bold]")
def logs(
    name: Annotated[str, typer.Argument(help="A name that `status` shows, or supervisor.")],
    profile: ProfileName = "shop",
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines.")] = 50,
) -> None:
    """Show the log of one process."""
    stack = Stack.open(profile)
    if containers.used(stack.profile):
        verb = ["logs", f"--tail={lines}", *(["--follow"] if follow else []), name]
        containers.show(stack.profile, containers.engine(), *verb)
        return
    setup.logs(stack, name, console, lines=lines, follow=follow)


@app.command(epilog="Example: [bold]./shop doctor[/bold]")
def doctor(profile: ProfileName = "shop") -> None:
    """Say what is missing or in the way, and what to do; exit code 1 if something is."""
    findings = doctors.examine(Stack.open(profile))
    for finding in findings:
        mark = "[red]problem[/red]" if finding.grave else "[yellow]note[/yellow]"
        console.print(f"{mark}  {finding.what}\n         {finding.advice}", highlight=False)
    if any(finding.grave for finding in findings):
        raise typer.Exit(1)
    console.print("[green]nothing is in the way[/green]")


@app.command("test", epilog="Example: [bold]./shop test -k oversold services/stock[/bold]")
def run_tests(
    paths: Annotated[list[Path] | None, typer.Argument(help="Files or folders; all.")] = None,
    *,
    unit: Annotated[bool, typer.Option("--unit", help="Only what needs no server.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Also proofs of minutes.")] = False,
    containers: Annotated[
        bool, typer.Option("--containers", help="Also images, with a container engine.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running.")] = False,
    k: Annotated[str, typer.Option("-k", help="Only tests whose names match.")] = "",
) -> None:
    """Lint, type-check and test everything against real servers, started on other ports."""
    choice = testing.Choice(
        unit=unit,
        long=long,
        containers=containers,
        keep=keep,
        expression=k,
        paths=[path.resolve() for path in paths or []],
    )
    raise typer.Exit(testing.run(choice, console))


@app.command(epilog="Example: [bold]./shop bench events --rounds 5[/bold]")
def bench(
    what: Annotated[Bench, typer.Argument(help="What to measure.")] = Bench.HTTP,
    rounds: Annotated[int, typer.Option(min=1, help="How often each candidate runs.")] = 3,
    seconds: Annotated[
        int, typer.Option(min=1, help="How long each run takes; not of events.")
    ] = 5,
) -> None:
    """Measure HTTP paths, events, holds or orders beside their peers, on a stack of its own.

    Orders take five minutes: they are accepted and completed beside Vendure, raced for and rushed.
    """
    with_mariadb = what in {Bench.EVENTS, Bench.ORDERS}
    setup.install(Stack.open("bench", mariadb=with_mariadb), console, bench=True)
    numbers = [f"--rounds={rounds}"]
    if what is not Bench.EVENTS:
        numbers.append(f"--seconds={seconds}")
    command = [sys.executable, str(ROOT / "bench" / BENCHES[what]), *numbers]
    raise typer.Exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


@app.command("verify", epilog="Example: [bold]./shop verify --within 60[/bold]")
def verify_books(
    profile: ProfileName = "shop",
    within: Annotated[
        float, typer.Option(help="Seconds that what is on its way has to arrive.")
    ] = 10,
) -> None:
    """Hold orders, stock, payments and events against each other; exit code 1 on any breach."""
    stack = Stack.open(profile)
    found = asyncio.run(verify.settled(stack.profile, mariadb=stack.mariadb, within=within))
    for breach in found:
        console.print(breach, markup=False, highlight=False, soft_wrap=True, style="red")
    if found:
        raise typer.Exit(1)
    console.print("[green]all books agree[/green]")


From = Annotated[str, typer.Option("--from", help="first, next, an offset or a time.")]


@events_app.command(epilog="Example: [bold]./shop events tail --owner stock --from first[/bold]")
def tail(
    profile: ProfileName = "shop",
    owner: Annotated[str | None, typer.Option(help="catalog, stock, search or checkout.")] = None,
    start: From = "next",
) -> None:
    """Print events as they happen, until Ctrl-C."""
    url = amqp(Stack.open(profile).profile, "admin")
    asyncio.run(events.tail(url, owner, events.place(start), _show))


@events_app.command(
    epilog="Example: [bold]./shop events replay --owner stock --from first --to search[/bold]"
)
def replay(
    owner: Annotated[str, typer.Option(help="Whose events.")],
    to: Annotated[str, typer.Option(help="The consumer whose queue they go to; no other.")],
    profile: ProfileName = "shop",
    start: From = "",
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="Only these: stock.changed.*")
    ] = None,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it was left.")] = False,
) -> None:
    """Send events of the past to one consumer again; it bears what it has seen already."""
    if bool(start) == resume:
        raise typer.BadParameter("say either --from or --resume")
    since = events.place(start) if start else None
    with setup.bar(console, MofNCompleteColumn()) as progress:
        bar = progress.add_task(f"{owner} to {to}", total=None)
        count = asyncio.run(
            events.send(
                Stack.open(profile).profile,
                owner,
                to,
                since,
                type_ or [],
                lambda done, end: progress.update(bar, completed=done, total=end),
            )
        )
    console.print(f"{count} events sent to {to}", highlight=False)


def _show(owner: str, logged: Logged) -> None:
    event, place = logged.event, f"{owner}@{logged.offset}"
    meta, data = event.meta, msgspec.json.encode(event.data).decode()
    what = f"{meta.type}  {meta.subject} v{meta.entityversion}"
    head = f"{meta.time:%Y-%m-%dT%H:%M:%S.%fZ}  {place}  {what}"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    short = data if len(data) <= DATA_SHOWN else data[:DATA_SHOWN] + "…"
    console.print(f"    {short}", markup=False, highlight=False, style="dim", soft_wrap=True)


@app.command("import", epilog="Example: [bold]./shop import books.csv --mapping oscar-books[/bold]")
def import_feed(
    files: Annotated[list[Path], typer.Argument(help="The files of one feed.")],
    profile: ProfileName = "shop",
    *,
    mapping: Annotated[str, typer.Option(help="A shipped mapping's name, or a TOML file.")] = "",
    format: Annotated[  # noqa: A002 -- the option's name
        str, typer.Option(help="ndjson, shopify, csv or json; guessed from mapping or name.")
    ] = "",
    currency: Annotated[str, typer.Option(help="For feeds that name none, such as EUR.")] = "",
) -> None:
    """Import a catalogue: products to catalog, quantities and prices to stock."""
    feed = importing.Feed(files=files, mapping=mapping, format=format, currency=currency)
    found = Stack.open(profile).profile
    with setup.bar(console, DownloadColumn()) as progress:
        bars = {name: progress.add_task(name, total=None) for name in importing.PATHS}
        done = asyncio.run(
            importing.run(
                found,
                feed,
                lambda name, job: progress.update(
                    bars[name], completed=job.bytes_done, total=job.bytes_total
                ),
            )
        )
    for bad in importing.refused(done):
        line = f"{bad.source}:{bad.line} {bad.reason}"
        console.print(line, markup=False, highlight=False, soft_wrap=True, style="red")
    console.print(setup.summary(done))


@app.command("rebuild", epilog="Example: [bold]./shop rebuild search[/bold]")
def rebuild_store(
    service: Annotated[str, typer.Argument(help="search or stock")], profile: ProfileName = "shop"
) -> None:
    """Make a service's store again out of what is kept.

    search: out of the events, while it is in use. stock: an empty Redis out of the journal.
    """

    def tell(line: dict[str, Any]) -> None:
        facts = {key: value for key, value in line.items() if key not in LOG_KEYS}
        shown = "  ".join(f"{key} {value}" for key, value in facts.items())
        console.print(
            f"{line['event']}  {shown}".rstrip(), markup=False, highlight=False, soft_wrap=True
        )

    rebuild.run(Stack.open(profile), service, tell)


Consumer = Annotated[str | None, typer.Option(help="Whose parking, such as search.")]
Of = Annotated[str | None, typer.Option("--owner", help="Whose events, such as stock.")]
Reason = Annotated[
    str | None,
    typer.Option(help="permanent, exhausted, malformed, unknown-type, rejected, delivery_limit."),
]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids, or how they begin.")]
All = Annotated[bool, typer.Option("--all", help="Everything that is parked.")]


@parked_app.command("list", epilog="Example: [bold]./shop parked list --consumer search[/bold]")
def parked_list(
    profile: ProfileName = "shop",
    consumer: Consumer = None,
    owner: Of = None,
    reason: Reason = None,
) -> None:
    """List what is parked; nothing changes."""
    which = parked.Which(consumer=consumer, owner=owner, reason=reason)
    console.print(setup.parked(asyncio.run(parked.look(Stack.open(profile).profile, which))))


@parked_app.command(epilog="Example: [bold]./shop parked show 0199c2[/bold]")
def show(ids: Ids, profile: ProfileName = "shop") -> None:
    """Show messages whole: why they were parked, their headers and their body."""
    which = parked.Which(ids=tuple(ids or ()))
    for one in asyncio.run(parked.look(Stack.open(profile).profile, which)):
        facts = {"queue": one.queue, "id": one.id, "reason": one.reason, "error": one.error}
        for name, value in {**facts, **one.headers}.items():
            console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
        body = one.body.decode(errors="replace")
        console.print(f"{body}\n", markup=False, highlight=False, soft_wrap=True)


@parked_app.command(
    "replay", epilog="Example: [bold]./shop parked replay --reason exhausted[/bold]"
)
def parked_replay(
    ids: Ids = None,
    profile: ProfileName = "shop",
    consumer: Consumer = None,
    owner: Of = None,
    reason: Reason = None,
    *,
    all_: All = False,
) -> None:
    """Send messages back to the consumer that parked them, and to no other."""
    which = _meant(ids, consumer, owner, reason, all_=all_)
    done = asyncio.run(parked.replay(Stack.open(profile).profile, which))
    console.print(f"{len(done)} sent back", highlight=False)


@parked_app.command("drop", epilog="Example: [bold]./shop parked drop 0199c2[/bold]")
def parked_drop(
    ids: Ids = None,
    profile: ProfileName = "shop",
    consumer: Consumer = None,
    owner: Of = None,
    reason: Reason = None,
    *,
    all_: All = False,
) -> None:
    """Forget messages for good."""
    which = _meant(ids, consumer, owner, reason, all_=all_)
    done = asyncio.run(parked.drop(Stack.open(profile).profile, which))
    console.print(f"{len(done)} dropped", highlight=False)


def _meant(
    ids: list[str] | None,
    consumer: str | None,
    owner: str | None,
    reason: str | None,
    *,
    all_: bool,
) -> parked.Which:
    if not (ids or consumer or owner or reason or all_):
        raise typer.BadParameter("say which: ids, --consumer, --owner, --reason or --all")
    return parked.Which(consumer=consumer, owner=owner, reason=reason, ids=tuple(ids or ()))


def main() -> None:
    """Run the command line; what people can act on is told without a traceback."""
    try:
        app()
    except FAILURES as failure:
        Console(stderr=True).print(
            f"shop: {failure}", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
