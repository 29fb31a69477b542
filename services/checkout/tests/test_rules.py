"""The text of taxes and shipping: what it says, and every way in which it contradicts itself."""

import pytest

from chassis.settings import SettingsError, load
from checkout.rules import SAMPLE, Rules, RulesError, parse
from checkout.settings import PREFIX, Settings

GOOD = """
country = "DE"
untaxed = ["NO"]
[taxes.DE]
standard = 1900
[[shipping]]
id = "post"
name = "Post"
tariffs = [{ countries = ["DE", "NO"], up_to_g = 2000, price_minor = { EUR = 490 } }]
"""


def test_without_a_text_there_are_no_taxes_and_no_shipping() -> None:
    assert Rules() == parse("")
    assert parse("").serves("US")


def test_a_text_says_where_the_shop_sells_and_at_which_rates() -> None:
    rules = parse(GOOD)

    assert ["DE", "NO"] == rules.countries()
    assert [True, True, False] == [rules.serves(country) for country in ("DE", "NO", "US")]
    assert ("standard", 1_900) == rules.taxed_as("DE", "unheard-of")
    assert ("standard", 0) == rules.taxed_as("NO", None)


def test_the_sample_sells_to_the_whole_union_and_its_neighbours() -> None:
    rules = parse(SAMPLE)

    assert {"DE", "AT", "CH", "FR", "IE", "GR"} <= set(rules.countries())
    assert ("reduced", 260) == rules.taxed_as("CH", "reduced")
    for country in rules.countries():
        assert any(method.tariff(country, 500, "EUR") for method in rules.shipping)


@pytest.mark.parametrize(
    ("was", "instead", "says"),
    [
        ('country = "DE"', "", "country is missing"),
        ('country = "DE"', 'country = "AT"', "AT is not in taxes"),
        ("standard = 1900", "reduced = 700", "taxes.DE has no rate 'standard'"),
        ("standard = 1900", "standard = 19.5", "$.taxes"),
        ("standard = 1900", "standard = 10001", "$.taxes"),
        ('untaxed = ["NO"]', 'untaxed = ["NO", "DE"]', "in taxes and in untaxed"),
        ('untaxed = ["NO"]', "", "goes to NO, which is in neither"),
        ('id = "post"', 'id = "Post!"', "$.shipping"),
        ('id = "post"', 'id = "post"\ntax_class = "books"', "no country taxes 'books'"),
        ("up_to_g", "upto_g", "unknown field"),
        ("[[shipping]]", "[[shipping", "line"),
    ],
)
def test_a_text_that_contradicts_itself_is_refused_with_the_fault(
    was: str, instead: str, says: str
) -> None:
    with pytest.raises(RulesError) as refused:
        parse(GOOD.replace(was, instead))

    assert says in str(refused.value)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(RulesError) as refused:
        parse(GOOD.replace("standard = 1900", "reduced = 700").replace('["NO"]', "[]"))

    assert 2 == len(refused.value.faults)


def test_a_service_with_wrong_rules_does_not_start() -> None:
    given = {"CHECKOUT_REDIS_URL": "redis://127.0.0.1", "CHECKOUT_PROFILE": "dev"}
    with pytest.raises(SettingsError, match="CHECKOUT_RULES: country is missing"):
        load(Settings, PREFIX, given | {"CHECKOUT_RULES": "[taxes.DE]\nstandard = 1900"})
