"""`python -m payments simulator`. Knows the name of the process only."""

from chassis.process import main
from payments import app

if __name__ == "__main__":
    main("payments", {"simulator": app.simulator})
