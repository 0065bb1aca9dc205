"""Refuses to run on two faiss distributions at once.

`faiss-cpu` and `faiss-gpu` install into the same folder and overwrite each other's files, while
`pip check` stays clean: which library is loaded is then chance. The writer and the reader call
`refuse_two_faiss()` before they touch an index; importing this module checks nothing.

Threads: faiss takes every core through OpenMP, whose setting is per thread. A search of one query
sets 1 for its own duration (`faiss_index.ThreadsFor`). Training, building and searching a batch
use the caller's number: a job calls `faiss.omp_set_num_threads(cpus of its task)` on the thread
that works, or starts with OMP_NUM_THREADS, which also reaches threads made later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import metadata

from ray_jobs.shards.errors import FaissConflict

EXCLUSIVE_DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")


def is_installed(distribution: str) -> bool:
    """Whether a distribution of that name is installed in this interpreter."""
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_distributions(installed: Callable[[str], bool]) -> None:
    """Raises FaissConflict when more than one of the exclusive distributions is installed."""
    found = tuple(name for name in EXCLUSIVE_DISTRIBUTIONS if installed(name))
    if len(found) > 1:
        raise FaissConflict(found)


@lru_cache(maxsize=1)
def refuse_two_faiss() -> None:
    """The check of this interpreter, done once a process (about 1 ms). Raises FaissConflict."""
    check_distributions(is_installed)
