"""`python -m checkout api | relay | worker | migrate`. Knows the names of the processes only."""

from chassis.process import main
from checkout import app

if __name__ == "__main__":
    main(
        "checkout",
        {"api": app.api, "relay": app.relay, "worker": app.worker, "migrate": app.migrate},
    )
