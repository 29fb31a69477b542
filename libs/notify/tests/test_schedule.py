"""When deliveries are tried again."""

from datetime import timedelta

from notify import schedule


def test_a_delivery_is_tried_ten_times_within_24_hours() -> None:
    for _ in range(100):
        waits = [schedule.wait(tries) for tries in range(1, schedule.TRIES)]
        total = sum((wait for wait in waits if wait is not None), timedelta())

        assert None not in waits
        assert timedelta(hours=18) < total <= timedelta(hours=24)
        assert schedule.wait(schedule.TRIES) is None
    assert 10 == schedule.TRIES


def test_those_who_failed_together_do_not_come_back_together() -> None:
    assert 1 < len({schedule.wait(3) for _ in range(20)})


def test_a_receiver_may_ask_for_more_time_but_not_for_ever() -> None:
    first, asked = schedule.wait(1), schedule.wait(1, asked=120)

    assert first is not None
    assert first <= timedelta(seconds=5)
    assert timedelta(seconds=120) == asked
    assert timedelta(hours=1) == schedule.wait(1, asked=1e9)
