"""Named places where a test may kill the process. Refused outside the test profile.

`FAILPOINT=stock.relay.after_confirm:kill` kills at the first pass, `...:kill:5` at the fifth.
"""

import os
import signal

_NAME, _, _REST = os.environ.get("FAILPOINT", "").partition(":")
_ACTION, _, _COUNT = _REST.partition(":")
_left = int(_COUNT or "1")

if _NAME and os.environ.get("SHOP_PROFILE") != "test":
    raise RuntimeError("FAILPOINT is set outside SHOP_PROFILE=test: unset it")
if _NAME and _ACTION != "kill":
    raise RuntimeError("FAILPOINT has the form name:kill or name:kill:nth")


def reach(name: str) -> None:
    """Die here, as by kill -9, when the test asked for it."""
    global _left  # noqa: PLW0603 - a process has one countdown
    if name != _NAME:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
