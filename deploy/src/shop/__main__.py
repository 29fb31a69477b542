"""`python -m shop`: hands over to the command line and knows nothing else."""

from shop.cli import main

if __name__ == "__main__":
    main()
