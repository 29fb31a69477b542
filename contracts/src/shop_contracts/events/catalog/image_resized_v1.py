"""The renditions of a product picture are ready."""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Url

Pixels = Annotated[int, Meta(ge=1, le=65_535)]
MediaType = Annotated[str, Meta(pattern=r"^image/[a-z0-9.+-]{1,63}\Z")]


class Rendition(Struct, frozen=True, kw_only=True):
    """The picture in one size and format."""

    url: Url
    width: Pixels
    height: Pixels
    media_type: MediaType


class ImageResizedV1(Fact, frozen=True, kw_only=True):
    """The renditions of a product picture are ready.

    `image_url` is the picture's address in `product.published`.
    """

    KEY: ClassVar[str] = "image.resized.v1"
    SUBJECT: ClassVar[str] = "product_id"

    product_id: Id
    image_url: Url
    renditions: list[Rendition]
