"""What a server's configuration says more where it is a node of a cluster. Starts nothing."""

import hashlib
from pathlib import Path

from shop.profiles import Profile

BUS = 50  # the bus of a Redis Cluster is so far above its port
SLOTS = 16_384
TIMEOUT_MS = 5_000


def redis(profile: Profile, name: str, home: Path) -> list[str]:
    """Three masters, and no replica: one that takes over may not have heard of the last writes.

    Who has which slot stands in the file where each node remembers it, so nobody has to form the
    cluster once its nodes are there.
    """
    remembered = home / "nodes.conf"
    if not remembered.exists():
        nodes = [_redis_node(node, name, profile) for node in profile.nodes()]
        epoch = f"vars currentEpoch {len(nodes)} lastVoteEpoch 0"
        remembered.write_text("\n".join([*nodes, epoch]) + "\n")
    return [
        "cluster-enabled yes",
        "cluster-config-file nodes.conf",
        f"cluster-port {profile.ports[name] + BUS}",
        f"cluster-node-timeout {TIMEOUT_MS}",
        # while one is away, the slots of the others are served
        "cluster-require-full-coverage no",
    ]


def _redis_node(node: Profile, name: str, seen_by: Profile) -> str:
    id_ = hashlib.sha256(f"{node.name} {name} {node.node}".encode()).hexdigest()[:40]
    port, number, count = node.ports[name], node.node - 1, len(node.nodes())
    first, last = SLOTS * number // count, SLOTS * (number + 1) // count - 1
    flags = "myself,master" if node.node == seen_by.node else "master"
    place = f"127.0.0.1:{port}@{port + BUS}"
    return f"{id_} {place} {flags} - 0 0 {node.node} connected {first}-{last}"


def erlang(node: int) -> str:
    """The name of a broker's node."""
    return "shop@localhost" if node == 1 else f"shop{node}@localhost"


def rabbitmq(profile: Profile) -> list[str]:
    """The nodes find each other by their names."""
    formation = "cluster_formation"
    return [
        f"{formation}.peer_discovery_backend = classic_config",
        *(
            f"{formation}.classic_config.nodes.{node.node} = {erlang(node.node)}"
            for node in profile.nodes()
        ),
    ]


def elasticsearch(profile: Profile) -> dict[str, object]:
    """The nodes find each other by their ports, and elect one of them."""
    nodes = profile.nodes()
    return {
        "discovery.seed_hosts": [f"127.0.0.1:{n.ports['elasticsearch-transport']}" for n in nodes],
        "cluster.initial_master_nodes": [node.named("shop") for node in nodes],
    }
