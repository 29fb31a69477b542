"""What a test marked `consumes` is given: the one check it has to pass."""

import asyncio

import pytest

from shop_contracts.kit.checks import (
    CHECKS,
    Broken,
    Case,
    Deliver,
    Effects,
    NotApplicable,
    Outage,
    Subject,
)
from shop_contracts.kit.recording import Recorder
from shop_contracts.kit.subscriptions import Subscription


class Contract:
    """One check of one event type.

    `deliver(message)` hands one message to the handler under test. The handler settles it by
    `message.ack()`, `.nack(requeue=)` or `.reject(requeue=)`; or `deliver` returns what became of
    it, as `"ack"`, `"retry"` or `"park"`. `effects()` returns all that the handler has done so
    far, as a value that can be compared, and reads it as another process would: what is not
    committed is not there. `outage()` returns a context manager in which the handler's store is
    away. Each may be async. Each test starts with an empty store.
    """

    def __init__(
        self, case: Case, subscription: Subscription, recorder: Recorder | None = None
    ) -> None:
        self.case = case
        self.subscription = subscription
        self._recorder = recorder
        self.checked = False

    def check(self, deliver: Deliver, effects: Effects, outage: Outage | None = None) -> None:
        """Run the check. In an async test: `await contract.acheck(...)`."""
        if _running():
            pytest.fail("in an async test, `await contract.acheck(...)`", pytrace=False)
        # a loop of its own that is nobody's default
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(self.acheck(deliver, effects, outage))

    async def acheck(
        self, deliver: Deliver, effects: Effects, outage: Outage | None = None
    ) -> None:
        """Run the check in the running event loop."""
        self.checked = True
        subject = Subject(self.case, self.subscription, deliver, effects, outage)
        failed = ""
        try:
            if self._recorder is not None:
                await self._recorder.probe(self.case, subject)
            else:
                await CHECKS[self.case.check](subject)
        except NotApplicable as reason:
            pytest.skip(str(reason))
        except Broken as broken:
            failed = f"{self.case.id}: {CHECKS[self.case.check].__doc__}\n{broken}"
        if failed:  # out here, so that the report shows no exception behind it
            pytest.fail(failed, pytrace=False)


def _running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
