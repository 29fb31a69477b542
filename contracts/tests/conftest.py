"""A broker of a test's own: a virtual host in which nothing is declared."""

import json
import secrets
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest


class Stack(Protocol):
    amqp_url: str
    management_url: str


class Broker:
    """The management API, for one virtual host."""

    def __init__(self, stack: Stack) -> None:
        management, amqp = urlsplit(stack.management_url), urlsplit(stack.amqp_url)
        self.vhost = f"c{secrets.token_hex(4)}"
        self.url = amqp._replace(path=f"/{self.vhost}").geturl()
        self._user = management.username
        login = b64encode(f"{management.username}:{management.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        self._api = f"http://{management.hostname}:{management.port}/api"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._api + path,
            method=method,
            headers=self._headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request) as response:
            content = response.read()
        return json.loads(content) if content else None

    def create(self) -> None:
        self.call("PUT", f"/vhosts/{self.vhost}", {})
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self.call("PUT", f"/permissions/{self.vhost}/{self._user}", rights)

    def delete(self) -> None:
        self.call("DELETE", f"/vhosts/{self.vhost}")


@pytest.fixture
def broker(stack: Stack) -> Iterator[Broker]:
    found = Broker(stack)
    found.create()
    yield found
    found.delete()
