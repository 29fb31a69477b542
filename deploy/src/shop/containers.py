"""The shop in containers: the files that compose.yaml mounts, and Compose's verbs. Pulls nothing.

The topology itself stands in compose.yaml; stand-ins for images are another module's.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from shop import edge
from shop.profiles import ROOT, Profile
from shop.secrets import api_keys_file, secret
from shop.servers import (
    ALONE,
    ELASTICSEARCH,
    OWNERS,
    RABBITMQ,
    RABBITMQ_PLUGINS,
    SERVICES,
    USERS,
    broker_definitions,
    mariadb_database,
    redis_config,
)

COMPOSE_FILE = ROOT / "compose.yaml"
PURGE_SUBNET = os.environ.get("PURGE_SUBNET", "10.213.7.0/28")
ASK_SECONDS = 20
READY_SECONDS = 1200
EVERYWHERE = "0.0.0.0"  # noqa: S104 -- in a container: its networks decide who reaches it


class NoContainers(Exception):
    """There is no engine, no Compose, or it failed; the message says what to do."""


class Engine(Struct, frozen=True):
    """A container engine that answers: how Compose is called, and the environment for it."""

    compose: list[str]
    env: dict[str, str]


class Choice(Struct, frozen=True):
    """Where the shop shall run, and why; without an engine it is native."""

    engine: Engine | None
    why: str


class _Service(Struct):
    image: str
    build: object = None


class _Project(Struct):
    services: dict[str, _Service]


def choose(profile: Profile, *, wanted: bool | None, only_native: str = "") -> Choice:
    """Containers when asked for, or when an engine answers and has or can get every image.

    `only_native` is a reason against them. Raises NoContainers when they are asked for in vain.
    """
    if wanted is False:
        return Choice(None, "native, as asked")
    if wanted and only_native:
        raise NoContainers(f"no containers: {only_native}")
    if wanted:
        return Choice(engine(), "containers, as asked")
    if only_native:
        return Choice(None, f"native: {only_native}")
    try:
        found = engine()
        absent = missing_images(profile, found)
    except NoContainers as no:
        return Choice(None, f"native: {str(no).splitlines()[0]}")
    if absent and not _pullable(absent[0], found):
        return Choice(None, f"native: the engine answers, but {absent[0]} cannot be pulled")
    return Choice(found, "containers: an engine answers, and the images are there or can be pulled")


def engine(env: Mapping[str, str] | None = None, *, compose: Path | None = None) -> Engine:
    """The engine that answers; `env` may name it and hold variables of compose.yaml.

    `compose` is used where Docker has no Compose of its own. Raises NoContainers.
    """
    environment = {**os.environ, **(env or {})}
    if shutil.which("docker") is None:
        raise NoContainers("no container engine is installed (apt-get install docker.io)")
    if not _succeeds(["docker", "info"], environment):
        raise NoContainers("no container engine answers (docker info fails)")
    for command in (["docker", "compose"], [str(compose or "docker-compose")]):
        if shutil.which(command[0]) and _succeeds([*command, "version"], environment):
            return Engine(command, environment)
    raise NoContainers("Docker has no Compose (see https://docs.docker.com/compose/install)")


def up(profile: Profile, engine: Engine, *, mariadb: bool = False) -> None:
    """Build what is ours, start everything and wait until it is healthy. Raises NoContainers."""
    before = _contents(profile)
    write_files(profile, mariadb=mariadb)
    _mark(profile).touch()
    _compose(profile, engine, "build", "--quiet", mariadb=mariadb)
    wait = ["--wait", "--wait-timeout", str(READY_SECONDS)]
    # Compose does not look into the files it mounts
    fresh = [] if _contents(profile) == before else ["--force-recreate"]
    _compose(profile, engine, "up", "--detach", "--remove-orphans", *wait, *fresh, mariadb=mariadb)


def down(profile: Profile, engine: Engine, *, data: bool = False) -> None:
    """Stop and remove the containers and networks; with `data` also what they kept."""
    volumes = ["--volumes"] if data else []
    _compose(profile, engine, "down", "--remove-orphans", *volumes, mariadb=True)
    _mark(profile).unlink(missing_ok=True)


def show(profile: Profile, engine: Engine, *verb: str) -> None:
    """Let Compose print, such as `ps` or `logs --tail 50 stock-api`. Raises NoContainers."""
    _compose(profile, engine, *verb, mariadb=True)


def used(profile: Profile) -> bool:
    """Whether the profile was last brought up in containers."""
    return _mark(profile).exists()


def missing_images(profile: Profile, engine: Engine) -> list[str]:
    """The images of others that the engine does not have; ours are built."""
    command = [*engine.compose, "--file", str(COMPOSE_FILE), "config", "--format", "json"]
    done = subprocess.run(
        command, env=_environment(profile, engine), capture_output=True, check=False
    )
    if done.returncode != 0:
        raise NoContainers(f"compose.yaml is not accepted: {done.stderr.decode()}")
    services = msgspec.json.decode(done.stdout, type=_Project).services
    ours = {service.image for service in services.values() if service.build}
    others = sorted({service.image for service in services.values()} - ours)
    inspect = ["docker", "image", "inspect"]
    return [image for image in others if not _succeeds([*inspect, image], engine.env)]


def write_files(profile: Profile, *, mariadb: bool = False) -> Path:
    """Write every secret and configuration that compose.yaml mounts; their folder.

    Each image runs as a user of its own, so the files can be read by all and the folder by its
    owner only: a container sees no more of it than what is mounted for it.
    """
    folder = profile.folder("containers")
    folder.chmod(0o700)
    for name, content in FILES.items():
        _write(folder / name, content(profile))
    for owner in OWNERS:
        url = _database_url(profile, owner, mariadb=mariadb)
        _write(folder / f"{owner}_database_url", url)
    vcl = profile.folder("containers", "varnish")
    vcl.chmod(0o755)
    edge.varnish(vcl, _edge_values())
    edge.nginx(folder, _edge_values())
    (folder / "nginx.conf").replace(folder / "nginx_conf")
    return folder


def _write(path: Path, text: str) -> None:
    # a running container has the file itself mounted: another in its place would not be seen
    if path.exists() and path.read_text() == text:
        return
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o444)


def _contents(profile: Profile) -> dict[Path, bytes]:
    folder = profile.folder("containers")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _broker_url(user: str) -> Callable[[Profile], str]:
    return lambda profile: f"amqp://{user}:{secret(profile, f'rabbitmq_{user}')}@rabbitmq:5672/shop"


def _redis_url(name: str, user: str) -> Callable[[Profile], str]:
    return lambda profile: f"redis://{user}:{secret(profile, f'redis_{user}')}@{name}:6379/0"


def _redis_conf(name: str) -> Callable[[Profile], str]:
    return lambda profile: redis_config(
        profile, name, bind=EVERYWHERE, port=6379, folder=Path("/data")
    )


def _database_url(profile: Profile, owner: str, *, mariadb: bool) -> str:
    if not mariadb:
        return f"sqlite+aiosqlite:////data/{owner}.sqlite"
    login = f"{owner}:{secret(profile, f'mariadb_{owner}')}"
    return f"mysql+asyncmy://{login}@mariadb:3306/{owner}?charset=utf8mb4"


def _rabbitmq_conf(_: Profile) -> str:
    lines = ["load_definitions = /run/secrets/rabbitmq_definitions"]
    lines += ["management.tcp.ip = 127.0.0.1", "prometheus.tcp.ip = 127.0.0.1", *RABBITMQ]
    return "\n".join(lines) + "\n"


def _elasticsearch_yml(profile: Profile) -> str:
    settings: dict[str, object] = {"cluster.name": f"shop-{profile.name}", "node.name": "shop"}
    settings |= {"network.host": EVERYWHERE} | ELASTICSEARCH | ALONE
    lines = [f"{key}: {msgspec.json.encode(value).decode()}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def _edge_values() -> dict[str, str]:
    ports = {"catalog": 8101, "stock": 8102, "search": 8103, "checkout": 8104}
    values = {f"{name.upper()}_HOST": f"{name}-api" for name in SERVICES}
    values |= {f"{name.upper()}_PORT": str(ports[name]) for name in SERVICES}
    return values | {
        "VARNISH_HOST": "varnish",
        "VARNISH_PORT": "8080",
        "EDGE_PORT": "8080",
        "LISTEN_HOST": EVERYWHERE,
        "SERVER_NAMES": "localhost 127.0.0.1",
        "PURGERS": '"{}"/{}'.format(*PURGE_SUBNET.split("/")),
        "STATIC_DIR": "/usr/share/shop/static",
        "RUN_DIR": "/tmp",  # noqa: S108 -- a tmpfs of the container's own
        "ACCESS_LOG": "/dev/stdout",
    }


def _compose(profile: Profile, engine: Engine, *arguments: str, mariadb: bool) -> None:
    command = [*engine.compose, "--file", str(COMPOSE_FILE)]
    command += ["--project-name", f"shopstream-{profile.name}"]
    command += ["--profile", "mariadb"] if mariadb else []
    environment = _environment(profile, engine)
    done = subprocess.run([*command, *arguments], env=environment, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise NoContainers(f"compose {arguments[0]} failed ({done.returncode}); see above")


def _environment(profile: Profile, engine: Engine) -> dict[str, str]:
    own = {"SHOP_FILES": str(profile.var / "containers"), "EDGE_PORT": str(profile.ports["edge"])}
    return engine.env | own


def _pullable(image: str, engine: Engine) -> bool:
    return _succeeds(["docker", "manifest", "inspect", image], engine.env)


def _mark(profile: Profile) -> Path:
    return profile.folder("run") / "in-containers"


def _succeeds(command: list[str], env: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, timeout=ASK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


FILES: dict[str, Callable[[Profile], str]] = {
    "api_keys": lambda profile: api_keys_file(profile).read_text(),
    **{f"{user}_broker_url": _broker_url(user) for user in ("deploy", *USERS)},
    "stock_redis_url": _redis_url("redis-stock", "stock"),
    "checkout_redis_url": _redis_url("redis-carts", "checkout"),
    "checkout_payment_key": lambda profile: secret(profile, "payments_key"),
    "checkout_payment_webhook_secret": lambda profile: secret(profile, "payments_webhook_secret"),
    "payments_key": lambda profile: secret(profile, "payments_key"),
    "payments_webhook_secret": lambda profile: secret(profile, "payments_webhook_secret"),
    "redis_stock_conf": _redis_conf("redis-stock"),
    "redis_carts_conf": _redis_conf("redis-carts"),
    "redis_admin": lambda profile: secret(profile, "redis_admin"),
    "rabbitmq_definitions": lambda profile: msgspec.json.encode(
        broker_definitions(profile)
    ).decode(),
    "rabbitmq_conf": _rabbitmq_conf,
    "rabbitmq_plugins": lambda _: f"[{','.join(RABBITMQ_PLUGINS)}].\n",
    "elasticsearch_yml": _elasticsearch_yml,
    "mariadb_root": lambda profile: secret(profile, "mariadb_root"),
    "mariadb_init": lambda profile: "".join(
        f"{line}\n" for owner in OWNERS for line in mariadb_database(profile, owner)
    ),
}
