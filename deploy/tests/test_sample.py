"""The sample catalogue is a feed like any other, and nothing in it is missing."""

from pathlib import Path

import shop
from feeds.formats import read
from feeds.rows import File, Row

SAMPLE = Path(shop.__file__).parent / "sample" / "catalogue.ndjson"
STATIC = Path(__file__).parents[2] / "edge" / "static"


def test_every_product_of_the_sample_goes_in_with_a_price_and_a_picture() -> None:
    rows = list(read([File(SAMPLE.name, SAMPLE)], "ndjson"))
    good = [each for each in rows if isinstance(each, Row)]

    assert (65, 65) == (len(rows), len(good))
    assert [] == [each.warnings for each in good if each.warnings]
    assert {"EUR"} == {price.currency for each in good for it in each.offers for price in it.prices}
    assert all(it.prices and it.stock is not None for each in good for it in each.offers)
    assert any(it.stock == 0 for each in good for it in each.offers)
    for image in {image for each in good for image in each.product.images}:
        assert (STATIC / image.removeprefix("/static/")).is_file()
