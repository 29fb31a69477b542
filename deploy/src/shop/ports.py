"""Who listens on a port. Knows ports only; whether that is right is for others to say."""

import socket

import psutil
from msgspec import Struct


class Owner(Struct, frozen=True):
    """The process behind a taken port; without root others' processes have no pid here."""

    pid: int | None
    program: str

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})" if self.pid else self.program


def owner(port: int) -> Owner | None:
    """Who listens on a loopback port; None when it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return _listener(port) or Owner(None, "another program")
    return None


def _listener(port: int) -> Owner | None:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        if connection.laddr.port == port and connection.pid:
            try:
                return Owner(connection.pid, psutil.Process(connection.pid).name())
            except psutil.NoSuchProcess:
                return None
    return None
