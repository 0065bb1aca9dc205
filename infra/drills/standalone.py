"""Drill `standalone`: `airflow standalone` runs the nights by itself, on a schedule.

The DAG as it is shipped, due every minute instead of at night; nobody triggers anything. Each night
must end well and publish once, and never two at a time.
"""

import time

from tqdm import tqdm

from infra.drills.airflow_nights import AirflowNights, airflow_nights
from infra.drills.figures import Figures, Options
from infra.stack.airflow_components import StandaloneAirflow

EVERY_MINUTE = "* * * * *"
NIGHTS = 2
OVER = ("success", "failed")


def run(options: Options) -> Figures:
    """`rounds` nights, by default two."""
    wanted = NIGHTS if options.rounds is None else options.rounds
    figures = Figures("standalone", wanted, options.seed)
    with (
        airflow_nights(StandaloneAirflow, figures, options.seed, schedule=EVERY_MINUTE) as nights,
        tqdm(total=wanted, desc="standalone", unit="night", disable=not options.progress) as bar,
    ):
        started_s = time.monotonic()
        most_at_once = 0
        for number in range(1, wanted + 1):
            over: list[str] = []

            def is_over(number: int = number) -> bool:
                nonlocal most_at_once, over
                states = [run["state"] for run in nights.runs()]
                most_at_once = max(most_at_once, states.count("running"))
                over = [state for state in states if state in OVER]
                return len(over) >= number

            if not nights.wait(is_over, f"night {number}"):
                break
            bar.update()
        _check(nights, figures, wanted)
        if most_at_once > 1:
            figures.tell(f"{most_at_once} nights ran at once")
        figures.more |= {
            "nights": wanted,
            "published": nights.flips(),
            "seconds": round(time.monotonic() - started_s, 1),
        }
    return figures


def _check(nights: AirflowNights, figures: Figures, wanted: int) -> None:
    runs = nights.runs()[:wanted]
    for run in runs:
        if run["run_type"] != "scheduled" or run["state"] != "success":
            figures.tell(f"{run['dag_run_id']}: {run['run_type']}, ended {run['state']}")
    if nights.flips() < wanted:
        figures.tell(f"{wanted} nights published {nights.flips()} times")
