"""What a shop charges beside its goods: taxes and shipping, from one TOML text. Knows no cart.

Without it there are no taxes and no shipping: what the goods cost is what is paid. A text that
contradicts itself is refused at start, with every fault named.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from shop_contracts.types import Count, Currency, Minor

Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}\Z", description="ISO 3166-1 alpha-2")]
Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]
Rate = Annotated[int, Meta(ge=0, le=10_000, description="hundredths of a percent: 1900 is 19 %")]
STANDARD = "standard"
"""The class of what says nothing else, or says something that the rules do not know."""
SAMPLE = "sample"
"""Says that the shop uses our example."""


class RulesError(ValueError):
    """The text makes no rules; `faults` holds one line for each thing to correct."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Tariff(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a parcel costs. No countries: all that are delivered to; no weight: however heavy."""

    countries: list[Country] = []
    up_to_g: Count | None = None
    price_minor: dict[Currency, Minor]
    free_from_minor: dict[Currency, Minor] = {}


class Method(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to send a parcel; of its tariffs the first that fits counts."""

    id: Word
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    tax_class: Word = STANDARD
    tariffs: Annotated[list[Tariff], Meta(min_length=1)]

    def tariff(self, country: str | None, weight_g: int, currency: str) -> Tariff | None:
        """The tariff for such a parcel, or None where this is no way to send it."""
        for tariff in self.tariffs:
            here = not tariff.countries or country in tariff.countries
            light = tariff.up_to_g is None or weight_g <= tariff.up_to_g
            if here and light and currency in tariff.price_minor:
                return tariff
        return None


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`prices` says whether the shop's prices contain their tax; `country` is the shop's own.

    `taxes` holds the rates by country and class, `untaxed` the countries that are delivered to
    without tax.
    """

    country: Country | None = None
    prices: Literal["gross", "net"] = "gross"
    taxes: dict[Country, dict[Word, Rate]] = {}
    untaxed: list[Country] = []
    shipping: list[Method] = []

    def serves(self, country: str | None) -> bool:
        """Whether anything can be sold to that country at all."""
        return not self.taxes or country in self.taxes or country in self.untaxed

    def countries(self) -> list[str]:
        """The countries that can be chosen from; none where any will do."""
        return sorted({*self.taxes, *self.untaxed})

    def taxed_as(self, country: str | None, tax_class: str | None) -> tuple[str, int]:
        """The class that counts for such goods there, and its rate."""
        rates: Mapping[str, int] = self.taxes.get(country or "", {})
        counts = tax_class if tax_class is not None and tax_class in rates else STANDARD
        return counts, rates.get(counts, 0)

    def faults(self) -> list[str]:
        """What contradicts itself, a line each."""
        known = {*self.taxes, *self.untaxed}
        wrong = [
            f"taxes.{country} has no rate '{STANDARD}'"
            for country, rates in self.taxes.items()
            if STANDARD not in rates
        ]
        wrong += [f"{c} is in taxes and in untaxed" for c in self.untaxed if c in self.taxes]
        if self.untaxed and not self.taxes:
            wrong.append("untaxed without taxes says nothing: leave it out")
        if (self.taxes or self.shipping) and self.country is None:
            wrong.append("country is missing: rules need the shop's own")
        if self.taxes and self.country is not None and self.country not in self.taxes:
            wrong.append(f"the shop's own country {self.country} is not in taxes")
        classes = {name for rates in self.taxes.values() for name in rates} | {STANDARD}
        ids = [method.id for method in self.shipping]
        wrong += [
            f"shipping '{id_}' is there twice" for id_ in sorted(set(ids)) if ids.count(id_) > 1
        ]
        for method in self.shipping:
            if method.tax_class not in classes:
                wrong.append(f"shipping '{method.id}': no country taxes '{method.tax_class}'")
            named = {country for tariff in method.tariffs for country in tariff.countries}
            wrong += [
                f"shipping '{method.id}' goes to {country}, which is in neither taxes nor untaxed"
                for country in sorted(named - known)
                if self.taxes
            ]
        return wrong


def parse(text: str) -> Rules:
    """The rules of that TOML text; of none, or `sample`, those without any and our own example.

    Raises RulesError.
    """
    if text == SAMPLE:
        text = (Path(__file__).parent / "sample_rules.toml").read_text("utf-8")
    try:
        rules = msgspec.convert(tomllib.loads(text), Rules)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RulesError([str(error)]) from error
    if faults := rules.faults():
        raise RulesError(faults)
    return rules
