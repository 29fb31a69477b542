"""GET stock, PUT stock and a cached page, beside the talk's gateway and a stock Varnish.

`./shop bench` runs it on a private stack of its own. The last lines are the ratios.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from measure import Candidate, interleave, ratio, show
from redis.asyncio import Redis
from rich.console import Console

from shop import servers, setup
from shop.client import ShopClient
from shop.profiles import ROOT
from shop.stack import Stack, StackFailed

PEERS = Path(__file__).parent / "peers"
SKUS = 1_000
START_SECONDS = 30
WIDE = 130
FRAGMENT = "/fragments/nav"
ESI = (
    """sub vcl_backend_response { set beresp.do_esi = (beresp.http.Surrogate-Control ~ "ESI"); }"""
)


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

    await asyncio.gather(*(put(f"B{n}") for n in range(SKUS)))
    async with Redis.from_url(servers.admin_redis(stack.profile, "redis-stock")) as redis:
        await redis.mset({f"B{n}:stock": 1_000_000 for n in range(SKUS)})
    sku = await client.put_product(name="Bench lamp")
    return f"/p/{(await client.found(sku))[0]['slug']}"


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


async def backlog(stack: Stack) -> tuple[int, float]:
    """How many events wait now, and how long until none does."""
    async with Redis.from_url(servers.admin_redis(stack.profile, "redis-stock")) as redis:
        waiting = int(await redis.xlen("{s0}:outbox"))
        started = time.monotonic()
        while await redis.xlen("{s0}:outbox"):
            await asyncio.sleep(0.02)
        return waiting, time.monotonic() - started


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
        stock = "/products/SKU/stock"
        measured = partial(
            interleave,
            console=console,
            rounds=rounds,
            seconds=seconds,
            env={"BENCH_AUTHORIZATION": key},
        )

        gets = await measured(
            [
                Candidate("our GET stock", api + stock, "get_stock.lua", (pids["stock-api"],)),
                Candidate(
                    "the talk's gateway, GET",
                    f"http://127.0.0.1:{gateway}{stock}",
                    "get_stock.lua",
                    (node,),
                ),
                Candidate("aiohttp hello", f"http://127.0.0.1:{hello}/hello", None, (bare,)),
            ]
        )
        puts = await measured(
            [
                Candidate(
                    "our PUT stock",
                    api + stock,
                    "put_stock.lua",
                    (pids["stock-api"], pids["stock-relay"]),
                    "ledger, outbox, quorum queue, fsync always",
                ),
                Candidate(
                    "gateway with one confirm channel, PUT",
                    f"http://127.0.0.1:{gateway}/modern{stock}",
                    "put_stock.lua",
                    (node,),
                    "persistent, confirmed, quorum queue; no outbox",
                ),
                Candidate(
                    "the talk's gateway, PUT",
                    f"http://127.0.0.1:{gateway}{stock}",
                    "put_stock.lua",
                    (node,),
                    "transient, unconfirmed",
                ),
            ]
        )
        waiting, drained = await backlog(stack)
        ours, peers = stack.profile.url("varnish"), f"http://127.0.0.1:{varnish}"
        fragments = await measured(
            [
                Candidate("our cached fragment", ours + FRAGMENT, pids=(pids["varnish"],)),
                Candidate("stock Varnish, same object", peers + FRAGMENT, pids=(cache,)),
            ]
        )
        pages = await measured(
            [
                Candidate("our cached page with its ESI", ours + path, pids=(pids["varnish"],)),
                Candidate("stock Varnish, same objects", peers + path, pids=(cache,)),
            ]
        )

    show("GET stock, one process each", gets, console)
    show("PUT stock with its event, one process each", puts, console)
    console.print(f"after the last round {waiting} events waited, for {drained:.2f} s")
    show("A cached object", fragments, console)
    show("A cached page of several objects", pages, console)
    ratio(console, "GET stock", gets[0], gets[1], 2.5)
    ratio(console, "GET stock", gets[0], gets[2], 0.7)
    ratio(console, "PUT stock", puts[0], puts[1], 2.0)
    ratio(console, "PUT stock", puts[0], puts[2], 15.0)
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
