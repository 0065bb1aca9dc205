"""What a look comes to: something is wrong, or it could not be looked at."""

import re
from dataclasses import dataclass, replace

from infra import runbooks


@dataclass(frozen=True, slots=True)
class Finding:
    """`runbook`: by its name. `since_ms`: None where nobody knows. `users_see`: None where the
    runbook says it."""

    runbook: str
    what: str
    since_ms: int | None = None
    users_see: str | None = None

    @property
    def users(self) -> str:
        """What users see; of a runbook, the first sentence of its impact."""
        if self.users_see is not None:
            return self.users_see
        impact = " ".join(runbooks.read(self.runbook).sections["Impact"].split())
        return re.split(r"(?<=\.) ", impact)[0]


@dataclass(frozen=True, slots=True)
class NotSeen:
    """Something that could not be looked at, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """What was found. `seen`: what was looked at and is well."""

    findings: tuple[Finding, ...] = ()
    not_seen: tuple[NotSeen, ...] = ()
    seen: tuple[str, ...] = ()

    def __add__(self, other: "Look") -> "Look":
        findings = self.findings + other.findings
        return Look(findings, self.not_seen + other.not_seen, self.seen + other.seen)


def agreed(look: Look) -> Look:
    """What one finding knows of when it began, the others of its runbook are told."""
    known = {each.runbook: each.since_ms for each in look.findings if each.since_ms is not None}
    findings = tuple(
        each if each.since_ms is not None else replace(each, since_ms=known.get(each.runbook))
        for each in look.findings
    )
    return replace(look, findings=findings)


def looked(what: str, *found: Finding | None) -> Look:
    """`what` is well, but for what was found."""
    findings = tuple(finding for finding in found if finding is not None)
    return Look(findings, (), () if findings else (what,))
