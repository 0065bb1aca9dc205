"""Drill `runbook`: each runbook is tried. Its alert's fault is made on a running stack; a real
Prometheus, which scrapes it, says that the alert fires; the doctor names it; the commands of the
runbook's mitigation are taken from its text and run; the alert ends.

Rounds are runbooks. Of the seconds until the alert fires and until it ends most is the hurried
rules' own (`infra.drills.ward`).
"""

import json
import time
from collections.abc import Sequence

from tqdm import tqdm

from infra import runbooks
from infra.drills.faults import FAULTS, Fault
from infra.drills.figures import Figures, Options
from infra.drills.victims import wait_for
from infra.drills.ward import Ward, ward

FIRES_S = 120.0
ENDS_S = 180.0


def run(options: Options) -> Figures:
    """All of them, or the one that `options.name` says, on one stack."""
    names = list(FAULTS) if options.name is None else [options.name]
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise ValueError(f"runbook: {unknown[0]!r}, accepted: {', '.join(FAULTS)}")
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


def _try(here: Ward, name: str, fault: Fault, figures: Figures) -> None:
    if name in here.prometheus.firing():
        wait_for(f"{name} ends before it begins", lambda: _is_over(here, name), ENDS_S)
    take_away = fault.inject(here)
    try:
        fires_s = wait_for(f"{name} fires", lambda: _fires(here, name), FIRES_S)
        figures.more[f"{name}_fires_s"] = round(fires_s, 1)
        _name(here, name, fault.named or name, figures)
        for command in runbooks.read(name).commands("Mitigation"):
            _do(here, command, fault, figures)
        ends_s = wait_for(f"{name} ends", lambda: _is_over(here, name), ENDS_S)
        figures.more[f"{name}_ends_s"] = round(ends_s, 1)
    finally:
        if take_away is not None:
            take_away()


def _is_over(here: Ward, name: str) -> bool:
    """A scrape that failed says nothing."""
    is_seen = here.prometheus.values("min_over_time(up[5s])") == [1.0]
    return is_seen and name not in here.prometheus.firing()


def _fires(here: Ward, name: str) -> bool:
    is_seen = here.prometheus.values("min_over_time(up[5s])") == [1.0]
    return is_seen and name in here.prometheus.firing()


def _name(here: Ward, name: str, expected: str, figures: Figures) -> None:
    """The doctor, asked while it is so."""
    done = here.run("moonlark doctor --json")
    found = json.loads(done.stdout)["findings"] if done.stdout.startswith("{") else []
    named = {finding["name"] for finding in found}
    if done.returncode != 1 or expected not in named:
        said = f"ended {done.returncode}, named {named}, not {expected}: {done.stderr[-300:]}"
        figures.tell(f"{name}: doctor {said}")


def _do(here: Ward, command: str, fault: Fault, figures: Figures) -> None:
    for beginning, do in fault.stand_ins.items():
        if command.startswith(beginning):
            do(here)
            return
    done = here.run(command)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-500:]
        figures.tell(f"{command!r} ended with {done.returncode}: {said}")
    for beginning, hand_on in fault.hands_on.items():
        if command.startswith(beginning):
            hand_on(here, done.stdout)
