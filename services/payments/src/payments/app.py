"""The simulator as an HTTP process: Stripe's routes, and its own to script faults and read books.

`PUT /simulator/script` says what is to go wrong, `GET /simulator/ledger` what was really done.
"""

import asyncio
import hashlib
import hmac
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from chassis.process import serve
from chassis.settings import load
from payments.domain import (
    Bank,
    Change,
    Failure,
    Fault,
    Form,
    Json,
    Operation,
    Script,
    Settled,
)
from payments.settings import PREFIX, Settings

ASIDE = {"decline", "pending"}
"""Faults that are asked for by what they do."""
WEBHOOK_TRIES = 8
WEBHOOK_SECONDS = 5
SLOW_TOKEN_SECONDS = 2.0
ABRUPT = web.Response()
"""Stands for an answer that never leaves."""


class Simulator:
    """The bank behind HTTP: faults before and after its effects, webhooks for what it did."""

    def __init__(self, settings: Settings) -> None:
        self.bank = Bank()
        self.script = Script()
        self._settings = settings
        self._faults: list[tuple[Fault, int]] = []
        self._journal = _opened(settings.journal, self.bank)
        self._busy: set[str] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._session: ClientSession | None = None

    async def start(self) -> None:
        """Be able to send."""
        self._session = ClientSession(timeout=ClientTimeout(total=WEBHOOK_SECONDS))

    def follow(self, script: Script) -> None:
        """Let these things go wrong from now on."""
        self.script = script
        self._faults = [(fault, fault.times) for fault in script.faults]

    async def carry_out(
        self,
        request: web.Request,
        op: Operation,
        act: Callable[[str, str, Form], Change],
    ) -> web.StreamResponse:
        """One request that changes something, with what the script has in store for it."""
        _authenticated(request, self._settings.key)
        form: Form = {name: str(value) for name, value in (await request.post()).items()}
        key = request.headers.get("Idempotency-Key", "")
        asked = hashlib.sha256(
            msgspec.json.encode([request.path, sorted(form.items())])
        ).hexdigest()
        fault = self._fault(op)
        match fault.does if fault else None:
            case "error":
                return _failed(500)
            case "lose_request":
                return _lost(request)
            case "in_use":
                return _in_use()
        if key in self._busy:
            return _in_use()
        with self._using(key):
            known = self.bank.answered(key, asked)
            change = known or self._done(key, asked, form, act, fault)
            await self._waits(form, fault)
        return self._answer(request, change, form, fault, first=known is None)

    async def read(self, request: web.Request, reply: Callable[[], Json]) -> web.StreamResponse:
        """One request that only asks."""
        _authenticated(request, self._settings.key)
        fault = self._fault("read")
        match fault.does if fault else None:
            case "error" | "error_after":
                return _failed(500)
            case "lose_request" | "lose_answer":
                return _lost(request)
            case "slow":
                await asyncio.sleep(fault.seconds if fault else 0)
        return _replied(reply())

    def declines(self, op: Operation) -> bool:
        """Whether the script declines the next of these."""
        return self._fault(op, "decline") is not None

    def leaves_pending(self) -> bool:
        """Whether the script leaves the next refund pending."""
        return self._fault("refund", "pending") is not None

    def settle(self, refund_id: str, settled: Settled) -> Json:
        """Decide a pending refund, and tell the shop. Raises Failure."""
        change = self.bank.settle(refund_id, settled, _now())
        self._write(change)
        return change.reply

    async def stop(self) -> None:
        """Send nothing more."""
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)
        if self._session is not None:
            await self._session.close()
        if self._journal is not None:
            self._journal.close()

    def _done(
        self,
        key: str,
        asked: str,
        form: Form,
        act: Callable[[str, str, Form], Change],
        fault: Fault | None,
    ) -> Change:
        try:
            change = act(key, asked, form)
        except Failure as failure:
            # a refusal is an answer too: the same key gets it again
            change = Change(key=key, asked=asked, status=failure.status, reply=failure.body)
            self.bank.takes(change)
        if fault is not None and fault.does == "error_after":
            # as at Stripe, the key is answered with the 500 from now on: only a query tells more
            body = _failure("api_error", "An error occurred while processing your request.")
            self.bank.answers[key] = msgspec.structs.replace(change, status=500, reply=body)
        kept = self.bank.answers.get(key, change)
        self._write(kept)
        return kept

    def _write(self, change: Change) -> None:
        if self._journal is not None:
            self._journal.write(msgspec.json.encode(change) + b"\n")
            self._journal.flush()
        if change.event is not None:
            self._tell(change.event)

    async def _waits(self, form: Form, fault: Fault | None) -> None:
        if fault is not None and fault.does == "slow":
            await asyncio.sleep(fault.seconds)
        if form.get("payment_method") == "tok_slow":
            await asyncio.sleep(SLOW_TOKEN_SECONDS)

    def _answer(
        self, request: web.Request, change: Change, form: Form, fault: Fault | None, *, first: bool
    ) -> web.StreamResponse:
        if fault is not None and fault.does == "lose_answer":
            return _lost(request)
        if form.get("payment_method") == "tok_error_once" and first:
            return _lost(request)
        headers = {} if first else {"Idempotent-Replayed": "true"}
        return _replied(change.reply, change.status, headers)

    def _fault(self, op: Operation, only: str | None = None) -> Fault | None:
        for place, (fault, left) in enumerate(self._faults):
            meant = fault.does == only if only else fault.does not in ASIDE
            fits = fault.on in (op, "any") and meant
            if fits and random.random() < fault.chance:  # noqa: S311 - a fault, not a secret
                self._faults[place : place + 1] = [(fault, left - 1)] if left > 1 else []
                return fault
        return None

    @contextmanager
    def _using(self, key: str) -> Iterator[None]:
        self._busy.add(key)
        try:
            yield
        finally:
            self._busy.discard(key)

    def _tell(self, event: Json) -> None:
        if not self._settings.webhook_url:
            return
        how = self.script.webhooks
        for _ in range(how.copies):
            if random.random() >= how.lost:  # noqa: S311 - a fault, not a secret
                wait = how.delay_s + random.random() * how.jitter_s  # noqa: S311 - as above
                task = asyncio.create_task(self._deliver(event, wait))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    async def _deliver(self, event: Json, wait_s: float) -> None:
        body, session = msgspec.json.encode(event), self._session
        assert session is not None  # noqa: S101 - it is there before the first request
        for attempt in range(WEBHOOK_TRIES):
            await asyncio.sleep(wait_s + (2**attempt - 1) / 4)
            headers = {
                "Content-Type": "application/json",
                "Stripe-Signature": signature(self._settings.webhook_secret, body),
            }
            with suppress(ClientError, TimeoutError, OSError):
                async with session.post(
                    self._settings.webhook_url, data=body, headers=headers
                ) as answer:
                    if answer.ok:
                        return


def signature(secret: str, body: bytes, at: int | None = None) -> str:
    """The header that says who sent the body, and when."""
    moment = int(time.time()) if at is None else at
    signed = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={signed}"


def application(settings: Settings) -> web.Application:
    """Stripe's routes as far as the shop uses them, and the simulator's own."""
    simulator = Simulator(settings)

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        await simulator.start()
        yield
        await simulator.stop()

    app = web.Application(middlewares=[_failures])
    app[SIMULATOR] = simulator
    app.cleanup_ctx.append(lifetime)
    app.add_routes(ROUTES)
    return app


async def simulator() -> None:
    """The process."""
    settings = load(Settings, PREFIX)
    await serve(application(settings), settings.host, settings.simulator_port)


async def create(request: web.Request) -> web.StreamResponse:
    sim = request.app[SIMULATOR]

    def act(key: str, asked: str, form: Form) -> Change:
        return sim.bank.create(key, asked, form, _now(), decline=sim.declines("create"))

    return await sim.carry_out(request, "create", act)


async def capture(request: web.Request) -> web.StreamResponse:
    sim, ref = request.app[SIMULATOR], request.match_info["intent"]
    return await sim.carry_out(
        request, "capture", lambda key, asked, form: sim.bank.capture(key, asked, ref, form, _now())
    )


async def cancel(request: web.Request) -> web.StreamResponse:
    sim, ref = request.app[SIMULATOR], request.match_info["intent"]
    return await sim.carry_out(
        request, "cancel", lambda key, asked, _: sim.bank.cancel(key, asked, ref, _now())
    )


async def refund(request: web.Request) -> web.StreamResponse:
    sim = request.app[SIMULATOR]

    def act(key: str, asked: str, form: Form) -> Change:
        return sim.bank.refund(key, asked, form, _now(), pending=sim.leaves_pending())

    return await sim.carry_out(request, "refund", act)


async def retrieve(request: web.Request) -> web.StreamResponse:
    sim, ref = request.app[SIMULATOR], request.match_info["intent"]
    return await sim.read(request, lambda: sim.bank.intent(ref))


async def search(request: web.Request) -> web.StreamResponse:
    """Only the query that the shop asks: metadata["reference"]:"<reference>"."""
    sim = request.app[SIMULATOR]
    _, _, quoted = request.query.get("query", "").partition(":")
    return await sim.read(
        request, lambda: _list(sim.bank.referenced(quoted.strip("\"'")), "search_result")
    )


async def refunds(request: web.Request) -> web.StreamResponse:
    sim = request.app[SIMULATOR]
    ref = request.query.get("payment_intent", "")
    return await sim.read(request, lambda: _list(sim.bank.refunds.get(ref, []), "list"))


async def put_script(request: web.Request) -> web.StreamResponse:
    script = msgspec.json.decode(await request.read(), type=Script)
    request.app[SIMULATOR].follow(script)
    return web.json_response(msgspec.to_builtins(script))


async def put_refund(request: web.Request) -> web.StreamResponse:
    settled = msgspec.json.decode(await request.read(), type=Settled)
    return web.json_response(request.app[SIMULATOR].settle(request.match_info["refund"], settled))


async def ledger(request: web.Request) -> web.StreamResponse:
    entries = msgspec.json.encode(request.app[SIMULATOR].bank.ledger)
    return web.Response(body=entries, content_type="application/json")


async def ready(_: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "ok"})


@web.middleware
async def _failures(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Failure as failure:
        return web.json_response(failure.body, status=failure.status)
    except msgspec.ValidationError as error:
        return web.json_response(_failure("invalid_request_error", str(error)), status=400)


def _authenticated(request: web.Request, key: str) -> None:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not secrets.compare_digest(given.encode(), key.encode()):
        raise Failure(401, "invalid_request_error", "api_key_invalid", "Invalid API Key provided.")


def _opened(path: Path | None, bank: Bank) -> IO[bytes] | None:
    """The journal for more lines, after the bank has read it; a torn last line was no change."""
    if path is None:
        return None
    if path.exists():
        for line in path.read_bytes().splitlines():
            with suppress(msgspec.DecodeError):
                bank.takes(msgspec.json.decode(line, type=Change))
    journal = path.open("ab")
    # what is written next must not continue a torn line
    journal.write(b"\n")
    return journal


def _replied(
    reply: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    body = msgspec.json.encode(reply)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _failed(status: int) -> web.Response:
    body = _failure("api_error", "An error occurred while processing your request.")
    return web.json_response(body, status=status)


def _in_use() -> web.Response:
    body = _failure("idempotency_error", "There is another request with this key.")
    body["error"]["code"] = "idempotency_key_in_use"
    return web.json_response(body, status=409)


def _lost(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return ABRUPT


def _failure(kind: str, message: str) -> Json:
    return {"error": {"type": kind, "message": message}}


def _list(things: list[Json], kind: str) -> Json:
    return {"object": kind, "data": things, "has_more": False}


def _now() -> int:
    return int(time.time())


SIMULATOR = web.AppKey("simulator", Simulator)

ROUTES = [
    web.post("/v1/payment_intents", create),
    web.get("/v1/payment_intents/search", search),
    web.get("/v1/payment_intents/{intent}", retrieve),
    web.post("/v1/payment_intents/{intent}/capture", capture),
    web.post("/v1/payment_intents/{intent}/cancel", cancel),
    web.post("/v1/refunds", refund),
    web.get("/v1/refunds", refunds),
    web.put("/simulator/script", put_script),
    web.put("/simulator/refunds/{refund}", put_refund),
    web.get("/simulator/ledger", ledger),
    web.get("/readyz", ready),
    web.get("/healthz", ready),
]
