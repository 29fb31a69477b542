"""Templates of pages and fragments. Knows the shop's frame, not what goes into it."""

from decimal import Decimal

import jinja2
from babel.numbers import format_currency, get_currency_precision


def templates(package: str) -> jinja2.Environment:
    """The templates of `package`, which may extend the shop's `base.html`; autoescaped.

    `{{ 1999 | money("EUR") }}` shows integer minor units of a currency as people write them.
    An undefined name is an error, not an empty text.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package), jinja2.PackageLoader("chassis")]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["money"] = money
    return environment


def money(minor: int, currency: str, locale: str = "en") -> str:
    """Integer minor units as text: 1999 EUR is €19.99, 1999 JPY is ¥1,999."""
    amount = Decimal(minor).scaleb(-get_currency_precision(currency))
    return str(format_currency(amount, currency, locale=locale))
