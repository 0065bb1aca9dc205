"""Every bench of speed, one after the other, then RESULTS.md.

    python -m infra.bench                  hours on two cores
    python -m infra.bench fold index       only these
    python -m infra.bench --data FOLDER    a catalog of one's own in `encoder` as well

Each runs as a process of its own, so that none inherits memory, threads or a Ray cluster.
"""

import argparse
import subprocess
import sys

from infra.bench.results_page import main as write_page

BENCHES = (
    "fold",
    "index",
    "encoder",
    "train",
    "night",
    "append_cost",
    "list_cost",
    "serve",
    "serve_postgres",
    "growth",
    "gpu",
)
"""In this order: `growth` reads what `serve` found."""


def main() -> int:
    """Run them; the status is 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME")
    parser.add_argument("--data", metavar="FOLDER")
    asked = parser.parse_args()
    names = asked.names or BENCHES
    own = {} if asked.data is None else {"encoder": ["--data", asked.data]}
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"infra.bench.{name}", *own.get(name, [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    write_page()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
