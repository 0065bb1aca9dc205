"""Runbooks, one a file per alert and of its name: meaning, impact, diagnosis, mitigation, whom to
call then.

`read(name)` gives one in parts: `moonlark doctor` tells its impact, the drill `runbook` runs its
mitigation, tests hold its commands against the command line.
"""

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
SECTIONS = ("Meaning", "Impact", "Diagnosis", "Mitigation", "Escalation")
_FENCED = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)


class Runbook(NamedTuple):
    """`sections`: heading -> text, in the order of `SECTIONS`."""

    name: str
    sections: dict[str, str]

    def commands(self, section: str) -> list[str]:
        """The lines of its fenced blocks."""
        blocks = _FENCED.findall(self.sections[section])
        return [line for block in blocks for line in block.splitlines() if line.strip()]

    @property
    def path(self) -> str:
        """Relative to the repository, as alerts name it."""
        return f"infra/runbooks/{self.name}.md"


def names() -> list[str]:
    """Of all runbooks."""
    return sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README")


def read(name: str) -> Runbook:
    """Raises ValueError where a section is missing, or not in its place."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    title, *parts = re.split(r"^## ", text, flags=re.M)
    sections = {}
    for part in parts:
        heading, _, body = part.partition("\n")
        sections[heading] = body.strip() + "\n"
    if title.strip() != f"# {name}" or tuple(sections) != SECTIONS:
        raise ValueError(f"{name}.md: {title.strip()!r} with {tuple(sections)}, not {SECTIONS}")
    return Runbook(name, sections)
