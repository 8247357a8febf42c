"""A tiny, untrained model of a real family, to try jobs with on a machine without a GPU."""

import argparse
from pathlib import Path

from mmrlhf_ray.demo.families import FAMILIES


def main() -> None:
    """Write the model that the command line asks for and print its directory. Exit status 2 for a family that is not
    known and a directory that exists."""
    parser = argparse.ArgumentParser(prog="python -m mmrlhf_ray.demo.tiny_model", description=__doc__)
    parser.add_argument("family", choices=FAMILIES, help="model_type")
    parser.add_argument("out", type=Path, help="directory to write, e.g. models/tiny")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already; choose another directory")
    FAMILIES[arguments.family](arguments.out, arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()
