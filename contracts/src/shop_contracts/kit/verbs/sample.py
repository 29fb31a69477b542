"""`contracts sample`: valid events of a type, one on a line; the same ones for the same seed."""

import argparse
import json
import sys
from random import Random

from shop_contracts.kit.goldens import NoSuchType, examples
from shop_contracts.kit.sampling import sample


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("type", help="for example stock.changed.v1")
    parser.add_argument("-n", "--number", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--golden", action="store_true", help="the golden ones instead")


def run(options: argparse.Namespace) -> int:
    random = Random(options.seed)  # noqa: S311 - samples, not secrets
    try:
        made = (
            list(examples(options.type).values())
            if options.golden
            else [sample(options.type, random) for _ in range(options.number)]
        )
    except NoSuchType as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for event in made:
        sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
    return 0
