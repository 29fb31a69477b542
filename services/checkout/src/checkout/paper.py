"""Makes invoices: gives them their numbers, draws them, keeps them. Knows no table.

Any number of processes may do so: a number is taken once, and who draws second changes nothing.
"""

import asyncio
import logging
from typing import NoReturn

from checkout.drawing import draw
from checkout.store.invoices import Invoices

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
FAILED_SECONDS = 5.0


async def issue(invoices: Invoices) -> NoReturn:
    """Number and draw what is due, for as long as the task lives."""
    while True:
        try:
            found = await step(invoices)
        except Exception:
            log.exception("a step failed and is tried again")
            await asyncio.sleep(FAILED_SECONDS)
        else:
            if not found:
                await asyncio.sleep(POLL_SECONDS)


async def step(invoices: Invoices) -> bool:
    """Number what is wanted and draw what has a number; whether there was any."""
    wanted = await invoices.issue()
    undrawn = await invoices.undrawn()
    for id_, document in undrawn:
        try:
            # a page takes milliseconds, and mails are waiting
            pdf = await asyncio.to_thread(draw, document)
        except Exception:
            log.exception("invoice %s cannot be drawn", document.number)
            await invoices.put_off(id_)
        else:
            await invoices.keep(id_, document, pdf)
    return bool(wanted or undrawn)
