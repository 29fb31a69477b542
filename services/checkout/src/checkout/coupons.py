"""The words of coupons, and when one can be used. Pure: no I/O, no clock of its own."""

import secrets
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from checkout.totals import WHOLE, Discount
from shop_contracts.types import MAX_SAFE, Currency, Minor, Time

Code = Annotated[str, Meta(pattern=r"^[A-Z0-9][A-Z0-9-]{3,31}\Z")]
Limit = Annotated[int, Meta(ge=1, le=1_000_000_000)]
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""What people do not take for one another."""
GROUPS, GROUP = 4, 4


class Why(StrEnum):
    """Why a coupon cannot be used."""

    UNKNOWN = "unknown"
    DISABLED = "disabled"
    NOT_YET = "not_yet"
    EXPIRED = "expired"
    USED_UP = "used_up"
    USED_BY_CUSTOMER = "used_by_customer"
    BELOW_MINIMUM = "below_minimum"
    OTHER_CURRENCY = "other_currency"


class CouponTerms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a coupon is worth, when, and how often. They never change.

    `value` is hundredths of a percent, or minor units of `currency`, or nothing. Goods of at least
    `min_minor` are wanted, before the discount. A code that nobody gives is made, and not to guess.
    """

    code: Code | None = None
    kind: Literal["percent", "amount", "free_shipping"]
    value: Annotated[int, Meta(ge=0, le=MAX_SAFE)] = 0
    currency: Currency | None = None
    min_minor: Minor = 0
    starts_at: Time | None = None
    ends_at: Time | None = None
    limit_total: Limit | None = None
    limit_per_customer: Limit | None = None

    def __post_init__(self) -> None:
        if self.kind == "percent" and not 1 <= self.value <= WHOLE:
            raise ValueError("a percentage is 1 to 10000 hundredths of a percent")
        if self.kind == "amount" and self.value < 1:
            raise ValueError("an amount takes something off")
        if self.kind == "free_shipping" and self.value:
            raise ValueError("free shipping has no value")
        if self.currency is None and (self.kind == "amount" or self.min_minor):
            raise ValueError("an amount needs its currency")
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            raise ValueError("it ends after it starts")


class Coupon(Struct, frozen=True, kw_only=True):
    """A coupon with its terms, how many orders use it, and whether it still works."""

    code: str
    kind: Literal["percent", "amount", "free_shipping"]
    value: int
    currency: str | None
    min_minor: int
    starts_at: datetime | None
    ends_at: datetime | None
    limit_total: int | None
    limit_per_customer: int | None
    disabled: bool
    used: int

    @property
    def discount(self) -> Discount:
        """What it takes off."""
        return Discount(code=self.code, kind=self.kind, value=self.value)

    def refusal(
        self, now: datetime, *, currency: str, goods_minor: int, by_customer: int = 0
    ) -> Why | None:
        """Why it cannot be used for such goods, by a customer whose orders use it so often."""
        reasons = (
            (self.disabled, Why.DISABLED),
            (self.starts_at is not None and now < self.starts_at, Why.NOT_YET),
            (self.ends_at is not None and now >= self.ends_at, Why.EXPIRED),
            (self.limit_total is not None and self.used >= self.limit_total, Why.USED_UP),
            (self.currency not in {None, currency}, Why.OTHER_CURRENCY),
            (goods_minor < self.min_minor, Why.BELOW_MINIMUM),
            (
                self.limit_per_customer is not None and by_customer >= self.limit_per_customer,
                Why.USED_BY_CUSTOMER,
            ),
        )
        return next((why for holds, why in reasons if holds), None)


class CartCoupon(Struct, frozen=True, kw_only=True):
    """The coupon of a cart; `refused` says why it takes nothing off just now."""

    code: str
    refused: Why | None = None


def new_code() -> str:
    """80 random bits that people can read to one another."""
    text = "".join(secrets.choice(ALPHABET) for _ in range(GROUPS * GROUP))
    return "-".join(text[at : at + GROUP] for at in range(0, len(text), GROUP))


def spelled(text: str) -> str:
    """A code as it is kept, however somebody typed it."""
    return text.strip().upper()
