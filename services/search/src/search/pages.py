"""The page of results: a form and links, no script needed. Knows no index and no query language."""

from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlencode

from aiohttp import web
from babel.numbers import get_currency_precision
from msgspec import Meta, Struct, to_builtins
from msgspec.structs import replace

from chassis.http import get, page, query
from chassis.pages import templates
from chassis.problems import BadQuery, Unavailable
from search.domain import WINDOW, Chosen, Counted, Found, Query, Sort
from search.store import STORE

PAGE_SIZE = 24

CACHED = {
    "Surrogate-Control": 'max-age=1, content="ESI/1.0"',
    "Cache-Control": "public, max-age=0, must-revalidate",
}

SORTS = {
    Sort.RELEVANCE: "Best match",
    Sort.PRICE_ASC: "Cheapest first",
    Sort.PRICE_DESC: "Dearest first",
    Sort.NAME: "Name",
    Sort.NEWEST: "Newest",
}

# what a browser sends of an empty field is an empty text
Amount = Annotated[str, Meta(pattern=r"^([0-9]{1,12}([.][0-9]{1,3})?)?\Z")]


class Form(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the page's form and links send: a search with amounts as people write them."""

    q: Annotated[str, Meta(max_length=256)] = ""
    category: Chosen = []
    brand: Chosen = []
    price_from: Amount = ""
    price_to: Amount = ""
    currency: Annotated[str, Meta(pattern=r"^([A-Z]{3})?\Z")] = ""
    in_stock: Literal["", "true", "false"] = ""
    sort: Sort = Sort.RELEVANCE
    page: Annotated[int, Meta(ge=1, le=WINDOW)] = 1

    def address(self) -> str:
        """The page's address for this search; the same search always has the same one."""
        sent = urlencode(to_builtins(self), doseq=True)
        return f"/s?{sent}" if sent else "/s"

    def search(self, currency: str) -> Query:
        """The search that the form means, in `currency`. Raises BadQuery."""
        try:
            return Query(
                q=self.q,
                category=self.category,
                brand=self.brand,
                price_min=_minor(self.price_from, currency),
                price_max=_minor(self.price_to, currency),
                currency=currency,
                in_stock=None if self.in_stock == "" else self.in_stock == "true",
                sort=self.sort,
                page=self.page,
                page_size=PAGE_SIZE,
            )
        except ValueError as error:
            raise BadQuery("The price range or the page is not one there can be.") from error


def _minor(amount: str, currency: str) -> int | None:
    return int(Decimal(amount).scaleb(get_currency_precision(currency))) if amount else None


class Link(Struct, frozen=True):
    """A value of a facet as a link that takes it in or out."""

    text: str
    count: int
    chosen: bool
    address: str


async def results(request: web.Request) -> web.Response:
    """The page of what was found, with its facets as links."""
    form = query(request, Form)
    store = request.app[STORE]
    found = await store.search(form.search(form.currency or store.currency))
    html = PAGES.get_template("results.html").render(form=form, found=found, **_links(form, found))
    return page(html, headers=CACHED)


def _links(form: Form, found: Found) -> dict[str, object]:
    """All that the template can lead to from here."""
    first = replace(form, page=1)
    last = max(1, -(-min(found.total, WINDOW // PAGE_SIZE * PAGE_SIZE) // PAGE_SIZE))
    return {
        "facets": {
            "Category": [
                _link(first, "category", form.category, value) for value in found.facets.categories
            ],
            "Brand": [_link(first, "brand", form.brand, value) for value in found.facets.brands],
            "Availability": [_stock_link(first, value) for value in found.facets.in_stock],
        },
        "sorts": [
            Link(text, 0, sort is form.sort, replace(first, sort=sort).address())
            for sort, text in SORTS.items()
        ],
        "last": last,
        "previous": replace(form, page=form.page - 1).address() if form.page > 1 else None,
        "next": replace(form, page=form.page + 1).address() if form.page < last else None,
    }


def _link(form: Form, name: str, chosen: list[str], value: Counted) -> Link:
    taken = value.value in chosen
    others = [one for one in chosen if one != value.value]
    values = others if taken else [*others, value.value]
    return Link(value.name, value.count, taken, replace(form, **{name: values}).address())


def _stock_link(form: Form, value: Counted) -> Link:
    taken = form.in_stock == value.value
    target = replace(form, in_stock="" if taken else value.value)
    return Link(value.name, value.count, taken, target.address())


PAGES = templates("search")

ROUTES = [
    get(
        "/s",
        results,
        summary="The page of results",
        query=Form,
        media="text/html",
        problems=(Unavailable,),
    ),
]
