"""`python -m stock NAME`, see below for the names. Knows nothing else of the processes."""

from chassis.process import main
from stock import app

if __name__ == "__main__":
    main(
        "stock",
        {
            "api": app.api,
            "relay": app.relay,
            "worker": app.worker,
            "notify": app.notifier,
            "journal": app.journal,
            "migrate": app.migrate,
            "rebuild": app.rebuild,
        },
    )
