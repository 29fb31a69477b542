"""The events that catalog owns."""

from shop_contracts.events.catalog.category_changed_v1 import CategoryChangedV1 as CategoryChangedV1
from shop_contracts.events.catalog.category_changed_v2 import CategoryChangedV2 as CategoryChangedV2
from shop_contracts.events.catalog.image_resized_v1 import ImageResizedV1 as ImageResizedV1
from shop_contracts.events.catalog.product_published_v1 import (
    ProductPublishedV1 as ProductPublishedV1,
)
from shop_contracts.events.catalog.product_withdrawn_v1 import (
    ProductWithdrawnV1 as ProductWithdrawnV1,
)

EVENTS = (
    ProductPublishedV1,
    ProductWithdrawnV1,
    CategoryChangedV1,
    CategoryChangedV2,
    ImageResizedV1,
)
