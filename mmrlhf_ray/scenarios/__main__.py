"""`python -m mmrlhf_ray.scenarios NAME OUT`: a recipe of docs/scenarios/, from its data to its table."""

import argparse
import sys
from pathlib import Path

from mmrlhf_ray.errors import UserError
from mmrlhf_ray.scenarios.recipe import SCENARIOS, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mmrlhf_ray.scenarios", description=__doc__)
    parser.add_argument("name", choices=sorted(SCENARIOS))
    parser.add_argument("out", type=Path, help="directory to write to, e.g. runs/driving")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of jobs/scenarios/NAME.yaml")
    parser.add_argument("--data", type=Path, help="the public data set in its own layout; without it one is made")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        run(given.name, given.out, given.data, given.seed, given.changes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
