"""`./dev bench [AREA]...`: prints the tables, one area after the other."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench import areas
from tests.bench.measure import load, show


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Figures of ours beside the peers installed here.")
    parser.add_argument("area", nargs="*", metavar="AREA", help=f"{', '.join(areas.AREAS)}; all when none is named")
    parser.add_argument("--rounds", type=int, default=9, help="how often each contender goes (%(default)s)")
    parser.add_argument("--scratch", help="where to work; a tmpfs gives steadier figures")
    options = parser.parse_args()
    unknown = set(options.area) - set(areas.AREAS)
    if unknown:
        parser.error(f"no area {', '.join(sorted(unknown))}; there are: {', '.join(areas.AREAS)}")
    areas.environment()
    print(load())
    for name in options.area or areas.AREAS:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch) as scratch:
            for table in areas.AREAS[name](Path(scratch), options.rounds):
                print(f"\n{show(table)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
