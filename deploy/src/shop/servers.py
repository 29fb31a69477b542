"""The servers of a stack: how each is configured and started. Knows no service's code."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from shop import clusters, edge, elastic
from shop.account import account, drop, give
from shop.process import Http, Process, Talk
from shop.profiles import ROOT, Profile
from shop.secrets import rabbit_hash, secret, write_private
from shop_contracts import topology

SERVICES = ["catalog", "stock", "search", "checkout"]
USERS = [*SERVICES, "purger"]  # who has a login of its own at the broker
MAX_MESSAGE = 1024 * 1024


class ServerMissing(Exception):
    """A server's program is not installed."""


def admin_redis(profile: Profile, instance: str) -> str:
    """The address of a Redis for tools and tests: everything allowed. Of a cluster this node's."""
    login = f":{secret(profile, 'redis_admin')}"
    return profile.url(instance, scheme="redis", login=login, path="/0")


def redis(profile: Profile, instance: str) -> str:
    """The address of a Redis, or of a Redis Cluster, for the service that owns it."""
    user = REDIS[instance][1]
    login = f"{user}:{secret(profile, f'redis_{user}')}"
    if not profile.clustered or instance not in CLUSTERED:
        return profile.url(instance, scheme="redis", login=login, path="/0")
    places = [f"127.0.0.1:{node.ports[instance]}" for node in profile.nodes()]
    return f"redis+cluster://{login}@{','.join(places)}"


def amqp(profile: Profile, user: str, vhost: str = "shop") -> str:
    """The broker's address for a user (`admin`, `deploy` or a service's name): of all its nodes."""
    login = f"{user}:{secret(profile, f'rabbitmq_{user}')}"
    return ",".join(
        node.url("rabbitmq", scheme="amqp", login=login, path=f"/{vhost}")
        for node in profile.nodes()
    )


def elasticsearch_url(profile: Profile) -> str:
    """The address of Elasticsearch, of all its nodes."""
    return ",".join(node.url("elasticsearch") for node in profile.nodes())


def management(profile: Profile) -> str:
    """The management API's address with the administrator's login in it."""
    return profile.url("rabbitmq-management", login=f"admin:{secret(profile, 'rabbitmq_admin')}")


def mariadb_url(profile: Profile, user: str, database: str) -> str:
    """A database's address for `admin` or the service that owns it."""
    login = f"{user}:{secret(profile, f'mariadb_{user}')}"
    path = f"/{database}?charset=utf8mb4"
    return profile.url("mariadb", scheme="mysql+asyncmy", login=login, path=path)


def prepare(profile: Profile, *, mariadb: bool = False) -> list[Process]:
    """Write every server's configuration and say how to start it.

    Raises ServerMissing, elastic.NoJava, elastic.DownloadFailed.
    """
    chosen = [name for name in SERVERS if mariadb or name != "mariadb"]
    profile.folder("run").chmod(0o700)
    profile.folder("secrets").chmod(0o711)
    return [
        SERVERS[name](node)
        for name in chosen
        for node in (profile.nodes() if name in CLUSTERED else [profile])
    ]


def redis_stock(profile: Profile) -> Process:
    """Redis for quantities and prices."""
    return _redis(profile, "redis-stock")


def redis_carts(profile: Profile) -> Process:
    """Redis for carts."""
    return _redis(profile, "redis-carts")


def redis_config(profile: Profile, name: str, *, bind: str, port: int, folder: Path) -> str:
    """The configuration of a Redis, with the passwords of its two users in it."""
    keeps, user, access = REDIS[name]
    lines = [f"bind {bind}", f"port {port}", f"dir {_quoted(folder)}", 'save ""', *keeps]
    lines += [f"user default on >{secret(profile, 'redis_admin')} ~* &* +@all"]
    lines += [f"user {user} on >{secret(profile, f'redis_{user}')} {access}"]
    return "\n".join(lines) + "\n"


def _redis(profile: Profile, name: str) -> Process:
    home = profile.folder(profile.named(name))
    port = profile.ports[name]
    config = home / "redis.conf"
    text = redis_config(profile, name, bind="127.0.0.1", port=port, folder=home)
    ask, expect = "PING", b"+PONG"
    if profile.clustered and name in CLUSTERED:
        text += "\n".join(clusters.redis(profile, name, home)) + "\n"
        ask, expect = "CLUSTER INFO", b"cluster_state:ok"
    write_private(config, text)
    asked = f"AUTH {secret(profile, 'redis_admin')}\r\n{ask}\r\n".encode()
    return _server(
        profile,
        profile.named(name),
        # given as text: an account without rights may not read the clone
        ["/bin/sh", "-c", REDIS_START.read_text(), _program("redis-server"), str(config)],
        home=home,
        port=port,
        ready=Talk(port, expect, asked),
    )


def epmd(profile: Profile) -> Process:
    """Erlang's name server, our own: RabbitMQ would start one that outlives it."""
    port = profile.ports["epmd"]
    command = [_program("epmd"), "-address", "127.0.0.1", "-port", str(port)]
    names = b"\x00\x01n"
    ready = Talk(port, port.to_bytes(4, "big"), names)
    return _server(profile, "epmd", command, home=profile.folder("epmd"), port=port, ready=ready)


def rabbitmq(profile: Profile) -> Process:
    """The broker: users and permissions come from definitions, so `guest` never exists."""
    home = profile.folder(profile.named("rabbitmq"))
    ports = profile.ports
    definitions = home / "definitions.json"
    write_private(definitions, msgspec.json.encode(broker_definitions(profile)).decode())
    config = [
        f"listeners.tcp.1 = 127.0.0.1:{ports['rabbitmq']}",
        "management.tcp.ip = 127.0.0.1",
        f"management.tcp.port = {ports['rabbitmq-management']}",
        "prometheus.tcp.ip = 127.0.0.1",
        f"prometheus.tcp.port = {ports['rabbitmq-prometheus']}",
        f"load_definitions = {definitions}",
        *RABBITMQ,
    ]
    needs = ["epmd"]
    if profile.clustered:
        config += clusters.rabbitmq(profile)
        cookie = home / ".erlang.cookie"
        write_private(cookie, secret(profile, "erlang_cookie"))
        cookie.chmod(0o400)
        if profile.node > 1 and not (home / "mnesia").exists():
            needs.append("rabbitmq")  # the first one is there before others join it
    (home / "rabbitmq.conf").write_text("\n".join(config) + "\n")
    (home / "enabled_plugins").write_text(f"[{','.join(RABBITMQ_PLUGINS)}].\n")
    env = {
        "HOME": str(home),
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_NODENAME": clusters.erlang(profile.node),
        "RABBITMQ_NODE_PORT": str(ports["rabbitmq"]),
        "RABBITMQ_DIST_PORT": str(ports["rabbitmq-dist"]),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "rabbitmq.pid"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        # idle schedulers that spin would eat the processors of a small machine
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
    }
    ready = Http(
        profile.url("rabbitmq-management", path="/api/health/checks/virtual-hosts"),
        f"admin:{secret(profile, 'rabbitmq_admin')}",
    )
    return _server(
        profile,
        profile.named("rabbitmq"),
        [str(_rabbitmq_program())],
        home=home,
        port=ports["rabbitmq"],
        env=env,
        ready=ready,
        needs=needs,
        within=180,
    )


def _rabbitmq_program() -> Path:
    # the wrapper on the PATH insists on the distribution's own user and folders
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found:
        raise ServerMissing("rabbitmq-server is not installed")
    return found[-1]


def broker_definitions(profile: Profile) -> dict[str, object]:
    """The broker's users, virtual hosts and permissions; passwords only as hashes."""
    salt = secret(profile, "rabbitmq_salt").encode()[:4]

    def user(name: str, *tags: str) -> dict[str, object]:
        hashed = rabbit_hash(secret(profile, f"rabbitmq_{name}"), salt)
        algorithm = "rabbit_password_hashing_sha256"
        fields = {"password_hash": hashed, "hashing_algorithm": algorithm, "tags": list(tags)}
        return {"name": name, **fields}

    def may(name: str, vhost: str, configure: str, write: str, read: str) -> dict[str, str]:
        rights = {"configure": configure, "write": write, "read": read}
        return {"user": name, "vhost": vhost, **rights}

    every = ".*"
    services = [
        may(name, "shop", rf"^{name}\.relay$", rf"^{name}\.(events|retry)$", _reads(name))
        for name in USERS
    ]
    return {
        "users": [
            user("admin", "administrator"),
            user("deploy"),
            *(user(name) for name in USERS),
        ],
        "vhosts": [{"name": "/"}, {"name": "shop"}],
        "permissions": [
            may("admin", "/", every, every, every),
            may("admin", "shop", every, every, every),
            may("deploy", "shop", every, every, every),
            *services,
        ],
        # whoever looks at parked messages puts them back: from RabbitMQ 4 on that would count
        "policies": [
            {
                "vhost": "shop",
                "name": "parking",
                "pattern": r"\.parking$",
                "apply-to": "queues",
                "definition": {"delivery-limit": 1_000_000},
                "priority": 0,
            }
        ],
    }


def _reads(name: str) -> str:
    """A service's own queues, and for a rebuild the streams of those whose events it reads."""
    streams = [re.escape(topology.log(owner)) for owner in topology.READS.get(name, ())]
    readable = "|".join([rf"{name}\..*", *streams])
    return f"^({readable})$"


def elasticsearch(profile: Profile) -> Process:
    """The minimal Elasticsearch with our plugin, as one node on loopback."""
    distribution = elastic.distribution()
    home = profile.folder(profile.named("elasticsearch"))
    config = profile.folder(home.name, "config")
    ports = profile.ports
    shutil.copy(distribution / "config" / "log4j2.properties", config)
    options = (distribution / "config" / "jvm.options").read_text().splitlines()
    kept = [line for line in options if "gc.log" not in line]
    (config / "jvm.options").write_text("\n".join(kept) + "\n")
    settings = {
        "cluster.name": f"shop-{profile.name}",
        "node.name": profile.named("shop"),
        "path.data": str(home / "data"),
        "path.logs": str(home / "log"),
        "network.host": "127.0.0.1",
        "http.port": ports["elasticsearch"],
        "transport.port": ports["elasticsearch-transport"],
        **ELASTICSEARCH,
        **(clusters.elasticsearch(profile) if profile.clustered else ALONE),
    }
    lines = [f"{key}: {msgspec.json.encode(value).decode()}" for key, value in settings.items()]
    (config / "elasticsearch.yml").write_text("\n".join(lines) + "\n")
    env = {
        "ES_JAVA_HOME": str(elastic.java_home()),
        "ES_PATH_CONF": str(config),
        "ES_JAVA_OPTS": "-Xms512m -Xmx512m",
        "ES_TMPDIR": str(profile.folder(home.name, "tmp")),
    }
    ready = Http(profile.url("elasticsearch", path="/_cluster/health?wait_for_status=yellow"))
    return _server(
        profile,
        home.name,
        [str(distribution / "bin" / "elasticsearch")],
        home=home,
        port=ports["elasticsearch"],
        env=env,
        ready=ready,
        within=240,
        stop_within=30,
    )


def mariadb(profile: Profile) -> Process:
    """MariaDB, a database for each owner; its users come from a file that every start may run."""
    home = profile.folder("mariadb")
    data = home / "data"
    program = _program("mariadbd")
    if not (data / "mysql").exists():
        give(home)
        install = [_program("mariadb-install-db"), "--no-defaults", "--skip-test-db"]
        install += ["--auth-root-authentication-method=normal", f"--datadir={data}"]
        as_us = drop(account(), home)
        done = subprocess.run([*as_us, *install], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerMissing(f"mariadb-install-db failed:\n{done.stderr}{done.stdout}")
    init = home / "init.sql"
    write_private(init, "\n".join(_mariadb_users(profile)) + "\n")
    port = profile.ports["mariadb"]
    command = [program, "--no-defaults", f"--datadir={data}", f"--port={port}"]
    command += ["--socket=server.sock", f"--pid-file={home / 'server.pid'}"]
    command += ["--bind-address=127.0.0.1", "--skip-name-resolve", f"--init-file={init}"]
    command += ["--transaction-isolation=READ-COMMITTED", "--innodb-buffer-pool-size=64M"]
    command += [
        "--character-set-server=utf8mb4",
        "--performance-schema=OFF",
        "--max-connections=200",
    ]
    greeting = Talk(port, b"MariaDB")
    return _server(profile, "mariadb", command, home=home, port=port, ready=greeting)


def mariadb_database(profile: Profile, owner: str) -> list[str]:
    """A service's database, and its user who may do all in it and nothing elsewhere."""
    create = f"CREATE DATABASE IF NOT EXISTS {owner} CHARACTER SET utf8mb4;"
    return [create, *_mariadb_user(profile, owner, f"ALL ON {owner}.*")]


def _mariadb_user(profile: Profile, name: str, grant: str, option: str = "") -> list[str]:
    who = f"'{name}'@'%'"
    password = secret(profile, f"mariadb_{name}")
    return [
        f"CREATE USER IF NOT EXISTS {who};",
        f"ALTER USER {who} IDENTIFIED BY '{password}';",
        f"GRANT {grant} TO {who}{option};",
    ]


def _mariadb_users(profile: Profile) -> list[str]:
    root = secret(profile, "mariadb_root")
    return [
        # an anonymous local user would shadow every user@'%'
        "DELETE FROM mysql.global_priv WHERE User = '';",
        "FLUSH PRIVILEGES;",
        f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{root}';",
        *(line for owner in OWNERS for line in mariadb_database(profile, owner)),
        *_mariadb_user(profile, "admin", "ALL ON *.*", " WITH GRANT OPTION"),
    ]


def varnish(profile: Profile) -> Process:
    """The cache. It has two listeners: only `purge` purges, and it does nothing else."""
    home = profile.folder("varnish")
    main = edge.varnish(home, edge.loopback(profile.ports, home))
    port = profile.ports["varnish"]
    command = [_program("varnishd"), "-F", "-j", "none", "-n", str(profile.folder("varnish", "n"))]
    command += ["-a", f"http=127.0.0.1:{port}"]
    command += ["-a", f"purge=127.0.0.1:{profile.ports['varnish-purge']}"]
    command += ["-T", f"127.0.0.1:{profile.ports['varnish-admin']}"]
    command += ["-f", str(main), "-s", "malloc,64M"]
    return _server(profile, "varnish", command, home=home, port=port, ready=_asked(port))


def nginx(profile: Profile) -> Process:
    """The front door; ready when Varnish answers through it."""
    home = profile.folder("nginx")
    config = edge.nginx(home, edge.loopback(profile.ports, home))
    port = profile.ports["edge"]
    command = [_program("nginx"), "-p", str(home), "-c", str(config)]
    command += ["-e", "stderr", "-g", "daemon off;"]
    needs = ["varnish"]
    return _server(profile, "nginx", command, home=home, port=port, ready=_asked(port), needs=needs)


def _asked(port: int) -> Talk:
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return Talk(port, b"HTTP/1.1 200 ", ask)


def _server(
    profile: Profile,
    name: str,
    command: list[str],
    *,
    home: Path,
    port: int,
    ready: Talk | Http,
    env: dict[str, str] | None = None,
    needs: list[str] | None = None,
    within: float = 60,
    stop_within: float = 20,
) -> Process:
    give(home)
    user = account()
    paths = [home, Path(command[0])]
    base = {"PATH": os.defpath + ":/usr/sbin:/sbin", "LANG": "C.UTF-8", "HOME": str(home)}
    return Process(
        name=name,
        command=[*drop(user, *paths), *command],
        directory=str(home),
        log=str(profile.folder("log") / f"{name}.log"),
        env=base | (env or {}),
        port=port,
        ready=ready,
        needs=needs or [],
        ready_within=within,
        stop_within=stop_within,
    )


def _program(name: str) -> str:
    found = shutil.which(name, path=os.defpath + ":/usr/sbin:/sbin:/usr/bin")
    if found is None:
        raise ServerMissing(f"{name} is not installed")
    return found


def _quoted(path: Path) -> str:
    return f'"{path}"'


OWNERS = ("checkout", "stock")
"""Services with a database on MariaDB."""
# what a client asks a cluster for: who has which slot, and where a command's keys stand
ASKS_CLUSTER = " +cluster|slots +cluster|shards +cluster|myid +command"
STOCK_ACCESS = (
    "~{s*}:* +@read +@write +@stream +@transaction +@connection +eval +evalsha"
    " +script|load +script|exists -@dangerous -@admin +info +time"
) + ASKS_CLUSTER
CARTS_ACCESS = (
    "~cart:* ~coupon:* ~session:* ~limit:* +@read +@write +@transaction +@connection +eval +evalsha"
    " +script|load +script|exists -@dangerous -@admin +info +time"
) + ASKS_CLUSTER
# what each keeps, whose it is, and what its owner may do
REDIS: dict[str, tuple[list[str], str, str]] = {
    # nothing is evicted, every write is on disk when told
    "redis-stock": (
        ["maxmemory 256mb", "appendonly yes", "appendfsync always", "maxmemory-policy noeviction"],
        "stock",
        STOCK_ACCESS,
    ),
    # the least used carts with a time to live go first when memory is short
    "redis-carts": (
        [
            "maxmemory 128mb",
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy volatile-lru",
        ],
        "checkout",
        CARTS_ACCESS,
    ),
}
RABBITMQ = [
    f"max_message_size = {MAX_MESSAGE}",
    "vm_memory_high_watermark.absolute = 1GB",
    "disk_free_limit.absolute = 500MB",
    "log.console = true",
    "log.file = false",
]
RABBITMQ_PLUGINS = [
    "rabbitmq_management",
    "rabbitmq_prometheus",
    "rabbitmq_consistent_hash_exchange",
]
REDIS_START = ROOT / "deploy" / "redis" / "start.sh"
ALONE = {"discovery.type": "single-node"}
ELASTICSEARCH: dict[str, object] = {
    "xpack.security.enabled": False,
    "action.destructive_requires_name": True,
    "cluster.max_shards_per_node": 3000,
    "cluster.routing.allocation.disk.threshold_enabled": False,
}
CLUSTERED = ("redis-stock", "redis-carts", "rabbitmq", "elasticsearch")
"""Servers that are several nodes where the profile is clustered."""
SERVERS: dict[str, Callable[[Profile], Process]] = {
    "redis-stock": redis_stock,
    "redis-carts": redis_carts,
    "epmd": epmd,
    "rabbitmq": rabbitmq,
    "elasticsearch": elasticsearch,
    "mariadb": mariadb,
    "varnish": varnish,
    "nginx": nginx,
}
