"""What the infrastructure broke, and how a job says so: its Airflow task is tried again.

Anything else, a gate that refuses or a bug, would end the same way again, and is told at once.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import InterfaceError, OperationalError

from ray_jobs.shards.errors import StoreAway
from sql.errors import StoreUnavailable

log = logging.getLogger("moonlark.night")

TRY_AGAIN_EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: the Airflow task that started the job is retried."""

STORE_ERRORS: tuple[type[Exception], ...] = (
    StoreUnavailable,
    StoreAway,  # the object store
    OperationalError,  # the database does not answer, or is locked
    InterfaceError,
    ConnectionError,
    TimeoutError,
)
"""What says nothing against the work of a job: a retry may well succeed. Where a job asks Ray there
are more (`step.INFRASTRUCTURE_ERRORS`); this module is without it, as `moonlark erase` is."""


@contextmanager
def ends_for_another_try(
    name: str, errors: tuple[type[Exception], ...] = STORE_ERRORS
) -> Iterator[None]:
    """Around all that a job does. `name`: as its log says it."""
    try:
        yield
    except errors:
        log.exception("%s: worth another try", name)
        sys.exit(TRY_AGAIN_EXIT_CODE)
