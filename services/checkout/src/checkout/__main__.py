"""`python -m checkout api | relay | worker | notify | migrate`. Knows the processes' names only."""

from chassis.process import main
from checkout import app

if __name__ == "__main__":
    main(
        "checkout",
        {
            "api": app.api,
            "relay": app.relay,
            "worker": app.worker,
            "notify": app.notifier,
            "migrate": app.migrate,
        },
    )
