"""Checks rules, their tests and the scrape configurations with promtool, where it is installed.

Run: python -m infra.prometheus.check (part of `make check`). Debian has promtool in the package
`prometheus`; without it this says so and passes, for a developer may not have it. CI installs it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
RULES = FOLDER / "rules.yaml"
RULES_TESTS = sorted(FOLDER.glob("rules_test*.yaml"))
CHECKS = (
    ("check", "config", "prometheus.yaml"),
    # Its rules lie where compose mounts them.
    ("check", "config", "--syntax-only", "../docker/prometheus.yaml"),
    ("check", "rules", "rules.yaml"),
    ("test", "rules", *(path.name for path in RULES_TESTS)),
)


def promtool() -> str | None:
    """Its path; None where it is not installed."""
    return shutil.which("promtool")


def run(tool: str) -> list[str]:
    """What is wrong, in promtool's words; empty where nothing is."""
    wrong = []
    for check in CHECKS:
        done = subprocess.run(
            [tool, *check], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            wrong.append(f"promtool {' '.join(check)}:\n{done.stdout}{done.stderr}")
    return wrong


def main() -> int:
    """The exit status."""
    tool = promtool()
    if tool is None:
        print("rules are not checked: promtool is not here (apt-get install prometheus)")
        return 0
    wrong = run(tool)
    for words in wrong:
        print(words, file=sys.stderr)
    if not wrong:
        print("promtool: rules and their tests are sound")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
