"""Vendure as a peer: PostgreSQL, its server and its worker, and one whole order through its API."""

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct

SOURCE = Path(__file__).parent / "vendure"
START_SECONDS = 180
PLENTY = 20
ORDER = "... on Order { id code state } ... on ErrorResult { errorCode message }"
STEPS = {
    "add": "mutation($v: ID!) { r: addItemToOrder(productVariantId: $v, quantity: 1) { %s } }",
    "who": "mutation($i: CreateCustomerInput!) { r: setCustomerForOrder(input: $i) { %s } }",
    "where": "mutation($i: CreateAddressInput!) { r: setOrderShippingAddress(input: $i) { %s } }",
    "how": "mutation { r: setOrderShippingMethod(shippingMethodId: [1]) { %s } }",
    "ready": 'mutation { r: transitionOrderToState(state: "ArrangingPayment") { %s } }',
    "pay": 'mutation { r: addPaymentToOrder(input: {method: "dummy", metadata: {}}) { %s } }',
}
SETTLED = {"PaymentSettled", "PaymentAuthorized"}


class NotOrdered(Exception):
    """Vendure refused a step, or failed at it."""


class Vendure(Struct, frozen=True):
    """One running Vendure."""

    url: str
    http: aiohttp.ClientSession
    pids: tuple[int, ...]

    async def order(self, variants: Sequence[int]) -> None:
        """From an empty cart to the settled payment. Raises NotOrdered."""
        token = ""
        for variant in variants:
            token = await self._step("add", token, {"v": str(variant)})
        mail = f"{secrets.token_hex(8)}@example.com"
        who = {"emailAddress": mail, "firstName": "Ada", "lastName": "Buyer"}
        await self._step("who", token, {"i": who})
        where = {
            "streetLine1": "1 Road",
            "city": "Bonn",
            "postalCode": "53111",
            "countryCode": "DE",
        }
        await self._step("where", token, {"i": where})
        await self._step("how", token, {})
        await self._step("ready", token, {})
        await self._step("pay", token, {}, SETTLED)

    async def _step(
        self, name: str, token: str, variables: Any, states: set[str] | None = None
    ) -> str:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = {"query": STEPS[name] % ORDER, "variables": variables}
        async with self.http.post(self.url, json=body, headers=headers) as answer:
            said = await answer.json()
        done = (said.get("data") or {}).get("r") or {}
        if said.get("errors") or done.get("errorCode"):
            raise NotOrdered(f"{name}: {said.get('errors') or done['errorCode']}")
        if states and done["state"] not in states:
            raise NotOrdered(f"{name}: {done['state']}")
        return answer.headers.get("vendure-auth-token", token)


@asynccontextmanager
async def vendure(var: Path) -> AsyncIterator[Vendure]:
    """Vendure with its own PostgreSQL, freshly filled; packages are installed once."""
    folder = installed(var)
    port, database = free_port(), free_port()
    env = {
        **os.environ,
        "PORT": str(port),
        "PGPORT": str(database),
        "SECRET": secrets.token_hex(16),
    }
    with ExitStack() as stack:
        postgres = stack.enter_context(postgresql(var / "postgresql", database))
        populate(folder, env)
        server = stack.enter_context(running(folder, env, "node", "server.js"))
        worker = stack.enter_context(running(folder, env, "node", "worker.js"))
        until_open(port)
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            url = f"http://127.0.0.1:{port}/shop-api"
            yield Vendure(url, http, (server, worker, postgres))


def populate(folder: Path, env: dict[str, str]) -> None:
    subprocess.run(
        ["node", "populate.js"],
        cwd=folder,
        env={**env, "POPULATE": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def installed(var: Path) -> Path:
    """The folder with our programs and Vendure's packages."""
    folder = var / "vendure"
    folder.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.iterdir():
        shutil.copy(file, folder / file.name)
    if not (folder / "node_modules").exists():
        subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


@contextmanager
def postgresql(folder: Path, port: int) -> Iterator[int]:
    """An empty PostgreSQL of Debian's, durable as it comes; its pid. It refuses to run as root."""
    binaries = max(Path("/usr/lib/postgresql").iterdir()) / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    as_user = []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    data = folder / "data"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(
        [*as_user, str(binaries / "initdb"), "-D", str(data), "-U", "bench", "-A", "trust"],
        check=True,
        **quiet,
    )
    with running(
        folder,
        dict(os.environ),
        *as_user,
        *(str(binaries / "postgres"), "-D", str(data), "-p", str(port)),
        *("-k", str(folder), "-c", "listen_addresses=127.0.0.1"),
    ) as pid:
        until_open(port)
        time.sleep(1)
        create = [str(binaries / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "bench"]
        subprocess.run([*create, "bench"], check=True)
        yield pid


@contextmanager
def running(folder: Path, env: dict[str, str], *command: str) -> Iterator[int]:
    """A process that is stopped at the end; its pid."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Linux deals a busy machine out by session, and each of our processes has its own
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until_open(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on {port}")
        time.sleep(0.2)


async def race(shop: Vendure, buyers: int, variant: int) -> int:
    """How many of the buyers, all at once, end with the scarce item."""

    async def buy() -> bool:
        try:
            await shop.order([variant])
        except (NotOrdered, aiohttp.ClientError, TimeoutError):
            return False
        return True

    return sum(await asyncio.gather(*(buy() for _ in range(buyers))))
