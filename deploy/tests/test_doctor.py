"""What doctor finds, on this very machine."""

import os
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shop import doctor, packages, profiles
from shop.clusters import BUS
from shop.profiles import Profile
from shop.servers import CLUSTERED
from shop.stack import Stack


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def a_stack(folder: Path, port: int) -> Stack:
    return Stack(Profile("small", {"varnish": port}, folder), mariadb=False)


def test_a_taken_port_is_named_with_its_owner(tmp_path: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]

    found = list(doctor.taken_ports(a_stack(tmp_path, port)))

    assert 1 == len(found)
    assert found[0].grave
    assert f"port {port} (varnish) is taken by " in found[0].what
    assert f"(pid {os.getpid()})" in found[0].what


def test_a_free_port_is_no_finding(tmp_path: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()

    assert [] == list(doctor.taken_ports(a_stack(tmp_path, port)))


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(packages.PRESENT, "varnish-modules", lambda: False)

    found = [f for f in doctor.examine(a_stack(tmp_path, 1)) if "varnish-modules" in f.what]

    assert "package varnish-modules is missing" == found[0].what
    assert "apt-get install varnish-modules" in found[0].advice


def test_no_two_profiles_share_a_port() -> None:
    names = tomllib.loads(profiles.PORTS_FILE.read_text())["offsets"]
    ports = [port for name in names for port in _listened(profiles.profile(name))]

    assert len(set(ports)) == len(ports)


def _listened(profile: Profile) -> list[int]:
    found = list(profile.ports.values())
    for node in profile.nodes() if profile.clustered else []:
        found += [node.ports[name] + BUS for name in ("redis-stock", "redis-carts")]
        if node.node > 1:
            found += [at for name, at in node.ports.items() if name.startswith(CLUSTERED)]
    return found


def test_no_port_is_a_default_of_its_server() -> None:
    defaults = {9200, 9300, 6379, 16379, 5672, 15672, 25672, 4369, 5552, 15692, 3306, 6081, 6082}

    assert set() == defaults & set(profiles.profile("shop").ports.values())


def test_an_offset_moves_every_port_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_PORT_OFFSET", raising=False)
    before = profiles.profile("shop", root=tmp_path).ports
    monkeypatch.setenv("SHOP_PORT_OFFSET", "1000")
    profiles.profile("shop", root=tmp_path)
    monkeypatch.delenv("SHOP_PORT_OFFSET")

    after = profiles.profile("shop", root=tmp_path).ports

    assert {name: port + 1000 for name, port in before.items()} == after


def test_an_unknown_profile_is_refused_with_the_known_names() -> None:
    with pytest.raises(profiles.UnknownProfile, match="there are shop, test"):
        profiles.profile("production")
