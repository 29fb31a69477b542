"""An address as a form asks for it, and what is wrong with one by field. Knows no page."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec
from babel import Locale
from msgspec import Struct

from chassis.http.reading import fault
from chassis.problems import Fault, Invalid
from checkout import postal

NAMES: Mapping[str, str] = Locale("en").territories
T = TypeVar("T", bound=Struct)


def countries(codes: Sequence[str]) -> list[tuple[str, str]]:
    """Name and code of the countries, by name; of all that are known where none is given."""
    return sorted((country_name(code), code) for code in codes or postal.COUNTRIES)


def country_name(code: str) -> str:
    """How the country is called."""
    return str(NAMES.get(code, code))


def converted(given: object, type_: type[T]) -> T:
    """What was typed, as what it is to be. Raises Invalid with the field that is wrong."""
    try:
        return msgspec.convert(given, type_)
    except msgspec.ValidationError as error:
        pointer = fault(str(error))["pointer"]
        said = "Please look at this again."
        raise Invalid(errors=[{"pointer": pointer, "code": "wrong", "detail": said}]) from error


def by_field(errors: Sequence[Fault]) -> dict[str, str]:
    """What is wrong with each field of a form; those of the bill begin with `billing_`."""
    named = {fault["pointer"].strip("/"): fault["detail"] for fault in errors}
    return {
        name.replace("billing_address/", "billing_").removeprefix("address/"): detail
        for name, detail in named.items()
    }
