"""`python -m stock api | relay | worker`. Knows the names of the processes only."""

from chassis.process import main
from stock import app

if __name__ == "__main__":
    main("stock", {"api": app.api, "relay": app.relay, "worker": app.worker})
