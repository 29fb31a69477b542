"""Who sells, from one text: what the law wants on every invoice. Knows no order.

A text that says nothing of use is refused at start.
"""

import tomllib
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

Language: TypeAlias = Literal["de", "en"]
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]

SAMPLE = "sample"
"""Names our own example, a seller who does not exist."""


class SellerError(Exception):
    """The text says nothing of a seller that an invoice could be written for."""


class Seller(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who sells, as the law wants it on every invoice.

    `time_zone` is where the day of an invoice begins; `language` that of buyers whose country has
    none of the two. `terms` stands below each invoice, `untaxed` instead of taxes where none are.
    """

    name: Text
    address: Annotated[list[Text], Meta(min_length=1, max_length=6)]
    language: Language = "en"
    time_zone: str = "UTC"
    email: str = ""
    phone: str = ""
    website: str = ""
    vat_id: str = ""
    tax_number: str = ""
    register: str = ""
    managers: str = ""
    bank: str = ""
    iban: str = ""
    bic: str = ""
    terms: dict[Language, Text] = {}
    untaxed: dict[Language, Text] = {}

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.time_zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {self.time_zone!r}") from error


def parse(text: str) -> Seller | None:
    """The seller of that TOML text; of none, nobody; of `sample`, our own example.

    Raises SellerError.
    """
    if not text.strip():
        return None
    if text == SAMPLE:
        text = (Path(__file__).parent / "sample_seller.toml").read_text("utf-8")
    try:
        return msgspec.convert(tomllib.loads(text), Seller)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SellerError(str(error)) from error


def day(at: datetime, seller: Seller) -> date:
    """The day that it is where the seller is."""
    return at.astimezone(ZoneInfo(seller.time_zone)).date()
