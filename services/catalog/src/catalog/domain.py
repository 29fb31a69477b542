"""The words of a catalogue and its pure rules. No I/O here.

A product changes by `create`, `change` and `withdraw`; each adds one to its version and says what
happened as an event's data. A draft is what somebody wants a product to be.
"""

import ipaddress
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import msgspec
from anyascii import anyascii
from msgspec import Meta, Struct
from msgspec.structs import replace

from feeds import rows
from shop_contracts.events.catalog import CategoryChangedV2, ProductPublishedV1, ProductWithdrawnV1
from shop_contracts.events.catalog.category_changed_v2 import Step
from shop_contracts.events.catalog.product_published_v1 import Attribute, Category, Image, Variant
from shop_contracts.types import (
    Grams,
    LongText,
    Position,
    Sku,
    Slug,
    TaxClass,
    Text,
    Time,
    Url,
)

_IMPORTED = UUID("3d1f8f0a-7a4f-5c7e-9f0e-5f6a9d0c2b11")
_LONGEST_SLUG = 100

Path = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(min_length=1, max_length=10)
]


class VariantIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sellable form of the product."""

    sku: Sku
    options: Annotated[dict[Text, Text], Meta(max_length=20)] = {}
    barcode: Text | None = None
    weight_g: Grams | None = None
    tax_class: TaxClass | None = None


class AttributeIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named property of the product."""

    code: Text
    value: Text


class ImageIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A picture of the product, by its address."""

    url: Url
    alt: Annotated[str, Meta(max_length=500)] = ""


class Draft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a product shall be. Without a slug a new one gets one from its name."""

    name: Text
    slug: Slug | None = None
    description: LongText = ""
    brand: Text | None = None
    categories: Annotated[list[Path], Meta(max_length=100)] = []
    attributes: Annotated[list[AttributeIn], Meta(max_length=100)] = []
    variants: Annotated[list[VariantIn], Meta(min_length=1, max_length=500)]
    images: Annotated[list[ImageIn], Meta(max_length=100)] = []

    def __post_init__(self) -> None:
        if len(set(self.skus)) < len(self.variants):
            raise ValueError("two variants have one SKU")

    @property
    def skus(self) -> list[str]:
        """The SKUs it wants."""
        return [variant.sku for variant in self.variants]


class Product(Struct, frozen=True, kw_only=True):
    """A product as it is stored. `within` holds its categories and all above them."""

    id: UUID
    key: str | None = None
    slug: str
    name: str
    description: str = ""
    brand: str | None = None
    categories: list[Category] = []
    within: list[str] = []
    attributes: list[Attribute] = []
    variants: list[Variant] = []
    images: list[Image] = []
    version: int
    created: Time
    updated: Time
    withdrawn: bool = False

    @property
    def skus(self) -> list[str]:
        """The SKUs it may sell: none once it is withdrawn."""
        return [] if self.withdrawn else [variant.sku for variant in self.variants]


class CategoryNode(Struct, frozen=True, kw_only=True):
    """A category as it is stored; `path` holds the names from the root down to it."""

    slug: Slug
    name: Text
    path: list[Text]
    position: Position = 0
    version: int
    created: Time
    updated: Time


class Tree(Struct, frozen=True, kw_only=True):
    """A category and those below it."""

    slug: str
    name: str
    path: list[str]
    position: int
    children: list["Tree"] = []


def imported_id(key: str) -> UUID:
    """The id of the product that a feed calls `key`: the same in every import."""
    return uuid5(_IMPORTED, key)


def slugify(text: str) -> str:
    """The text as a part of an address; what has no letters gives "item"."""
    spelled = text.replace("&", " and ").replace("+", " plus ").replace("#", " sharp ")
    words = anyascii(spelled).replace("'", "").lower()
    return re.sub("[^a-z0-9]+", "-", words).strip("-")[:_LONGEST_SLUG].rstrip("-") or "item"


def distinct_slug(slug: str, product_id: UUID) -> str:
    """The slug of a product whose own is taken; the end of a UUIDv7 is its random part."""
    return f"{slug}-{product_id.hex[-8:]}"


def category_slug(path: Iterable[str]) -> str:
    """The slug of a category: two dashes between levels, so that two paths never meet in one."""
    slug = "--".join(slugify(name) for name in path)
    if len(slug) <= _LONGEST_SLUG:
        return slug
    return f"{slug[:_LONGEST_SLUG].rstrip('-')}-{uuid5(_IMPORTED, slug).hex[:8]}"


def above(path: list[str]) -> list[list[str]]:
    """The path and all that lead to it, from the root."""
    return [path[:depth] for depth in range(1, len(path) + 1)]


def new_category(path: list[str], now: datetime) -> CategoryNode:
    return CategoryNode(
        slug=category_slug(path), name=path[-1], path=path, version=1, created=now, updated=now
    )


def category_changed(node: CategoryNode) -> CategoryChangedV2:
    steps = [Step(slug=category_slug(path), name=path[-1]) for path in above(node.path)]
    return CategoryChangedV2(slug=node.slug, name=node.name, path=steps, position=node.position)


def tree(nodes: Iterable[CategoryNode]) -> list[Tree]:
    """The categories as trees, each level by position and name."""
    roots: list[Tree] = []
    made: dict[str, Tree] = {}
    for node in sorted(nodes, key=lambda each: (len(each.path), each.position, each.name)):
        one = Tree(
            slug=node.slug, name=node.name, path=node.path, position=node.position, children=[]
        )
        made[node.slug] = one
        parent = made.get(category_slug(node.path[:-1])) if len(node.path) > 1 else None
        (parent.children if parent else roots).append(one)
    return roots


def from_row(row: rows.Product) -> Draft:
    """What a feed's row asks for. Raises msgspec.ValidationError where it says too much."""
    return msgspec.convert(
        {
            "name": row.name,
            "description": row.description,
            "brand": row.brand,
            "categories": row.categories,
            "attributes": [
                {"code": code, "value": value} for code, value in row.attributes.items()
            ],
            "variants": msgspec.to_builtins(row.variants),
            "images": [{"url": url} for url in row.images],
        },
        Draft,
    )


def create(
    draft: Draft, *, product_id: UUID, slug: str, now: datetime, key: str | None = None
) -> Product:
    """The first version of a product."""
    return Product(
        id=product_id, key=key, slug=slug, version=1, created=now, updated=now, **_content(draft)
    )


def change(product: Product, draft: Draft, *, slug: str, now: datetime) -> Product:
    """The next version; a withdrawn product is on sale again with it."""
    return replace(
        product,
        slug=slug,
        version=product.version + 1,
        updated=now,
        withdrawn=False,
        **_content(draft),
    )


def withdraw(product: Product, now: datetime) -> Product:
    """The next version, off sale."""
    return replace(product, version=product.version + 1, updated=now, withdrawn=True)


def says(product: Product, draft: Draft) -> bool:
    """Whether the product is on sale and already all that the draft asks for."""
    content = _content(draft)
    return (
        not product.withdrawn
        and draft.slug in {None, product.slug}
        and all(getattr(product, name) == value for name, value in content.items())
    )


def published(product: Product) -> ProductPublishedV1:
    return ProductPublishedV1(
        product_id=product.id,
        slug=product.slug,
        name=product.name,
        description=product.description,
        brand=product.brand,
        categories=product.categories,
        attributes=product.attributes,
        variants=product.variants,
        images=product.images,
        published_at=product.updated,
    )


def product_withdrawn(product: Product) -> ProductWithdrawnV1:
    return ProductWithdrawnV1(
        product_id=product.id,
        slug=product.slug,
        skus=[variant.sku for variant in product.variants],
        withdrawn_at=product.updated,
    )


def hidden_images(draft: Draft) -> list[int]:
    """Which images stand where the public may not be sent: no http(s), or no public host."""
    return [n for n, image in enumerate(draft.images) if not _public(image.url)]


def _content(draft: Draft) -> dict[str, Any]:
    categories: dict[str, Category] = {}
    within: dict[str, None] = {}
    for path in draft.categories:
        slug = category_slug(path)
        categories.setdefault(slug, Category(slug=slug, path=path))
        within |= dict.fromkeys(category_slug(each) for each in above(path))
    return {
        "name": draft.name,
        "description": draft.description,
        "brand": draft.brand,
        "categories": list(categories.values()),
        "within": list(within),
        "attributes": [Attribute(code=it.code, value=it.value) for it in draft.attributes],
        "variants": [
            Variant(
                sku=it.sku,
                options=it.options,
                barcode=it.barcode,
                weight_g=it.weight_g,
                tax_class=it.tax_class,
            )
            for it in draft.variants
        ],
        "images": [Image(url=it.url, alt=it.alt) for it in draft.images],
    }


def _public(url: str) -> bool:
    """Whether anybody may be sent there: the address alone decides, nothing is resolved."""
    if url.startswith("/"):
        return not url.startswith(("//", "/\\"))
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or parts.username is not None or not host:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        # a last label of digits is an old spelling of an address: 127.1, 0x7f.1, 2130706433
        labels = host.rstrip(".").split(".")
        return (
            len(labels) > 1
            and not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1])
            and labels[-1] not in {"local", "localhost", "internal", "lan", "home", "arpa"}
        )
