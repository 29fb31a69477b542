"""What an address must say in its country, and how its post writes it."""

import pytest
from msgspec import structs

from chassis.problems import Invalid
from checkout.postal import COUNTRIES, checked
from checkout.purchase import Address

HOME = Address(street="Domstraße 1", city="Köln", postcode="50667", country="DE")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"postcode": "5066"}, ("/postcode", "not-allowed")),
        ({"postcode": ""}, ("/postcode", "missing")),
        ({"country": "XX"}, ("/country", "not-allowed")),
        ({"country": "ZZ"}, ("/country", "not-allowed")),
        ({"country": "US", "postcode": "94043"}, ("/area", "missing")),
        ({"country": "US", "area": "Bavaria", "postcode": "94043"}, ("/area", "not-allowed")),
    ],
)
def test_an_address_is_one_that_its_country_has(
    changes: dict[str, str], fault: tuple[str, str]
) -> None:
    with pytest.raises(Invalid) as refused:
        checked(structs.replace(HOME, **changes))

    assert [fault] == [(wrong["pointer"], wrong["code"]) for wrong in refused.value.errors]


def test_a_postcode_and_a_state_are_written_as_their_country_does_and_a_city_as_typed() -> None:
    london = checked(structs.replace(HOME, country="GB", postcode="sw1a 1aa"))
    valley = checked(structs.replace(HOME, country="US", area="California", postcode="94043"))

    assert ("SW1A 1AA", "Köln") == (london.postcode, london.city)
    assert "CA" == valley.area


def test_every_country_that_is_offered_is_known() -> None:
    assert {"DE", "US", "GB", "IE", "JP"} <= set(COUNTRIES)
    assert set() == {country for country in COUNTRIES if "/country" in faults(country)}


def faults(country: str) -> set[str]:
    try:
        checked(structs.replace(HOME, country=country))
    except Invalid as refused:
        return {fault["pointer"] for fault in refused.errors}
    return set()
