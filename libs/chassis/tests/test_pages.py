"""Pages share one frame and show money as people write it."""

import jinja2
import pytest

from chassis import pages


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (1999, "EUR", "€19.99"),
        (0, "USD", "$0.00"),
        (1999, "JPY", "¥1,999"),
        (1999, "KWD", "KWD1.999"),
        (9007199254740992, "EUR", "€90,071,992,547,409.92"),
        (-5, "EUR", "-€0.05"),
    ],
)
def test_minor_units_are_shown_with_the_digits_of_their_currency(
    minor: int, currency: str, text: str
) -> None:
    assert text == pages.money(minor, currency)


def test_a_page_stands_in_the_frame_and_escapes_what_it_shows() -> None:
    html = (
        pages.templates("chassis")
        .from_string(
            '{% extends "base.html" %}{% block title %}{{ name }}{% endblock %}'
            "{% block content %}<h1>{{ name }}</h1>{{ price | money('EUR') }}{% endblock %}"
        )
        .render(name="<script>", price=1)
    )

    assert "<h1>&lt;script&gt;</h1>€0.01" in html
    assert "<title>&lt;script&gt; · Shopstream</title>" in html
    assert '<esi:include src="/fragments/nav"/>' in html
    assert 'action="/s"' in html
    assert "<script>" not in html


def test_a_name_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        pages.templates("chassis").from_string("{{ nothing }}").render()
