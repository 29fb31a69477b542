"""What a shopper says to turn a cart into an order: who, where to and how it is paid. No I/O."""

from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from checkout.quotes import Delivery
from checkout.rules import Country, Word
from shop_contracts.types import MAX_SAFE, Currency


class Address(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the goods go."""

    street: Annotated[str, Meta(min_length=1, max_length=200)]
    city: Annotated[str, Meta(min_length=1, max_length=100)]
    area: Annotated[str, Meta(max_length=100, description="a state or province")] = ""
    postcode: Annotated[str, Meta(max_length=20)] = ""
    country: Country


Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Entry(Address, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody's address."""

    name: Name


class Means(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the customer pays: the token that the payment provider gave the browser."""

    token: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]


class Purchase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a shopper says to turn a cart into an order.

    It goes to the country of its address, or else to `country`, or else to the shop's own; without
    a `shipping_method` in the cheapest way. A customer may name an address of the book by its id
    instead of writing it, and have one written into the book by `save_address`. The bill goes to
    the same address unless there is another for it.
    """

    email: Annotated[str, Meta(pattern=r"^[^@\s]{1,64}@[^@\s]{1,189}\Z")]
    name: Name | None = None
    address: Address | None = None
    country: Country | None = None
    shipping_method: Word | None = None
    currency: Currency | None = None
    quoted_total_minor: Annotated[int, Meta(ge=0, le=MAX_SAFE)] | None = None
    payment: Means
    # unset and not null: the fingerprint of a purchase without one is that of earlier releases
    reservation_id: UUID | UnsetType = UNSET
    address_id: UUID | UnsetType = UNSET
    save_address: bool | UnsetType = UNSET
    billing_address: Entry | UnsetType = UNSET
    billing_address_id: UUID | UnsetType = UNSET

    @property
    def delivery(self) -> Delivery:
        """Where it goes and how, as far as the shopper has said so."""
        country = self.address.country if self.address else self.country
        return Delivery(country=country, shipping_method=self.shipping_method)
