"""A provider that speaks as Stripe does: payment intents with manual capture, and its webhooks.

Our key travels twice: as Idempotency-Key, so that nothing is done twice, and as the metadata
`reference`, so that what was done can be found when its answer was lost.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout
from msgspec import Struct

from checkout.domain import Answer, Approved, Op, Pending, Refused
from checkout.provider import BadWebhook, NoAnswer, Notice

TIMEOUT = ClientTimeout(total=8, sock_connect=3)
TOLERANCE_S = 300
"""How old a webhook's signature may be."""
FREE = "free"
"""Stands for the payment of an order that costs nothing: there is nothing to ask for."""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
VARIANTS = 10
REFUSALS = range(400, 500)
NOT_ANSWERS = {401, 403, 408, 409, 425, 429}
"""Our own key, a conflict of two requests with one key, too many requests: nothing is decided."""
_MOMENT = re.compile(r"\d{1,15}")


class _Data(Struct, frozen=True):
    object: dict[str, Any]


class _Event(Struct, frozen=True):
    id: str
    data: _Data


class _Refusal(Exception):
    """The request was understood and is not done."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message", "refused")))
        self.intent: Mapping[str, Any] | None = error.get("payment_intent")


class _Spent(Exception):
    """The key is answered with a failure of the provider's own, now and for ever."""


class Stripe:
    """One account at Stripe, or at whoever speaks like it at `url`."""

    def __init__(self, session: ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}

    async def authorise(self, key: str, token: str, amount_minor: int, currency: str) -> Answer:
        if amount_minor == 0:
            return Approved(FREE)
        form = {
            "amount": str(amount_minor),
            "currency": currency.lower(),
            "payment_method": token,
            "capture_method": "manual",
            "confirm": "true",
            "metadata[reference]": key,
        }
        try:
            return _authorised(await self._post("/v1/payment_intents", key, form))
        except _Refusal as refusal:
            return Refused(str(refusal))

    async def capture(self, key: str, ref: str, amount_minor: int) -> Answer:
        if ref == FREE:
            return Approved(ref)
        form = {"amount_to_capture": str(amount_minor)}
        return await self._changes(Op.CAPTURE, f"/v1/payment_intents/{ref}/capture", key, ref, form)

    async def void(self, key: str, ref: str) -> Answer:
        if ref == FREE:
            return Approved(ref)
        return await self._changes(Op.VOID, f"/v1/payment_intents/{ref}/cancel", key, ref, {})

    async def refund(self, key: str, ref: str, amount_minor: int) -> Answer | Pending:
        if ref == FREE or amount_minor == 0:
            return Approved(FREE)
        form = {
            "payment_intent": ref,
            "amount": str(amount_minor),
            "metadata[reference]": key,
        }
        try:
            return _refund(await self._post("/v1/refunds", key, form))
        except _Refusal as refusal:
            return Refused(str(refusal))

    async def known(self, op: Op, key: str, ref: str) -> Answer | None:
        if op is not Op.AUTH:
            return None if ref == FREE else _settled(op, await self._intent(ref))
        query = quote(f'metadata["reference"]:"{key}"')
        found = await self._get(f"/v1/payment_intents/search?query={query}")
        return next((_authorised(intent) for intent in found["data"]), None)

    async def refunded(self, key: str, ref: str) -> Answer | Pending | None:
        if ref == FREE:
            return None
        found = await self._get(f"/v1/refunds?payment_intent={quote(ref)}&limit=100")
        ours = (one for one in found["data"] if one["metadata"].get("reference") == key)
        return next((_refund(one) for one in ours), None)

    async def _changes(
        self, op: Op, path: str, key: str, ref: str, form: Mapping[str, str]
    ) -> Answer:
        try:
            intent = await self._post(path, key, form)
        except _Refusal as refusal:
            # refused because it is done already, or for good: the payment itself tells
            return _settled(op, await self._intent(ref)) or Refused(str(refusal))
        settled = _settled(op, intent)
        if settled is None:
            raise _undecided(intent)
        return settled

    async def _intent(self, ref: str) -> Mapping[str, Any]:
        return await self._get(f"/v1/payment_intents/{quote(ref)}")

    async def _get(self, path: str) -> Mapping[str, Any]:
        try:
            return await self._ask("GET", path, {}, None)
        except _Refusal as refusal:
            raise NoAnswer(f"GET {path}: {refusal}") from refusal

    async def _post(self, path: str, key: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        """The reply under our key, or under its next variant where the key is spent.

        A failure of the provider's own is kept under its key and replayed for good. Whoever comes
        here again has asked before what became of it (`known`), and it was not done.
        """
        for variant in range(1, VARIANTS):
            used = key if variant == 1 else f"{key}:{variant}"
            with suppress(_Spent):
                return await self._ask("POST", path, {"Idempotency-Key": used, **FORM}, form)
        raise NoAnswer(f"POST {path}: every variant of the key is spent")

    async def _ask(
        self, method: str, path: str, headers: dict[str, str], form: Mapping[str, str] | None
    ) -> Mapping[str, Any]:
        """The reply. Raises _Refusal for a decision against it, NoAnswer for no decision."""
        try:
            async with self._session.request(
                method,
                f"{self._url}{path}",
                data=None if form is None else urlencode(form).encode(),
                headers=self._headers | headers,
                timeout=TIMEOUT,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
        except (ClientError, TimeoutError, OSError) as error:
            raise NoAnswer(f"{method} {path}: {error!r}") from error
        try:
            reply = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise NoAnswer(f"{method} {path}: {answer.status} without JSON") from error
        if answer.ok:
            return reply
        if answer.status in REFUSALS and answer.status not in NOT_ANSWERS:
            raise _Refusal(reply.get("error", {}))
        if answer.headers.get("Idempotent-Replayed") == "true":
            raise _Spent
        raise NoAnswer(f"{method} {path}: {answer.status}")


def read_webhook(body: bytes, header: str, secret: str, now: float) -> Notice:
    """What a webhook is about, if the provider sent it, and lately. Raises BadWebhook."""
    given = [part.partition("=")[::2] for part in header.split(",")]
    moment = next((value for name, value in given if name.strip() == "t"), "")
    if not _MOMENT.fullmatch(moment):
        raise BadWebhook("it carries no time")
    ours = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    signatures = [value.strip() for name, value in given if name.strip() == "v1"]
    if not any(hmac.compare_digest(ours.encode(), theirs.encode()) for theirs in signatures):
        raise BadWebhook("its signature is wrong")
    if abs(now - int(moment)) > TOLERANCE_S:
        raise BadWebhook("it is too old, or from the future")
    try:
        event = msgspec.json.decode(body, type=_Event)
    except msgspec.DecodeError as error:
        raise BadWebhook("it is no event") from error
    metadata = event.data.object.get("metadata")
    reference = metadata.get("reference") if isinstance(metadata, dict) else None
    return Notice(event.id, str(reference or ""))


def _authorised(intent: Mapping[str, Any]) -> Answer:
    match intent["status"]:
        case "requires_capture" | "succeeded":
            return Approved(str(intent["id"]))
        case "requires_payment_method":
            return Refused(_why(intent))
        case "canceled":
            return Refused("the payment was given up")
        case "requires_action" | "requires_confirmation":
            return Refused("the card wants its owner to confirm, which is not offered")
    raise _undecided(intent)


def _settled(op: Op, intent: Mapping[str, Any]) -> Answer | None:
    """Whether the intent has come to its end, and whether it is the one that `op` wants."""
    wanted = "succeeded" if op is Op.CAPTURE else "canceled"
    if intent["status"] == wanted:
        return Approved(str(intent["id"]))
    if intent["status"] in {"succeeded", "canceled"}:
        return Refused(f"the payment is {intent['status']}")
    return None


def _refund(refund: Mapping[str, Any]) -> Answer | Pending:
    match refund["status"]:
        case "succeeded":
            return Approved(str(refund["id"]))
        case "pending" | "requires_action":
            return Pending(str(refund["id"]))
        case "failed" | "canceled":
            return Refused(str(refund.get("failure_reason") or "the refund failed"))
    raise _undecided(refund)


def _undecided(thing: Mapping[str, Any]) -> NoAnswer:
    return NoAnswer(f"{thing['id']} is {thing['status']}")


def _why(intent: Mapping[str, Any]) -> str:
    error = intent.get("last_payment_error") or {}
    return str(error.get("message") or "the card was declined")
