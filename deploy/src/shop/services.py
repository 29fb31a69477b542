"""Our own processes: the command, environment and readiness of each. Knows no service's code."""

import os
import sys
from collections.abc import Callable

import msgspec

from shop.account import account, drop, give
from shop.process import Http, Process
from shop.profiles import ROOT, Profile
from shop.secrets import api_keys_file, secret
from shop.servers import USERS, amqp, elasticsearch_url, mariadb_url, redis
from shop_contracts.topology import READS

PASSED_ON = ("OTEL_", "SSL_CERT_", "SHOP_LOG_")
TESTED = ("test", "faults", "orders", "nodes")
"""Profiles whose processes may be told to fail."""

READY_SECONDS = 60.0
STOCK_PARTITIONS = 12
"""Of stock on a cluster: several for each node, so that nodes can be added."""


def prepare(profile: Profile, *, mariadb: bool = False) -> list[Process]:
    """Every process of ours: the four services, the purger, the payment provider that plays one."""
    shared = {"PROFILE": _kind(profile)}
    shared["API_KEYS_FILE"] = str(api_keys_file(profile))
    found = []
    for service, (processes, store) in SERVICES.items():
        settings = shared | store(profile) | {"HOST": "127.0.0.1"}
        if service in MIGRATES:
            settings["DATABASE_URL"] = database_url(profile, service, mariadb=mariadb)
        if service in USERS:
            settings["BROKER_URL"] = amqp(profile, service)
        if service in READS:
            settings["QUEUE_PARTITIONS"] = os.environ.get(_partitions(service)) or "0"
        for process in processes:
            name = "PORT" if process == "api" else f"{process.upper()}_PORT"
            settings[name] = str(profile.ports[_port(service, process)])
        found += [_process(profile, service, process, settings) for process in processes]
    return found


def deployments(profile: Profile, *, mariadb: bool = False) -> list[Process]:
    """What runs once before our processes start: the broker's topology, then tables."""
    processes = {process.name: process for process in prepare(profile, mariadb=mariadb)}
    topology = Process(
        name="topology",
        command=[sys.executable, "-m", "bus.topology", "apply"],
        directory=str(profile.var),
        log=str(profile.folder("log") / "topology.log"),
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "BROKER_URL": amqp(profile, "deploy")}
        | {name: os.environ.get(name) or "0" for name in map(_partitions, READS)},
    )
    return [topology, *(job(profile, processes[f"{name}-api"], "migrate") for name in MIGRATES)]


def job(profile: Profile, process: Process, verb: str) -> Process:
    """What runs once: another verb of the service of `process`, with the same settings."""
    name = f"{process.name.rpartition('-')[0]}-{verb}"
    return msgspec.structs.replace(
        process,
        name=name,
        command=[*process.command[:-1], verb],
        log=str(profile.folder("log") / f"{name}.log"),
    )


def _process(profile: Profile, service: str, process: str, settings: dict[str, str]) -> Process:
    home = profile.folder(service)
    give(home)
    name = f"{service}-{process}"
    port = profile.ports[_port(service, process)]
    env = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
    env |= {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(home)}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    env |= {"SHOP_PROFILE": _kind(profile)}
    env |= {f"{service.upper()}_{key}": value for key, value in settings.items()}
    interpreter = ROOT / ".venv" / "bin" / "python"
    as_us = drop(account(), home, interpreter, interpreter.resolve(), ROOT / service)
    return Process(
        name=name,
        command=[*as_us, sys.executable, "-m", service, process],
        directory=str(home),
        log=str(profile.folder("log") / f"{name}.log"),
        env=env,
        port=port,
        ready=Http(f"http://127.0.0.1:{port}/readyz"),
        needs=[*(["rabbitmq"] if service in USERS else []), *NEEDS[service]],
        # a cluster takes its time to make indices and queues on several nodes
        ready_within=READY_SECONDS * len(profile.nodes()),
    )


def _partitions(consumer: str) -> str:
    """Whoever deploys tells the broker and the workers the same."""
    return f"{consumer.upper()}_QUEUE_PARTITIONS"


def _kind(profile: Profile) -> str:
    return "test" if profile.name in TESTED else "dev"


def _port(service: str, process: str) -> str:
    """The name of a process's port in ports.toml."""
    return service if process == "api" else f"{service}-{process}"


def _catalog(profile: Profile) -> dict[str, str]:
    return {"ELASTICSEARCH_URL": elasticsearch_url(profile)}


def _search(profile: Profile) -> dict[str, str]:
    return {"ELASTICSEARCH_URL": elasticsearch_url(profile)}


def _stock(profile: Profile) -> dict[str, str]:
    partitions = {"PARTITIONS": str(STOCK_PARTITIONS)} if profile.clustered else {}
    return partitions | {
        "REDIS_URL": redis(profile, "redis-stock"),
        "PUBLIC_URL": profile.url("edge"),
        "MAIL_DIR": _mails(profile, "stock"),
    }


def _checkout(profile: Profile) -> dict[str, str]:
    # what is tested and measured is the price of the goods; a bench makes no invoices either
    rules = {} if profile.name in TESTED else {"RULES": "sample"}
    seller = {"SELLER": "sample"} if profile.name == "test" or rules else {}
    return {"REDIS_URL": redis(profile, "redis-carts"), **rules, **seller} | {
        "PAYMENT_URL": profile.url("payments-simulator", path="/"),
        "PAYMENT_KEY": secret(profile, "payments_key"),
        "PAYMENT_WEBHOOK_SECRET": secret(profile, "payments_webhook_secret"),
        "PUBLIC_URL": profile.url("edge"),
        "MAIL_DIR": _mails(profile, "checkout"),
    }


def _payments(profile: Profile) -> dict[str, str]:
    return {
        "KEY": secret(profile, "payments_key"),
        "WEBHOOK_SECRET": secret(profile, "payments_webhook_secret"),
        "WEBHOOK_URL": profile.url("checkout", path="/payments/webhook"),
        "JOURNAL": str(profile.folder("payments") / "journal.ndjson"),
    }


def _mails(profile: Profile, service: str) -> str:
    """Where a service's mails are files, for a shop without a mail server."""
    folder = profile.folder("mails", service)
    give(folder)
    return str(folder)


def database_url(profile: Profile, service: str, *, mariadb: bool) -> str:
    """Where a service's tables are: a database of its own on MariaDB, or a file."""
    if mariadb:
        return mariadb_url(profile, service, service)
    return f"sqlite+aiosqlite:///{profile.folder(service) / f'{service}.sqlite'}"


def _purger(profile: Profile) -> dict[str, str]:
    return {"PURGE_URL": profile.url("varnish-purge", path="/")}


NEEDS = {
    "catalog": ["elasticsearch"],
    "stock": ["redis-stock", "mariadb"],
    "search": ["elasticsearch"],
    "checkout": ["redis-carts", "mariadb", "payments-simulator"],
    "payments": [],
    "purger": ["varnish"],
}

MIGRATES = ["checkout", "stock"]
"""Services with tables of their own."""

SERVICES: dict[str, tuple[list[str], Callable[[Profile], dict[str, str]]]] = {
    "catalog": (["api", "relay", "worker"], _catalog),
    "stock": (["api", "relay", "worker", "notify", "journal"], _stock),
    "search": (["api", "worker"], _search),
    "checkout": (["api", "relay", "worker", "notify"], _checkout),
    "payments": (["simulator"], _payments),
    "purger": (["worker"], _purger),
}
