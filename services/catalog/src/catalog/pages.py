"""Pages and fragments of the catalogue, put together at the edge by ESI. Knows no driver.

Stock, price and cart are not in them: they are included, so that a page may be kept for an hour.
"""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from catalog import domain
from catalog.store import STORE
from chassis.http import get, page, query
from chassis.pages import templates
from chassis.problems import BadQuery, Gone, NotFound, Unavailable

HOUR = 3600
DAY = 24 * HOUR
PAGE_SIZE = 24
NEWEST = 12
LAST_PAGE = 10_000 // PAGE_SIZE
MOST_TAGS = 30
"""How many categories a page names in `xkey`; a product in more is purged by its own key."""


class Paging(Struct, frozen=True, kw_only=True):
    """Which page of a category."""

    page: Annotated[int, Meta(ge=1, le=LAST_PAGE)] = 1


async def home(request: web.Request) -> web.Response:
    """The categories and what is new."""
    store = request.app[STORE]
    products, total = await store.page(1, NEWEST)
    tree = domain.tree(await store.categories())
    html = PAGES.get_template("home.html").render(products=products, total=total, tree=tree)
    return page(html, headers=_cached(HOUR, ["home"]))


async def product(request: web.Request) -> web.Response:
    """One product with its variants; the offers come from stock."""
    one = await request.app[STORE].get(request.match_info["slug"])
    if one.slug != request.match_info["slug"]:
        raise web.HTTPMovedPermanently(f"/p/{one.slug}")
    html = PAGES.get_template("product.html").render(product=one)
    tags = [f"c-{slug}" for slug in one.within[:MOST_TAGS]]
    return page(html, headers=_cached(HOUR, [f"p-{one.id}", *tags]))


async def category(request: web.Request) -> web.Response:
    """The products of a category and of those below it."""
    number = query(request, Paging).page
    store = request.app[STORE]
    node = await store.category(request.match_info["slug"])
    products, total = await store.page(number, PAGE_SIZE, node.slug)
    last = max(1, min(LAST_PAGE, -(-total // PAGE_SIZE)))
    if number > last:
        raise NotFound
    above = [(path[-1], domain.category_slug(path)) for path in domain.above(node.path)]
    below = [each for each in await store.categories() if each.path[:-1] == node.path]
    html = PAGES.get_template("category.html").render(
        node=node, above=above, below=below, products=products, total=total, page=number, last=last
    )
    return page(html, headers=_cached(HOUR, [f"c-{node.slug}"]))


async def nav(request: web.Request) -> web.Response:
    """The menu of categories."""
    tree = domain.tree(await request.app[STORE].categories())
    html = PAGES.get_template("nav.html").render(tree=tree)
    return page(html, headers=_cached(DAY, ["nav"]))


async def jumbotron(request: web.Request) -> web.Response:
    """The banner of the home page: the newest product."""
    products, total = await request.app[STORE].page(1, 1)
    html = PAGES.get_template("jumbotron.html").render(products=products, total=total)
    return page(html, headers=_cached(DAY, ["home"]))


async def footer(_request: web.Request) -> web.Response:
    """The foot of every page."""
    return page(PAGES.get_template("footer.html").render(), headers=_cached(DAY, ["nav"]))


def _cached(seconds: int, keys: list[str]) -> dict[str, str]:
    """For the edge, which is told when something changes; browsers ask each time."""
    return {
        "Surrogate-Control": f'max-age={seconds}, content="ESI/1.0"',
        "Cache-Control": "public, max-age=0, must-revalidate",
        "xkey": " ".join(keys),
    }


PAGES = templates("catalog")

ROUTES = [
    get("/", home, summary="The home page", media="text/html", problems=(Unavailable,)),
    get(
        "/p/{slug}",
        product,
        summary="A product's page",
        media="text/html",
        problems=(NotFound, Gone, Unavailable),
    ),
    get(
        "/c/{slug}",
        category,
        summary="A category's page",
        query=Paging,
        media="text/html",
        problems=(NotFound, BadQuery, Unavailable),
    ),
    get(
        "/fragments/nav",
        nav,
        summary="The menu of categories",
        media="text/html",
        problems=(Unavailable,),
    ),
    get(
        "/fragments/jumbotron",
        jumbotron,
        summary="The banner of the home page",
        media="text/html",
        problems=(Unavailable,),
    ),
    get("/fragments/footer", footer, summary="The foot of every page", media="text/html"),
]
