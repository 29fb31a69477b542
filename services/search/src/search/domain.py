"""The words of searching, and the rules by which events become what is found. No I/O here.

The projection rests on two joins, `join_offers` and `join_products`. Each is commutative,
associative and idempotent, so events may come in any order and any number of times.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import ProductPublishedV1, ProductWithdrawnV1
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1
from shop_contracts.events.stock.price_changed_v1 import Price
from shop_contracts.types import Currency, Minor

WINDOW = 10_000
"""How many hits can be reached by paging."""


class Offer(Struct, frozen=True, kw_only=True):
    """What stock says of one SKU, and the ids of all products that ever listed it.

    A version of 0 means that its source has not said anything yet.
    """

    sku: str
    products: list[str] = []
    stock_version: int = 0
    available: int = 0
    price_version: int = 0
    price: dict[str, int] = {}
    was: dict[str, int] = {}


class Variant(Struct, frozen=True, kw_only=True):
    """One sellable form of a product, with the newest that is known of its stock and price."""

    sku: str
    sku_normalised: str
    options: dict[str, str] = {}
    stock_version: int = 0
    available: int = 0
    in_stock: bool = False
    price_version: int = 0
    price: dict[str, int] = {}
    was: dict[str, int] = {}


class Category(Struct, frozen=True, kw_only=True):
    """A category of a product; `facet` holds slug and name in one term, so that both count."""

    slug: str
    path: list[str]
    facet: str


class Attribute(Struct, frozen=True, kw_only=True):
    """A named property of a product."""

    code: str
    value: str


class Image(Struct, frozen=True, kw_only=True):
    """The picture that stands for a product."""

    url: str
    alt: str = ""


class Product(Struct, frozen=True, kw_only=True):
    """One document of the read model; a withdrawn product stays as a tombstone."""

    product_id: str
    catalog_version: int
    withdrawn: bool
    slug: str
    name: str | None = None
    name_sort: str | None = None
    description: str = ""
    brand: str | None = None
    categories: list[Category] = []
    attributes: list[Attribute] = []
    image: Image | None = None
    published_at: datetime | None = None
    variants: list[Variant] = []


class Contents(Struct, frozen=True, kw_only=True):
    """A whole read model: offers by SKU, products by id."""

    offers: dict[str, Offer]
    products: dict[str, Product]

    @property
    def checksum(self) -> str:
        """The same for the same documents."""
        return sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def without(self, known: "Contents") -> "Contents":
        """Those documents that say something `known` does not."""
        offers = {
            sku: offer
            for sku, offer in self.offers.items()
            if sku not in known.offers or join_offers(known.offers[sku], offer) != known.offers[sku]
        }
        products = {
            id_: product
            for id_, product in self.products.items()
            if id_ not in known.products
            or known.products[id_].catalog_version < product.catalog_version
        }
        return Contents(offers=offers, products=products)


def normalised(sku: str) -> str:
    """The SKU without what people leave out when they type it: case, hyphens, dots, blanks."""
    return "".join(character for character in sku.casefold() if character.isalnum())


def offers_in(event: Event[Fact]) -> list[Offer]:
    """All that the event says of single SKUs."""
    data, version = event.data, event.meta.entityversion
    if isinstance(data, StockChangedV1):
        return [Offer(sku=data.sku, stock_version=version, available=data.available)]
    if isinstance(data, PriceChangedV1):
        price, was = _everybodys_prices(data)
        return [Offer(sku=data.sku, price_version=version, price=price, was=was)]
    if isinstance(data, ProductPublishedV1):
        claim = [str(data.product_id)]
        return [Offer(sku=variant.sku, products=claim) for variant in data.variants]
    return []


def _everybodys_prices(data: PriceChangedV1) -> tuple[dict[str, int], dict[str, int]]:
    """By currency: the lowest price for one unit, and what it was before it was lowered."""
    lowest: dict[str, Price] = {}
    for entry in data.prices:
        if entry.group is None and entry.min_qty == 1:
            known = lowest.setdefault(entry.currency, entry)
            if entry.amount_minor < known.amount_minor:
                lowest[entry.currency] = entry
    price = {currency: entry.amount_minor for currency, entry in lowest.items()}
    was = {
        currency: entry.list_minor
        for currency, entry in lowest.items()
        if entry.list_minor is not None and entry.list_minor > entry.amount_minor
    }
    return price, was


def join_offers(one: Offer, other: Offer) -> Offer:
    """What both know of the same SKU: the newer stock, the newer price, all products."""
    stock = one if one.stock_version >= other.stock_version else other
    price = one if one.price_version >= other.price_version else other
    return Offer(
        sku=one.sku,
        products=sorted({*one.products, *other.products}),
        stock_version=stock.stock_version,
        available=stock.available,
        price_version=price.price_version,
        price=price.price,
        was=price.was,
    )


def product_in(event: Event[Fact]) -> Product | None:
    """The product as the event tells it, or None when it tells of none."""
    data, version = event.data, event.meta.entityversion
    if isinstance(data, ProductWithdrawnV1):
        return Product(
            product_id=str(data.product_id),
            catalog_version=version,
            withdrawn=True,
            slug=data.slug,
        )
    if isinstance(data, ProductPublishedV1):
        return _published(data, version)
    return None


def _published(data: ProductPublishedV1, version: int) -> Product:
    return Product(
        product_id=str(data.product_id),
        catalog_version=version,
        withdrawn=False,
        slug=data.slug,
        name=data.name,
        name_sort=data.name.casefold(),
        description=data.description,
        brand=data.brand,
        categories=[
            Category(
                slug=category.slug,
                path=category.path,
                facet=facet_term(category.slug, category.path[-1] if category.path else ""),
            )
            for category in data.categories
        ],
        attributes=[
            Attribute(code=attribute.code, value=attribute.value) for attribute in data.attributes
        ],
        image=Image(url=data.images[0].url, alt=data.images[0].alt) if data.images else None,
        published_at=data.published_at,
        variants=[
            Variant(
                sku=variant.sku,
                sku_normalised=normalised(variant.sku),
                options=variant.options,
            )
            for variant in data.variants
        ],
    )


def join_products(one: Product, other: Product) -> Product:
    """The newer of two bodies."""
    return one if one.catalog_version >= other.catalog_version else other


def with_offers(product: Product, offers: Mapping[str, Offer]) -> Product:
    """The product with what `offers` (by SKU) know newer of its variants."""
    variants = [_newest(variant, offers.get(variant.sku)) for variant in product.variants]
    return replace(product, variants=variants)


def _newest(variant: Variant, offer: Offer | None) -> Variant:
    if offer is None:
        return variant
    if offer.stock_version > variant.stock_version:
        variant = replace(
            variant,
            stock_version=offer.stock_version,
            available=offer.available,
            in_stock=offer.available > 0,
        )
    if offer.price_version > variant.price_version:
        variant = replace(
            variant, price_version=offer.price_version, price=offer.price, was=offer.was
        )
    return variant


_BETWEEN = "\x1f"  # the ASCII unit separator: no slug holds it


def facet_term(slug: str, name: str) -> str:
    """Slug and name as one term."""
    return f"{slug}{_BETWEEN}{name}"


def facet_values(counts: Iterable[tuple[str, int]], chosen: Mapping[str, int]) -> "list[Counted]":
    """The values behind terms made by `facet_term`, most products first.

    A category that was renamed while its products are re-published counts under two names; it is
    one value here. A chosen value is there even when nothing is left of it.
    """
    names: dict[str, str] = {}
    totals: dict[str, int] = {}
    for term, count in counts:
        slug, _, name = term.partition(_BETWEEN)
        names.setdefault(slug, name or slug)
        totals[slug] = totals.get(slug, 0) + count
    totals |= chosen
    return [
        Counted(value=slug, name=names.get(slug, slug), count=count)
        for slug, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    ]


class Sort(StrEnum):
    """Orders of the hits; equal hits are ordered by product id."""

    RELEVANCE = "relevance"
    PRICE_ASC = "price_asc"
    PRICE_DESC = "price_desc"
    NAME = "name"
    NEWEST = "newest"


Chosen = Annotated[list[Annotated[str, Meta(min_length=1, max_length=500)]], Meta(max_length=50)]


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a shopper looks for. Values of one filter are alternatives; filters hold together."""

    q: Annotated[str, Meta(max_length=256, description="words, all of which must be found")] = ""
    scope: Annotated[
        Literal["name"] | None, Meta(description="where the words must stand; default everywhere")
    ] = field(name="in", default=None)
    category: Annotated[Chosen, Meta(description="slugs")] = []
    brand: Chosen = []
    price_min: Annotated[Minor | None, Meta(description="minor units")] = None
    price_max: Annotated[Minor | None, Meta(description="minor units")] = None
    currency: Annotated[Currency | None, Meta(description="default: the shop's own")] = None
    in_stock: bool | None = None
    sort: Sort = Sort.RELEVANCE
    page: Annotated[int, Meta(ge=1, le=WINDOW)] = 1
    page_size: Annotated[int, Meta(ge=1, le=100)] = 24

    def __post_init__(self) -> None:
        if self.page * self.page_size > WINDOW:
            raise ValueError(f"page x page_size goes beyond {WINDOW}")
        if (self.price_max is not None) and (self.price_min or 0) > self.price_max:
            raise ValueError("price_min is above price_max")

    def accepts(self, variant: Variant, currency: str) -> bool:
        """Whether stock and price of this variant, taken together, pass the filters."""
        if self.in_stock is not None and variant.in_stock is not self.in_stock:
            return False
        if self.price_min is None and self.price_max is None:
            return True
        price = variant.price.get(currency)
        return (
            price is not None
            and (self.price_min is None or price >= self.price_min)
            and (self.price_max is None or price <= self.price_max)
        )


class Hit(Struct, frozen=True, kw_only=True):
    """A product that was found; price and stock are those of its variants that pass the filters."""

    product_id: UUID
    slug: str
    name: str
    brand: str | None
    image: Image | None
    price: Annotated[int | None, Meta(description="the lowest, in minor units")]
    was: Annotated[int | None, Meta(description="what that one was before it was lowered")] = None
    currency: Currency
    in_stock: bool
    skus: list[str]


def hit(product: Product, query: Query, currency: str) -> Hit:
    """The product as `query` finds it."""
    accepted = [variant for variant in product.variants if query.accepts(variant, currency)]
    cheapest = min(
        (variant for variant in accepted if currency in variant.price),
        key=lambda variant: variant.price[currency],
        default=None,
    )
    return Hit(
        product_id=UUID(product.product_id),
        slug=product.slug,
        name=product.name or "",
        brand=product.brand,
        image=product.image,
        price=cheapest.price[currency] if cheapest else None,
        was=cheapest.was.get(currency) if cheapest else None,
        currency=currency,
        in_stock=any(variant.in_stock for variant in accepted),
        skus=[variant.sku for variant in accepted],
    )


class Counted(Struct, frozen=True, kw_only=True):
    """A value of a filter, and how many products the search would have with it."""

    value: str
    name: str
    count: int


class Facets(Struct, frozen=True, kw_only=True):
    """Each filter's values, counted under all the other filters but not under itself."""

    categories: list[Counted]
    brands: list[Counted]
    in_stock: list[Counted]


class Prices(Struct, frozen=True, kw_only=True):
    """The prices, in minor units, of all variants that pass the filters; None without any."""

    min: int | None
    max: int | None
    avg: float | None
    count: int


class Found(Struct, frozen=True, kw_only=True):
    """One page of what was found, and what is known of the whole."""

    total: int
    page: int
    page_size: int
    currency: Currency
    hits: list[Hit]
    facets: Facets
    price: Prices
