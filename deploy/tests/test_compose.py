"""compose.yaml against the native stack: the same shop, each service with only what is its own."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from shop import containers, profiles, servers, services
from shop.process import Process
from shop.profiles import Profile
from shop_contracts.topology import READS

COMPOSE: dict[str, Any] = yaml.safe_load(containers.COMPOSE_FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OFFSET = profiles.profile("containers").ports["edge"] - 8080
JOBS = {"topology", *(f"{name}-migrate" for name in services.MIGRATES)}
OURS = {f"{name}-{process}" for name, (which, _) in services.SERVICES.items() for process in which}
SERVERS = set(SERVICES) - JOBS - OURS
OUTSIDE = {
    "stock-notify": {"outside", "broker", "mariadb"},
    "checkout-notify": {"outside", "mariadb"},
}
"""Who speaks to servers of others, and the least of ours: where what it sends comes from."""


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    ports = profiles.profile("containers").ports
    return Profile("containers", ports, tmp_path)


@pytest.fixture
def native(profile: Profile) -> dict[str, Process]:
    return {process.name: process for process in services.prepare(profile, mariadb=True)}


def test_compose_runs_what_the_native_stack_runs(native: dict[str, Process]) -> None:
    # in a container RabbitMQ starts its own epmd, and both end together
    assert set(native) | (set(servers.SERVERS) - {"epmd"}) | JOBS == set(SERVICES)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_process_has_the_same_command_and_settings_in_both(
    name: str, native: dict[str, Process]
) -> None:
    service = name.split("-", maxsplit=1)[0]
    fields = import_module(f"{service}.settings").Settings.__struct_fields__
    known = {f"{service}_{field}".upper() for field in fields}
    environment = SERVICES[name]["environment"]
    # a setting may be a file that holds it
    named = {key if key in known else key.removesuffix("_FILE") for key in environment}

    assert native[name].env.keys() & known == named
    assert native[name].command[-1:] == SERVICES[name]["command"]
    for key in environment:
        if key.endswith("_PORT"):
            assert native[name].env[key] == str(int(environment[key]) + OFFSET)


def test_how_many_partitions_is_told_to_the_broker_and_to_the_workers_alike(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_QUEUE_PARTITIONS", "4")
    topology = services.deployments(profile)[0]
    workers = {process.name: process for process in services.prepare(profile)}

    names = {f"{consumer.upper()}_QUEUE_PARTITIONS" for consumer in READS}
    assert names == {name for name in topology.env if name.endswith("_QUEUE_PARTITIONS")}
    assert names == set(SERVICES["topology"]["environment"])
    for consumer in READS:
        name = f"{consumer.upper()}_QUEUE_PARTITIONS"
        assert topology.env[name] == ("4" if consumer == "search" else "0")
        assert topology.env[name] == workers[f"{consumer}-worker"].env[name]
        told = SERVICES["topology"]["environment"][name]
        assert told == SERVICES[f"{consumer}-worker"]["environment"][name]


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_process_reaches_only_its_own_store_the_broker_and_its_callers(name: str) -> None:
    service, process = name.split("-")
    stores = set(services.NEEDS[service]) - {"varnish"}
    callers = {"edge"} if process == "api" else set()
    purges = {"purge"} if service == "purger" else set()

    brokers = {"broker"} if service in servers.USERS else set()
    # the provider that plays one is nobody's store
    reached = stores or {name}
    own = set() if service == "purger" else reached
    expected = OUTSIDE.get(name) or own | brokers | callers | purges

    assert expected == set(SERVICES[name]["networks"])
    for store in stores:
        assert [store] == SERVICES[store]["networks"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_process_is_given_only_its_own_credentials_and_data(name: str) -> None:
    service = name.split("-", maxsplit=1)[0]
    for secret in SERVICES[name]["secrets"]:
        assert secret == "api_keys" or secret.startswith(f"{service}_")
    for volume in SERVICES[name].get("volumes", []):
        assert f"{service}:/data" == volume


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_credential_stands_in_an_environment_or_a_command(name: str) -> None:
    service = SERVICES[name]
    for key, value in service.get("environment", {}).items():
        assert not re.search(r"://[^/@]*@", str(value))
        assert key.endswith("_FILE") or not re.search(r"PASSWORD|SECRET|TOKEN", key)
        if key.endswith("_FILE"):
            assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert not re.search(r"://[^/@ ]*@", " ".join(service.get("command", [])))


def test_every_secret_and_configuration_is_a_file_that_is_written(profile: Profile) -> None:
    folder = containers.write_files(profile, mariadb=True)
    declared = COMPOSE["secrets"] | COMPOSE["configs"]
    start = declared.pop("redis_start")

    assert servers.REDIS_START == profiles.ROOT / start["file"]
    assert 0o700 == folder.stat().st_mode & 0o777
    for name, source in declared.items():
        assert {"file": f"${{SHOP_FILES:-./var/shop/containers}}/{name}"} == source
        assert (folder / name).read_text()
    assert {*declared, "varnish"} == {path.name for path in folder.iterdir()}


def test_writing_the_files_again_leaves_those_that_are_mounted(profile: Profile) -> None:
    before = containers.write_files(profile) / "catalog_broker_url"
    inode = before.stat().st_ino

    assert inode == (containers.write_files(profile) / "catalog_broker_url").stat().st_ino


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_image_is_a_variable_with_a_default_of_a_fixed_version(name: str) -> None:
    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z./]+:[\w.-]+\}", SERVICES[name]["image"])
    assert ":latest" not in SERVICES[name]["image"]


def test_only_the_purger_speaks_to_varnish_from_where_it_may_purge(profile: Profile) -> None:
    written = containers.write_files(profile) / "varnish" / "backends.vcl"
    subnet = COMPOSE["networks"]["purge"]["ipam"]["config"][0]["subnet"]

    assert {"varnish", "purger-worker"} == {
        name for name, service in SERVICES.items() if "purge" in service["networks"]
    }
    assert f"${{PURGE_SUBNET:-{containers.PURGE_SUBNET}}}" == subnet
    assert '"{}"/{};'.format(*containers.PURGE_SUBNET.split("/")) in written.read_text()


def test_only_the_edge_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert {"nginx": ["127.0.0.1:${EDGE_PORT:-8080}:8080"]} == published
    open_ = [n for n, how in COMPOSE["networks"].items() if not how.get("internal")]
    inside = {
        net: [n for n, service in SERVICES.items() if net in service["networks"]] for net in open_
    }

    assert {"front": ["nginx"], "outside": ["stock-notify", "checkout-notify"]} == inside


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert service["pids_limit"] > 0
    assert service["mem_limit"]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    # Elasticsearch writes a keystore beside its configuration
    assert service["read_only"] is (name != "elasticsearch")
    if name in SERVERS:
        assert service["user"] not in ("root", "0", 0)


def test_our_image_runs_as_a_user_without_rights() -> None:
    dockerfile = (profiles.ROOT / "Dockerfile").read_text()

    assert "1000:1000" == re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE)[-1]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - JOBS))
def test_what_stays_up_says_whether_it_is_well(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nobody_starts_before_what_it_needs_is_well_or_done(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in JOBS else "service_healthy"
        assert wanted == how["condition"]
