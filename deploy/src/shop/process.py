"""The words between those who describe a process and the supervisor that runs it. No I/O."""

from msgspec import Struct


class Talk(Struct, frozen=True, tag="talk"):
    """Ready when, after `send`, the bytes read from the port contain `expect`."""

    port: int
    expect: bytes
    send: bytes = b""


class Http(Struct, frozen=True, tag="http"):
    """Ready when GET `url` answers 200; `login` is `user:password`."""

    url: str
    login: str = ""


class Process(Struct, frozen=True, kw_only=True):
    """What to run and how to see that it is ready."""

    name: str
    command: list[str]
    directory: str
    log: str
    env: dict[str, str] = {}
    port: int | None = None
    ready: Talk | Http | None = None
    needs: list[str] = []
    ready_within: float = 60
    stop_within: float = 15


class State(Struct, frozen=True, kw_only=True):
    """What the supervisor knows of a process. `since` is Unix time."""

    name: str
    state: str  # waiting | starting | ready | stopping | stopped | dead | leftover
    pid: int | None = None
    port: int | None = None
    since: float = 0
    restarts: int = 0
