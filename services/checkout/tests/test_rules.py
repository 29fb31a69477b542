"""The file of taxes and shipping: what it says, and every way in which it contradicts itself."""

from pathlib import Path

import pytest

from checkout.rules import Rules, RulesError, load

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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def test_without_a_file_there_are_no_taxes_and_no_shipping() -> None:
    assert Rules() == load(None)
    assert load(None).serves("US")


def test_a_file_says_where_the_shop_sells_and_at_which_rates(file: Path) -> None:
    file.write_text(GOOD)

    rules = load(file)

    assert ["DE", "NO"] == rules.countries()
    assert [True, True, False] == [rules.serves(country) for country in ("DE", "NO", "US")]
    assert ("standard", 1_900) == rules.taxed_as("DE", "unheard-of")
    assert ("standard", 0) == rules.taxed_as("NO", None)


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
def test_a_file_that_contradicts_itself_is_refused_with_the_fault(
    file: Path, was: str, instead: str, says: str
) -> None:
    file.write_text(GOOD.replace(was, instead))

    with pytest.raises(RulesError) as refused:
        load(file)

    assert says in str(refused.value)
    assert str(file) in str(refused.value)


def test_all_faults_are_named_at_once(file: Path) -> None:
    file.write_text(GOOD.replace("standard = 1900", "reduced = 700").replace('["NO"]', "[]"))

    with pytest.raises(RulesError) as refused:
        load(file)

    assert 2 == len(refused.value.faults)


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(RulesError, match="cannot be read"):
        load(file)
