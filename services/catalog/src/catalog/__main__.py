"""`python -m catalog api | worker | relay`: the processes that this service can run."""

from catalog.app import api, relay, worker
from chassis.process import main

main("catalog", {"api": api, "worker": worker, "relay": relay})
