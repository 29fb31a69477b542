"""`python -m purger worker`: the one process of the edge that is ours."""

from chassis.process import main
from purger.app import worker

main("purger", {"worker": worker})
