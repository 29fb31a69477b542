"""GET stock, PUT stock and a cached page, beside the talk's gateway and a stock Varnish.

`./shop bench` runs it on a private stack of its own. The last lines are the ratios. What is cached
is asked for as a browser does, and both caches keep it packed, so both send the same bytes. PUT is
measured twice: with the whole shop following each change on the same processors, as it runs, and
with stock alone, as the gateway runs, whose events nobody consumes. A run is over when no event of
it waits any more.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from measure import Candidate, Left, Result, cpu_seconds, interleave, ratio, show
from msgspec import Struct, structs
from redis.asyncio import Redis
from rich.console import Console

from shop import servers, setup
from shop.client import ShopClient
from shop.profiles import ROOT
from shop.stack import Stack, StackFailed

PEERS = Path(__file__).parent / "peers"
SKUS = 1_000
START_SECONDS = 30
WIDE = 150
FOLLOWERS = ("search-worker", "checkout-worker", "purger-worker", "stock-journal", "stock-notify")
"""Whoever does something for a change of stock that its events or its ledger tell of."""
SERVERS = ("redis-stock", "rabbitmq")
STOCK = "/products/SKU/stock"
CONFIRMED = "persistent, confirmed, quorum queue; no ledger, no outbox"
CALM, CALM_SECONDS, CALM_WITHIN = 0.2, 0.5, 120
"""They are done when they use less than this part of a processor for so long."""
FRAGMENT = "/fragments/nav"
BROWSER = "as_browser.lua"
ESI = """sub vcl_backend_response {
    set beresp.do_esi = (beresp.http.Surrogate-Control ~ "ESI");
    set beresp.do_gzip = true;
}"""
PACKED = "packed, as a browser asks"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    *command: str, port: int, log: Path, env: dict[str, str] | None = None
) -> Iterator[int]:
    """A process that listens on the port; its pid."""
    with log.open("wb") as output:
        # the kernel shares processors among sessions, and each process of ours has its own
        process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"did not start, see {log}: {' '.join(command)}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def peers_folder(var: Path) -> Path:
    """The peers with their packages installed, outside the tree."""
    folder = var / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "gateway.js"):
        shutil.copy(PEERS / name, folder)
    subprocess.run(["npm", "ci", "--silent"], cwd=folder, check=True)
    return folder


async def seed(stack: Stack, client: ShopClient) -> str:
    """A thousand SKUs for us and for the peer, and one product; the product's path."""
    stock = stack.profile.url("stock")
    gate = asyncio.Semaphore(64)

    async def put(sku: str) -> None:
        async with (
            gate,
            client.http.put(
                f"{stock}/products/{sku}/stock",
                json={"stock": 1_000_000, "action": "set"},
                headers=client.admin,
            ) as answer,
        ):
            answer.raise_for_status()

    # first the product: until it is found, the events of all others would stand before its own
    sku = await client.put_product(name="Bench lamp")
    path = f"/p/{(await client.found(sku))[0]['slug']}"
    await asyncio.gather(*(put(f"B{n}") for n in range(SKUS)))
    async with Redis.from_url(servers.admin_redis(stack.profile, "redis-stock")) as redis:
        await redis.mset({f"B{n}:stock": 1_000_000 for n in range(SKUS)})
    return path


async def objects(stack: Stack, client: ShopClient, path: str) -> dict[str, str]:
    """The page as its origin sends it and the fragments that it includes, by path."""
    services = {"/fragments/products/": "stock"}
    found: dict[str, str] = {}
    ahead = [path]
    while ahead:
        wanted = ahead.pop()
        service = next((s for start, s in services.items() if wanted.startswith(start)), "catalog")
        async with client.http.get(stack.profile.url(service, path=wanted)) as answer:
            answer.raise_for_status()
            found[wanted] = await answer.text()
        ahead += re.findall(r'<esi:include src="([^"]+)"', found[wanted])
    return found


async def backlog(stack: Stack) -> Left:
    """How many events wait to be published now, and how long until none does."""
    async with Redis.from_url(servers.admin_redis(stack.profile, "redis-stock")) as redis:
        waiting = int(await redis.xlen("{s0}:outbox"))
        started = time.monotonic()
        while await redis.xlen("{s0}:outbox"):
            await asyncio.sleep(0.02)
        return Left(waiting, time.monotonic() - started)


async def followed(stack: Stack, pids: Sequence[int], lags: list[float]) -> Left:
    """As `backlog`, and it waits until those that follow stock have done their part, too."""
    left = await backlog(stack)
    started = time.monotonic()
    used = cpu_seconds(pids)
    while True:
        await asyncio.sleep(CALM_SECONDS)
        before, used = used, cpu_seconds(pids)
        if used - before < CALM * CALM_SECONDS:
            break
        if time.monotonic() - started > CALM_WITHIN:
            raise RuntimeError("those that follow stock are not done")
    lags.append(time.monotonic() - started - CALM_SECONDS)
    return left


class Gateway(Struct, frozen=True):
    """The talk's gateway: its port and its process."""

    port: int
    pid: int


Measured = Callable[[Sequence[Candidate]], Awaitable[list[Result]]]


async def whole_shop(
    stack: Stack, console: Console, measured: Measured, pids: Mapping[str, int], gateway: Gateway
) -> list[Result]:
    """PUT as the shop runs: search, journal and the rest follow each change."""
    following = {name: pids[name] for name in (*FOLLOWERS, "elasticsearch")}
    lags: list[float] = []
    ours = our_put(stack, pids)
    results = await measured(
        [
            structs.replace(
                ours,
                beside={**ours.beside, **following},
                settled=partial(followed, stack, list(following.values()), lags),
            ),
            their_put(gateway, pids, "with one confirm channel", "/modern", CONFIRMED),
        ]
    )
    show("PUT stock; the whole shop follows ours, nobody follows the gateway's", results, console)
    said = f"those that follow were done {max(lags):.1f} s after the last event, at the latest"
    console.print(said, highlight=False)
    return results


async def stock_alone(
    stack: Stack, console: Console, measured: Measured, pids: Mapping[str, int], gateway: Gateway
) -> list[Result]:
    """PUT with nobody behind the queues, on either side; those that follow were stopped."""
    results = await measured(
        [
            our_put(stack, pids),
            their_put(gateway, pids, "with one confirm channel", "/modern", CONFIRMED),
            their_put(gateway, pids, "as in the talk", "", "transient, unconfirmed"),
        ]
    )
    show("PUT stock; nobody follows either", results, console)
    return results


def our_put(stack: Stack, pids: Mapping[str, int]) -> Candidate:
    return Candidate(
        "our PUT stock",
        stack.profile.url("stock") + STOCK,
        "put_stock.lua",
        (pids["stock-api"], pids["stock-relay"]),
        "ledger, outbox, fsync always; persistent, confirmed, quorum queue and stream",
        {name: pids[name] for name in ("stock-api", "stock-relay", *SERVERS)},
        partial(backlog, stack),
    )


def their_put(
    gateway: Gateway, pids: Mapping[str, int], how: str, at: str, promises: str
) -> Candidate:
    return Candidate(
        f"the gateway {how}, PUT",
        theirs(gateway.port) + at + STOCK,
        "put_stock.lua",
        (gateway.pid,),
        promises,
        {name: pids[name] for name in SERVERS},
    )


def cached(path: str, ours: tuple[str, int], stock: tuple[str, int]) -> list[Candidate]:
    """One path from our Varnish and from a stock one; each is its address and its process."""
    return [
        Candidate(f"{name}, {path}", at + path, BROWSER, (pid,), PACKED)
        for name, (at, pid) in (("our Varnish", ours), ("stock Varnish", stock))
    ]


def theirs(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def main(rounds: int, seconds: int) -> None:
    # a table without a terminal would be cut to 80 columns
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    stack = Stack.open("bench", mariadb=False)
    folder = peers_folder(stack.profile.var)
    was_up = stack.up()
    with ExitStack() as exits:
        if not was_up:
            exits.callback(stack.down)
        setup.up(stack, console)
        pids = {state.name: state.pid for state in stack.status() if state.pid}
        async with ShopClient.open(stack.profile) as client:
            await client.reachable()
            path = await seed(stack, client)
            page = folder / "objects.json"
            page.write_text(json.dumps(await objects(stack, client, path)))
            key = client.admin["Authorization"]

        gateway, hello, origin, varnish = (free_port() for _ in range(4))
        log = stack.profile.folder("log")
        (folder / "stock.vcl").write_text(
            f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }} {ESI}'
        )
        node = exits.enter_context(
            running(
                "node",
                str(folder / "gateway.js"),
                port=gateway,
                log=log / "peer-gateway.log",
                env={
                    "PORT": str(gateway),
                    "REDIS_URL": servers.admin_redis(stack.profile, "redis-stock"),
                    "AMQP_URL": servers.amqp(stack.profile, "admin", "%2F"),
                },
            )
        )
        bare = exits.enter_context(
            running(
                *(sys.executable, str(PEERS / "hello.py"), str(hello)),
                port=hello,
                log=log / "peer-hello.log",
            )
        )
        exits.enter_context(
            running(
                *(sys.executable, str(PEERS / "origin.py"), str(origin), str(page)),
                port=origin,
                log=log / "peer-origin.log",
            )
        )
        cache = exits.enter_context(
            running(
                *("varnishd", "-F", "-n", str(folder / "varnish"), "-s", "malloc,64m"),
                *("-a", f"127.0.0.1:{varnish}", "-f", str(folder / "stock.vcl")),
                port=varnish,
                log=log / "peer-varnish.log",
            )
        )

        api = stack.profile.url("stock")
        measured = partial(
            interleave,
            console=console,
            rounds=rounds,
            seconds=seconds,
            env={"BENCH_AUTHORIZATION": key},
        )

        gets = await measured(
            [
                Candidate("our GET stock", api + STOCK, "get_stock.lua", (pids["stock-api"],)),
                Candidate(
                    "the talk's gateway, GET",
                    theirs(gateway) + STOCK,
                    "get_stock.lua",
                    (node,),
                ),
                Candidate("aiohttp hello", theirs(hello) + "/hello", None, (bare,)),
            ]
        )
        edges = (stack.profile.url("varnish"), pids["varnish"]), (theirs(varnish), cache)
        fragments = await measured(cached(FRAGMENT, *edges))
        pages = await measured(cached(path, *edges))

        show("GET stock, one process each", gets, console)
        show("A cached object", fragments, console)
        show("A cached page of several objects", pages, console)

        gateway_puts = Gateway(gateway, node)
        whole = await whole_shop(stack, console, measured, pids, gateway_puts)
        stack.stop(*FOLLOWERS)
        if was_up:
            exits.callback(stack.start, list(FOLLOWERS))
        alone = await stock_alone(stack, console, measured, pids, gateway_puts)

    ratio(console, "GET stock", gets[0], gets[1], 2.5)
    ratio(console, "GET stock", gets[0], gets[2], 0.7)
    ratio(console, "PUT stock alone", alone[0], alone[1], 2.0)
    ratio(console, "PUT stock alone", alone[0], alone[2], 15.0)
    ratio(console, "PUT stock, followed by the whole shop", whole[0], whole[1], 2.0)
    ratio(console, "cached object", fragments[0], fragments[1], 0.9)
    ratio(console, "cached page with ESI", pages[0], pages[1], 0.8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    try:
        asyncio.run(main(arguments.rounds, arguments.seconds))
    except StackFailed as failure:
        sys.exit(f"bench: {failure}")
