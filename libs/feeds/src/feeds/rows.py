"""The words of a feed: what a row is once it is understood. No I/O here.

Errors, by what the sender can do:

    FeedError           code, for programs; the sentence is for people
    ├── UnknownFormat   choose one of the formats that exist
    ├── BadMapping      repair the mapping file
    ├── BadUpload       send a file, with another name or in another form
    ├── TooLarge        send less at once
    ├── KeyTaken        choose another key, or send the same again
    ├── NoSuchPlace     go on from a place that was answered
    └── NoSuchJob       ask for a job that exists
"""

from pathlib import Path
from typing import Literal

from msgspec import Struct


class File(Struct, frozen=True):
    """A file of a feed: the name its sender gave it, and where it lies."""

    name: str
    path: Path


class Variant(Struct, frozen=True):
    """One sellable form of a product."""

    sku: str
    options: dict[str, str] = {}
    barcode: str | None = None
    weight_g: int | None = None
    tax_class: str | None = None


class Product(Struct, frozen=True, kw_only=True):
    """A product as its feed describes it; `key` is its stable id there, formed as a SKU is."""

    key: str
    name: str
    description: str = ""
    brand: str | None = None
    categories: list[list[str]] = []  # each a path of names, from the root down
    attributes: dict[str, str] = {}
    images: list[str] = []  # http(s) URLs, or paths from the root of the site
    variants: list[Variant]


class Price(Struct, frozen=True):
    """What a SKU costs, in minor units; `list_minor` is the higher price it is compared with."""

    currency: str
    amount_minor: int
    list_minor: int | None = None


class Offer(Struct, frozen=True, kw_only=True):
    """How many units of a SKU there are (None: the feed does not say) and what they cost."""

    sku: str
    stock: int | None = None
    prices: list[Price] = []


class Row(Struct, frozen=True, kw_only=True):
    """One product of a feed, whole, with one offer for each of its variants."""

    source: str
    line: int
    product: Product
    offers: list[Offer]
    warnings: list[str] = []
    offset: int = 0  # bytes of the whole feed read up to here; for progress only


class Bad(Struct, frozen=True, kw_only=True):
    """A row that does not go in, and why. A warning was left out on its sender's own wish."""

    source: str
    line: int
    code: str
    reason: str
    severity: Literal["error", "warning"] = "error"
    offset: int = 0


class FeedError(Exception):
    """The feed as a whole cannot be taken."""

    code = "bad-feed"


class UnknownFormat(FeedError):
    """There is no reader for this format."""

    code = "unknown-format"


class BadMapping(FeedError):
    """The mapping file says something that cannot be followed."""

    code = "bad-mapping"


class BadUpload(FeedError):
    """Nothing usable was sent."""

    code = "bad-upload"


class TooLarge(FeedError):
    """More bytes than one job may bring."""

    code = "too-large"


class KeyTaken(FeedError):
    """Something else came under this key before."""

    code = "key-taken"


class NoSuchPlace(FeedError):
    """Nothing begins at this place."""

    code = "no-such-place"


class NoSuchJob(FeedError):
    """No job has this id."""

    code = "no-such-job"
