"""Drill `runbook`: each runbook is tried. Its alert's fault is made on a running stack; a real
Prometheus, which scrapes it, says that the alert fires; the doctor names it; the commands of the
runbook's diagnosis and mitigation are taken from its text and run; the alert, which fires until the
first of these is given, ends.

Rounds are runbooks. Of the seconds until the alert fires and until it ends most is the hurried
rules' own (`infra.drills.ward`).
"""

import re
import time
from collections.abc import Sequence, Set

from tqdm import tqdm

from infra import runbooks
from infra.drills.faults import FAULTS, Fault, runbook_of
from infra.drills.figures import Figures, Options
from infra.drills.victims import wait_for
from infra.drills.ward import Ward, ward

FIRES_S = 180.0
ENDS_S = 240.0
STILL_S = 60.0
"""A scrape may fail, and what flutters may be quiet for a moment."""
SEEN = 'min_over_time(up{job="moonlark"}[6s])'
DOCTOR = "moonlark doctor"
ANSWERS = {DOCTOR: {1}}
"""Exit statuses of the commands of a diagnosis, where they are not 0: something is wrong. Others
are a fault's own (`Fault.answers`)."""


def run(options: Options) -> Figures:
    """All of them, or the one that `options.name` says, on one stack."""
    asked = options.name
    names = [name for name in FAULTS if asked in (None, name, runbook_of(name))]
    if not names:
        raise ValueError(f"runbook: {asked!r}, accepted: {', '.join(FAULTS)}")
    with ward(options.seed) as here:
        return run_on(here, names, options)


def run_on(here: Ward, names: Sequence[str], options: Options) -> Figures:
    """These runbooks, one after the other."""
    figures = Figures("runbook", len(names), options.seed)
    for name in tqdm(names, "runbook", unit="runbook", disable=not options.progress):
        began_s = time.monotonic()
        try:
            _try(here, name, FAULTS[name], figures)
        except (TimeoutError, AssertionError, OSError) as error:
            figures.tell(f"{name}: {error}")
        figures.more[f"{name}_s"] = round(time.monotonic() - began_s, 1)
    return figures


def _try(here: Ward, tried: str, fault: Fault, figures: Figures) -> None:
    name = runbook_of(tried)
    if name in here.prometheus.firing():
        wait_for(f"{name} ends before it begins", lambda: _is_over(here, name), ENDS_S)
    take_away = fault.inject(here)
    try:
        fires_s = wait_for(f"{name} fires", lambda: _fires(here, name), FIRES_S)
        figures.more[f"{tried}_fires_s"] = round(fires_s, 1)
        runbook = runbooks.read(name)
        for command in runbook.commands("Diagnosis"):
            said = _do(here, tried, command, fault, figures, _accepted(command, fault))
            if command == DOCTOR and not re.search(rf"^{fault.named or name}\b", said, re.M):
                figures.tell(f"{tried}: the doctor does not name {fault.named or name}: {said}")
        wait_for(f"{name} still fires", lambda: _fires(here, name), STILL_S)
        for command in runbook.commands("Mitigation"):
            _do(here, tried, command, fault, figures)
        ends_s = wait_for(f"{name} ends", lambda: _is_over(here, name), ENDS_S)
        figures.more[f"{tried}_ends_s"] = round(ends_s, 1)
    finally:
        if take_away is not None:
            take_away()


def _accepted(command: str, fault: Fault) -> Set[int]:
    for beginning, statuses in fault.answers.items():
        if command.startswith(beginning):
            return statuses
    return ANSWERS.get(command, {0})


def _is_over(here: Ward, name: str) -> bool:
    """A scrape that failed says nothing."""
    is_seen = here.prometheus.values(SEEN) == [1.0]
    return is_seen and name not in here.prometheus.firing()


def _fires(here: Ward, name: str) -> bool:
    is_seen = here.prometheus.values(SEEN) == [1.0]
    return is_seen and name in here.prometheus.firing()


def _do(
    here: Ward,
    tried: str,
    command: str,
    fault: Fault,
    figures: Figures,
    accepted: Set[int] = frozenset({0}),
) -> str:
    """What it printed."""
    for beginning, do in fault.stand_ins.items():
        if command.startswith(beginning):
            do(here)
            return ""
    done = here.run(command)
    if done.returncode not in accepted:
        said = (done.stdout + done.stderr)[-500:]
        figures.tell(f"{tried}: {command!r} ended with {done.returncode}: {said}")
    for beginning, hand_on in fault.hands_on.items():
        if command.startswith(beginning):
            hand_on(here, done.stdout)
    return done.stdout
