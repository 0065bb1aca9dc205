"""What the infrastructure broke, and how a job says so: its Airflow task is tried again.

Anything else, a gate that refuses or a bug, would end the same way again, and is told at once.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RaySystemError,
    WorkerCrashedError,
)
from sqlalchemy.exc import InterfaceError, OperationalError

from ray_jobs.nightly.workspace import NoCpus
from ray_jobs.shards.errors import StoreAway
from sql.errors import StoreUnavailable

log = logging.getLogger("moonlark.night")

TRY_AGAIN_EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: the Airflow task that started the job is retried."""

INFRASTRUCTURE_ERRORS = (
    NoCpus,
    StoreUnavailable,
    StoreAway,  # the object store
    OperationalError,  # the database does not answer, or is locked
    InterfaceError,
    RaySystemError,
    NodeDiedError,
    WorkerCrashedError,
    ActorDiedError,
    ObjectLostError,
    OutOfMemoryError,
    ConnectionError,
    TimeoutError,
)
"""What says nothing against the work of the job: a retry may well succeed."""


@contextmanager
def ends_for_another_try(name: str) -> Iterator[None]:
    """Around all that a job does. `name`: as its log says it."""
    try:
        yield
    except INFRASTRUCTURE_ERRORS:
        log.exception("%s: worth another try", name)
        sys.exit(TRY_AGAIN_EXIT_CODE)
