"""Compile all kernels now, and keep their machine code: what a first start would take longer for.

Run: python -m ray_jobs.compile_kernels
"""

import logging

from ray_jobs.compiled import compile_all
from ray_jobs.encoders import fold
from ray_jobs.ranking import fusion, sources
from ray_jobs.shards import stored_dots

WITH_KERNELS = (fold, fusion, sources, stored_dots)
"""What imports all modules that have kernels."""

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    compile_all()
