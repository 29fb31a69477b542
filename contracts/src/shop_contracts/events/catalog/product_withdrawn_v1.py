"""A product is taken down."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Sku, Slug, Time


class ProductWithdrawnV1(Fact, frozen=True, kw_only=True):
    """A product is taken down."""

    KEY: ClassVar[str] = "product.withdrawn.v1"
    SUBJECT: ClassVar[str] = "product_id"

    product_id: Id
    slug: Slug
    skus: list[Sku]
    withdrawn_at: Time
