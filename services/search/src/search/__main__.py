"""`python -m search api | worker | rebuild`: the processes that this service can run."""

from chassis.process import main
from search.app import api, rebuild, worker

main("search", {"api": api, "worker": worker, "rebuild": rebuild})
