"""A limit for many, watched by one timer, ends what is over and nothing else."""

import asyncio

import pytest

from chassis.http.deadlines import Deadline

LONG = 60.0


async def test_each_ends_in_its_own_time() -> None:
    deadline = Deadline(0.2)

    async def later(start: float, lasts: float) -> str:
        await asyncio.sleep(start)
        return await deadline.of(asyncio.sleep(lasts, "done"))

    found = await asyncio.gather(
        later(0, LONG), later(0.05, 0), later(0.1, LONG), later(0.3, 0.01), return_exceptions=True
    )

    assert [TimeoutError, "done", TimeoutError, "done"] == [
        type(each) if isinstance(each, BaseException) else each for each in found
    ]


async def test_an_error_and_a_cancellation_are_told_as_they_are() -> None:
    deadline = Deadline(LONG)

    async def failing() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await deadline.of(failing())
    waiting = asyncio.create_task(deadline.of(asyncio.sleep(LONG)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_who_is_late_may_go_on() -> None:
    deadline = Deadline(0.05)

    async def twice() -> str:
        with pytest.raises(TimeoutError):
            await deadline.of(asyncio.sleep(LONG))
        return await deadline.of(asyncio.sleep(0, "done"))

    task = asyncio.create_task(twice())

    assert "done" == await task
    assert 0 == task.cancelling()


async def test_who_is_late_and_cancelled_as_well_stays_cancelled() -> None:
    deadline = Deadline(0.05)
    late = asyncio.Event()

    async def lasting() -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            late.set()
            await asyncio.sleep(LONG)

    task = asyncio.create_task(deadline.of(lasting()))
    await late.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
