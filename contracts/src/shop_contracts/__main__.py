"""`python -m shop_contracts` is `contracts`."""

import sys

from shop_contracts.cli import main

if __name__ == "__main__":
    sys.exit(main())
