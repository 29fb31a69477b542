"""How many may be told that units came back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stock import waves
from stock.waves import Seen


@pytest.mark.parametrize(
    ("seen", "version", "available", "untold"),
    [
        (Seen(), 1, 5, 5),  # out of nothing
        (Seen(version=1, available=5, untold=0), 2, 4, 0),  # one was sold
        (Seen(version=1, available=2, untold=0), 2, 5, 3),  # three more came
        (Seen(version=1, available=5, untold=5), 2, 1, 1),  # most are gone before anybody was told
        (Seen(version=1, available=5, untold=5), 2, 0, 0),
        (Seen(version=7, available=0, untold=0), 6, 9, 0),  # news from before
        (Seen(version=7, available=0, untold=0), 7, 9, 0),
    ],
)
def test_what_came_back_is_what_rose_and_is_still_there(
    seen: Seen, version: int, available: int, untold: int
) -> None:
    assert untold == waves.after(seen, version, available).untold


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60))))
def test_no_more_are_told_than_units_came_back(steps: list[tuple[int, int]]) -> None:
    seen = Seen()
    came_back = told = before = 0
    for version, (available, waiting) in enumerate(steps, 1):
        came_back += max(0, available - before)
        before = available
        seen = waves.after(seen, version, available)
        wave = min(seen.untold, waiting)
        seen = waves.told(seen, wave)
        told += wave

        assert 0 <= wave <= available
        assert told <= came_back


@given(st.permutations(range(1, 7)), st.lists(st.integers(0, 20), min_size=7, max_size=7))
def test_events_that_come_twice_or_late_are_no_news(order: list[int], levels: list[int]) -> None:
    seen = Seen()
    rises = sum(max(0, after - before) for before, after in zip([0, *levels], levels, strict=False))
    told = 0
    for version in [*order, *order]:
        seen = waves.after(seen, version, levels[version])
        told += seen.untold
        seen = waves.told(seen, seen.untold)

    assert told <= rises
