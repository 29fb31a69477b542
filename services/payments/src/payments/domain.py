"""The provider's books: payment intents, refunds, one effect per key, and the faults. No I/O.

It speaks as Stripe does where a shop with manual capture can see it: the same fields, statuses,
error codes and idempotency. What it cannot do (3-D Secure, disputes) it does not pretend to.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

Json: TypeAlias = dict[str, Any]
Form: TypeAlias = Mapping[str, str]
Operation = Literal["create", "capture", "cancel", "refund", "read"]

CANNOT_CAPTURE = "tok_capture_refused"
TOKENS = {
    "tok_ok": None,
    "tok_slow": None,
    "tok_error_once": None,
    CANNOT_CAPTURE: None,
    "tok_decline": ("card_declined", "generic_decline", "Your card was declined."),
    "tok_no_funds": ("card_declined", "insufficient_funds", "Your card has insufficient funds."),
    "tok_expired": ("expired_card", "expired_card", "Your card has expired."),
}


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the next `times` matching requests fare, each with `chance`."""

    on: Literal["create", "capture", "cancel", "refund", "read", "any"] = "any"
    does: Literal[
        "error",  # a 500, and nothing was done
        "error_after",  # it was done, and then a 500
        "lose_request",  # the connection ends, and nothing was done
        "lose_answer",  # it was done, and then the connection ends: the time-out after charging
        "slow",  # it is done, and the answer takes `seconds`
        "decline",  # the card is declined
        "pending",  # a refund is taken, and decided when somebody settles it
        "in_use",  # a 409: the key is being used
    ]
    times: Annotated[int, Meta(ge=1)] = 1
    chance: Annotated[float, Meta(ge=0, le=1)] = 1
    seconds: Annotated[float, Meta(ge=0, le=60)] = 2


class Deliveries(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How webhooks arrive: how often each, how late, and how many never.

    Between `delay_s` and `delay_s + jitter_s` each, so with jitter they come out of order.
    """

    copies: Annotated[int, Meta(ge=0, le=10)] = 1
    delay_s: Annotated[float, Meta(ge=0, le=600)] = 0
    jitter_s: Annotated[float, Meta(ge=0, le=600)] = 0
    lost: Annotated[float, Meta(ge=0, le=1)] = 0


class Script(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to go wrong from now on; it replaces what was said before."""

    faults: list[Fault] = []
    webhooks: Deliveries = Deliveries()


class Settled(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pending refund ends."""

    status: Literal["succeeded", "failed"]


class Entry(Struct, frozen=True, kw_only=True):
    """One movement of the ledger."""

    intent: str
    reference: str
    op: Literal["authorised", "declined", "captured", "canceled", "refunded"]
    amount: int
    currency: str


class Failure(Exception):
    """An answer in Stripe's shape that is no success."""

    def __init__(self, status: int, kind: str, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"type": kind, "code": code, "message": message, **more}}


class Change(Struct, frozen=True, kw_only=True):
    """What one request did, as the journal keeps it."""

    key: str
    asked: str
    status: int
    reply: Json
    intent: Json | None = None
    refund: Json | None = None
    entry: Entry | None = None
    event: Json | None = None


class Bank:
    """The books. Every method that changes them returns one `Change`, already in force."""

    def __init__(self) -> None:
        self.intents: dict[str, Json] = {}
        self.refunds: dict[str, list[Json]] = {}
        self.answers: dict[str, Change] = {}
        self.ledger: list[Entry] = []

    def answered(self, key: str, asked: str) -> Change | None:
        """What this key was answered. Raises Failure when it asked for something else."""
        known = self.answers.get(key) if key else None
        if known is not None and known.asked != asked:
            raise Failure(
                400,
                "idempotency_error",
                "idempotency_key_in_use",
                "Keys for idempotent requests can only be used with the same parameters.",
            )
        return known

    def takes(self, change: Change) -> Change:
        """Put what was done into the books; also how a journal is read back."""
        if change.key:
            self.answers[change.key] = change
        if change.intent is not None:
            self.intents[change.intent["id"]] = change.intent
        if change.refund is not None:
            kept = self.refunds.setdefault(change.refund["payment_intent"], [])
            kept[:] = [one for one in kept if one["id"] != change.refund["id"]] + [change.refund]
        if change.entry is not None:
            self.ledger.append(change.entry)
        return change

    def create(self, key: str, asked: str, form: Form, now: int, *, decline: bool) -> Change:
        """Authorise an amount. Raises Failure for what is no proper request."""
        amount = _amount(form, "amount")
        token = form.get("payment_method", "")
        intent: Json = {
            "id": f"pi_{secrets.token_hex(12)}",
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": amount,
            "amount_received": 0,
            "capture_method": form.get("capture_method", "automatic"),
            "created": now,
            "currency": form.get("currency", ""),
            "livemode": False,
            "metadata": _metadata(form),
            "payment_method": token,
            "status": "requires_capture",
            "last_payment_error": None,
        }
        refused = TOKENS.get(token, ("card_declined", "fraudulent", "The card is unknown."))
        if decline:
            refused = TOKENS["tok_decline"]
        if refused is None:
            kind = "payment_intent.amount_capturable_updated"
            return self._moves(key, asked, intent, "authorised", amount, kind, now)
        code, decline_code, message = refused
        error = {
            "type": "card_error",
            "code": code,
            "decline_code": decline_code,
            "message": message,
        }
        intent |= {
            "status": "requires_payment_method",
            "amount_capturable": 0,
            "last_payment_error": error,
        }
        reply = {"error": error | {"payment_intent": intent}}
        kind = "payment_intent.payment_failed"
        return self._moves(
            key, asked, intent, "declined", amount, kind, now, status=402, reply=reply
        )

    def capture(self, key: str, asked: str, ref: str, form: Form, now: int) -> Change:
        """Take what was authorised, or less. Raises Failure."""
        intent = self._in("requires_capture", ref, "captured")
        if intent["payment_method"] == CANNOT_CAPTURE:
            raise Failure(402, "card_error", "card_declined", "The card can no longer be charged.")
        amount = _amount(form, "amount_to_capture") if "amount_to_capture" in form else None
        taken = intent["amount_capturable"] if amount is None else amount
        if not 0 < taken <= intent["amount_capturable"]:
            raise Failure(
                400, "invalid_request_error", "amount_too_large", "More than was authorised."
            )
        moved = intent | {"status": "succeeded", "amount_received": taken, "amount_capturable": 0}
        kind = "payment_intent.succeeded"
        return self._moves(key, asked, moved, "captured", taken, kind, now)

    def cancel(self, key: str, asked: str, ref: str, now: int) -> Change:
        """Give free what was authorised. Raises Failure."""
        intent = self._in("requires_capture", ref, "canceled")
        moved = intent | {"status": "canceled", "amount_capturable": 0, "canceled_at": now}
        kind = "payment_intent.canceled"
        return self._moves(key, asked, moved, "canceled", intent["amount"], kind, now)

    def refund(
        self, key: str, asked: str, form: Form, now: int, *, pending: bool = False
    ) -> Change:
        """Give back of what was captured. Raises Failure."""
        intent = self._in("succeeded", form.get("payment_intent", ""), "refunded")
        given = sum(
            refund["amount"]
            for refund in self.refunds.get(intent["id"], [])
            if refund["status"] != "failed"
        )
        left = intent["amount_received"] - given
        amount = _amount(form, "amount") if "amount" in form else left
        if not 0 < amount <= left:
            raise Failure(
                400,
                "invalid_request_error",
                "charge_already_refunded",
                "The refund is greater than what is left of the charge.",
            )
        refund: Json = {
            "id": f"re_{secrets.token_hex(12)}",
            "object": "refund",
            "amount": amount,
            "currency": intent["currency"],
            "created": now,
            "metadata": _metadata(form),
            "payment_intent": intent["id"],
            "status": "pending" if pending else "succeeded",
        }
        entry = None if pending else _given(refund)
        event = _event("charge.refunded", refund, now)
        return self.takes(
            Change(
                key=key,
                asked=asked,
                status=200,
                reply=refund,
                refund=refund,
                entry=entry,
                event=event,
            )
        )

    def settle(self, refund_id: str, settled: Settled, now: int) -> Change:
        """Decide a pending refund. Raises Failure."""
        known = (one for kept in self.refunds.values() for one in kept if one["id"] == refund_id)
        refund = next(known, None)
        if refund is None or refund["status"] != "pending":
            raise Failure(404, "invalid_request_error", "resource_missing", "No such refund.")
        refund = refund | {"status": settled.status}
        return self.takes(
            Change(
                key="",
                asked="",
                status=200,
                reply=refund,
                refund=refund,
                entry=_given(refund) if settled.status == "succeeded" else None,
                event=_event("refund.updated", refund, now),
            )
        )

    def intent(self, ref: str) -> Json:
        """The intent. Raises Failure."""
        if ref not in self.intents:
            raise Failure(
                404, "invalid_request_error", "resource_missing", "No such payment_intent."
            )
        return self.intents[ref]

    def referenced(self, reference: str) -> list[Json]:
        """The intents whose metadata say so."""
        found = self.intents.values()
        return [one for one in found if one["metadata"].get("reference") == reference]

    def _in(self, status: str, ref: str, done: str) -> Json:
        intent = self.intent(ref)
        if intent["status"] != status:
            raise Failure(
                400,
                "invalid_request_error",
                "payment_intent_unexpected_state",
                f"This PaymentIntent could not be {done} because it is {intent['status']}.",
            )
        return intent

    def _moves(
        self,
        key: str,
        asked: str,
        intent: Json,
        op: Literal["authorised", "declined", "captured", "canceled"],
        amount: int,
        kind: str,
        now: int,
        *,
        status: int = 200,
        reply: Json | None = None,
    ) -> Change:
        entry = Entry(
            intent=intent["id"],
            reference=intent["metadata"].get("reference", ""),
            op=op,
            amount=amount,
            currency=intent["currency"],
        )
        return self.takes(
            Change(
                key=key,
                asked=asked,
                status=status,
                reply=reply or intent,
                intent=intent,
                entry=entry,
                event=_event(kind, intent, now),
            )
        )


def _given(refund: Json) -> Entry:
    return Entry(
        intent=refund["payment_intent"],
        reference=refund["metadata"].get("reference", ""),
        op="refunded",
        amount=refund["amount"],
        currency=refund["currency"],
    )


def _event(kind: str, thing: Json, now: int) -> Json:
    return {
        "id": f"evt_{secrets.token_hex(12)}",
        "object": "event",
        "type": kind,
        "created": now,
        "livemode": False,
        "data": {"object": thing},
    }


def _metadata(form: Form) -> dict[str, str]:
    return {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in form.items()
        if name.startswith("metadata[")
    }


def _amount(form: Form, name: str) -> int:
    try:
        amount: int = msgspec.convert(form.get(name, ""), Annotated[int, Meta(ge=1)], strict=False)
    except msgspec.ValidationError as error:
        raise Failure(
            400, "invalid_request_error", "parameter_invalid_integer", f"Invalid integer: {name}"
        ) from error
    return amount
