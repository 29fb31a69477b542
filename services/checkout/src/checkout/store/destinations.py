"""Where an order and its bill go: written addresses checked, those of the book by their ids.

Knows no order and no price.
"""

from uuid import UUID

from msgspec import UNSET, UnsetType, structs

from chassis.problems import Fault, Invalid
from checkout import postal
from checkout.purchase import Address, Entry, Purchase
from checkout.store.customers import Customers


async def settled(purchase: Purchase, customer: UUID | None, book: Customers) -> Purchase:
    """The purchase with both addresses in full and without ids.

    `billing_address` is left out where it is the address of the goods. Raises Invalid, with
    pointers into the purchase.
    """
    if faults := list(_contradictions(purchase, customer)):
        raise Invalid(errors=faults)
    address, name = purchase.address, purchase.name
    if isinstance(purchase.address_id, UUID):
        saved = await _saved(purchase.address_id, "/address_id", customer, book)
        address, name = _place(saved), name or saved.name
    elif address is not None:
        address = postal.checked(address, "/address")
    billing = purchase.billing_address
    if isinstance(purchase.billing_address_id, UUID):
        billing = await _saved(purchase.billing_address_id, "/billing_address_id", customer, book)
    elif not isinstance(billing, UnsetType):
        billing = postal.checked(billing, "/billing_address")
    if billing and address and _place(billing) == address and billing.name == name:
        billing = UNSET
    return structs.replace(
        purchase,
        name=name,
        address=address,
        address_id=UNSET,
        billing_address=_entry(_place(billing), billing.name) if billing else UNSET,
        billing_address_id=UNSET,
    )


def to_keep(purchase: Purchase) -> Entry | None:
    """The address of a settled purchase that its customer wants in the book."""
    if purchase.save_address is True and purchase.address and purchase.name:
        return _entry(purchase.address, purchase.name)
    return None


def _contradictions(purchase: Purchase, customer: UUID | None) -> list[Fault]:
    found = []
    if purchase.address is not None and purchase.address_id:
        found.append(_fault("/address_id", "not-allowed", "Name an address or write it."))
    if purchase.billing_address and purchase.billing_address_id:
        found.append(_fault("/billing_address_id", "not-allowed", "Name an address or write it."))
    if purchase.save_address is True:
        if customer is None:
            found.append(_fault("/save_address", "not-allowed", "Sign in to have a book."))
        if purchase.address is None:
            found.append(_fault("/address", "missing", "There is none to save."))
        elif purchase.name is None:
            found.append(_fault("/name", "missing", "A saved address has a name."))
    return found


async def _saved(id_: UUID, at: str, customer: UUID | None, book: Customers) -> Entry:
    found = await book.address(customer, id_) if customer else None
    if found is None:
        raise Invalid(errors=[_fault(at, "unknown", "Your book has no such address.")])
    return found


def _place(entry: Entry) -> Address:
    return Address(
        street=entry.street,
        city=entry.city,
        area=entry.area,
        postcode=entry.postcode,
        country=entry.country,
    )


def _entry(place: Address, name: str) -> Entry:
    return Entry(name=name, **structs.asdict(place))


def _fault(pointer: str, code: str, detail: str) -> Fault:
    return {"pointer": pointer, "code": code, "detail": detail}
