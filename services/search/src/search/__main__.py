"""`python -m search api | worker`: the processes that this service can run."""

from chassis.process import main
from search.app import api, worker

main("search", {"api": api, "worker": worker})
