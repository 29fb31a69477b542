"""An engine, Compose and base images made here, where none can be pulled. Knows no service.

For the test of images and compose.yaml: each server comes from Debian, Elasticsearch from the
distribution of the native stack, laid out as compose.yaml expects of the official images.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from shop import elastic
from shop.containers import NoContainers
from shop.profiles import ROOT

FOLDER = ROOT / "var" / "engine"
COMPOSE = "github.com/docker/compose/v2@v2.40.3"
BASE = "shopstream-standin/python:3"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
START_SECONDS = 60
NEEDED = "apt-get install docker.io debootstrap"

Say = Callable[[str], None]


class Recipe(Struct, frozen=True):
    """A stand-in: Debian's packages and the lines that follow them in its Dockerfile."""

    packages: str
    lines: str = ""
    files: Path | None = None


@contextmanager
def engine(say: Say = print) -> Iterator[dict[str, str]]:
    """The environment in which `docker` answers; an engine of our own where none does.

    Raises NoContainers.
    """
    if _run(["docker", "info"]).returncode == 0:
        yield {}
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise NoContainers(f"no engine answers, and to start one takes root and: {NEEDED}")
    data = FOLDER / "data"
    data.mkdir(parents=True, exist_ok=True)
    # sockets have short names only
    run = Path(tempfile.mkdtemp(prefix="shop-engine-"))
    env = {"DOCKER_HOST": f"unix://{run}/engine.sock"}
    command = ["dockerd", "--data-root", str(data), "--exec-root", str(run / "exec")]
    command += ["--pidfile", str(run / "pid"), "--host", env["DOCKER_HOST"]]
    say("starting a container engine of our own")
    log = FOLDER / "dockerd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while _run(["docker", "info"], env).returncode != 0:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise NoContainers(f"dockerd did not start, see {log}")
            time.sleep(0.2)
        yield env
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        # the engine leaves the mount of its own network namespace behind
        _run(["umount", str(run / "exec" / "netns" / "default")])
        shutil.rmtree(run, ignore_errors=True)


def compose(say: Say = print) -> Path:
    """Compose, built from its source by Go; made once. Raises NoContainers."""
    program = FOLDER / "docker-compose"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise NoContainers("Docker has no Compose; install it, or Go 1.24 or newer to build it")
    say("building Compose (minutes)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    module = _checked(["go", "mod", "download", "-json", COMPOSE])
    source = FOLDER / "compose"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(msgspec.json.decode(module)["Dir"], source, copy_function=shutil.copy)
    for folder, _, _ in os.walk(source):
        Path(folder).chmod(0o755)
    _checked(["go", "build", "-trimpath", "-o", str(program), "./cmd"], cwd=source)
    shutil.rmtree(source)
    return program


def images(env: Mapping[str, str], say: Say = print) -> dict[str, str]:
    """The variables of compose.yaml that name the stand-ins, each made when it is missing.

    Raises NoContainers.
    """
    if not _has(BASE, env):
        say("making the base image")
        _base(env)
    named = {"PYTHON_IMAGE": BASE, "BUILD_NETWORK": "host", "DOCKER_BUILDKIT": "0"}
    for name, recipe in RECIPES.items():
        image = f"shopstream-standin/{name}:debian"
        if not _has(image, env):
            say(f"making the stand-in for {name}")
            _stand_in(image, recipe, env)
        named[f"{name.upper()}_IMAGE"] = image
    return named


def _base(env: Mapping[str, str]) -> None:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise NoContainers(f"the base image takes root and: {NEEDED}")
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        root = Path(folder) / "root"
        packages = "--include=python3,python3-venv,ca-certificates,curl"
        _checked(["debootstrap", "--variant=minbase", packages, "bookworm", str(root)])
        # behind a proxy of its own authority the machine's certificates are needed inside too
        inside = root / CERTIFICATES.relative_to("/")
        shutil.copy(CERTIFICATES, inside)
        # packages must not start their servers while an image is built
        policy = root / "usr" / "sbin" / "policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        tar = ["tar", "-C", str(root), "-c", "."]
        variables = f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES}"
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as packed:
            _checked(["docker", "import", "--change", variables, "-", BASE], env, packed.stdout)


def _stand_in(image: str, recipe: Recipe, env: Mapping[str, str]) -> None:
    install = "apt-get install -y -qq --no-install-recommends"
    text = f"""FROM {BASE}
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive {install} {recipe.packages} >/dev/null \\
    && rm -rf /var/lib/apt/lists/*
{recipe.lines}
"""
    with tempfile.TemporaryDirectory(dir=FOLDER) as empty:
        dockerfile = Path(empty) / "Dockerfile"
        dockerfile.write_text(text)
        command = ["docker", "build", "--quiet", "--network", "host", "--tag", image]
        command += ["--file", str(dockerfile), str(recipe.files or empty)]
        _checked(command, {**env, "DOCKER_BUILDKIT": "0"})


def _has(image: str, env: Mapping[str, str]) -> bool:
    return _run(["docker", "image", "inspect", image], env).returncode == 0


def _checked(
    command: list[str],
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    cwd: Path | None = None,
) -> bytes:
    done = _run(command, env, stdin, cwd)
    if done.returncode != 0:
        raise NoContainers(f"{' '.join(command)} failed:\n{done.stderr.decode()[-2000:]}")
    return done.stdout


def _run(
    command: list[str],
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    cwd: Path | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command, env=environment, stdin=stdin, cwd=cwd, capture_output=True, check=False
    )


RECIPES = {
    "redis": Recipe("redis-server", "RUN install -d -o redis -g redis /data"),
    "rabbitmq": Recipe(
        "rabbitmq-server",
        "RUN ln -s /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-* /usr/local/bin/"
        " && rm -rf /var/lib/rabbitmq/.erlang.cookie /var/lib/rabbitmq/mnesia",
    ),
    "elasticsearch": Recipe(
        "default-jre-headless",
        f"COPY elasticsearch-{elastic.VERSION} /usr/share/elasticsearch\n"
        "RUN useradd --uid 1000 --gid 0 elasticsearch && cd /usr/share/elasticsearch"
        " && sed -i /gc.log/d config/jvm.options && mkdir -p data logs"
        " && chown -R 1000:0 . && chmod -R u+rwX .\n"
        "ENV ES_JAVA_HOME=/usr/lib/jvm/default-java\n"
        "WORKDIR /usr/share/elasticsearch\n"
        'ENTRYPOINT ["bin/elasticsearch"]',
        ROOT / "var" / "dist",
    ),
    "varnish": Recipe("varnish varnish-modules gcc libc6-dev"),
    "nginx": Recipe("nginx-light", "RUN useradd --system nginx"),
    "mariadb": Recipe(
        "mariadb-server",
        "COPY mariadb-start /usr/local/bin/start\n"
        "RUN rm -rf /var/lib/mysql/*\n"
        'ENTRYPOINT ["start"]',
        ROOT / "deploy" / "standins",
    ),
}
