"""A product is created or changed; carries the whole public product."""

from typing import ClassVar

from msgspec import Struct

from shop_contracts.events.base import Fact
from shop_contracts.types import (
    Caption,
    Grams,
    Id,
    LongText,
    Sku,
    Slug,
    TaxClass,
    Text,
    Time,
    Url,
)


class Variant(Struct, frozen=True, kw_only=True):
    """One sellable form of the product; shops say what their tax classes mean."""

    sku: Sku
    options: dict[Text, Text] = {}
    barcode: Text | None = None
    weight_g: Grams | None = None
    tax_class: TaxClass | None = None


class Category(Struct, frozen=True, kw_only=True):
    """A category the product stands in; `path` holds the names from the root down to it."""

    slug: Slug
    path: list[Text]


class Attribute(Struct, frozen=True, kw_only=True):
    """A named property of the product."""

    code: Text
    value: Text


class Image(Struct, frozen=True, kw_only=True):
    """A picture of the product."""

    url: Url
    alt: Caption = ""


class ProductPublishedV1(Fact, frozen=True, kw_only=True):
    """A product is created or changed; carries the whole public product."""

    KEY: ClassVar[str] = "product.published.v1"
    SUBJECT: ClassVar[str] = "product_id"
    MINOR: ClassVar[int] = 1

    product_id: Id
    slug: Slug
    name: Text
    description: LongText = ""
    brand: Text | None = None
    categories: list[Category] = []
    attributes: list[Attribute] = []
    variants: list[Variant]
    images: list[Image] = []
    published_at: Time
