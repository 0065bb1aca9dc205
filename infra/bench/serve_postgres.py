"""The API under load as in `serve`, on Postgres.

python -m infra.bench.serve_postgres            some 8 minutes on two cores
python -m infra.bench.serve_postgres --small    a small catalog
"""

from infra.bench.report import Report, Size, run_bench
from infra.bench.serve import SERVED_BY, Plan, report_of

PLANS: dict[Size, tuple[Plan, ...]] = {
    "full": (Plan("1,000,000 items, Postgres", 1_000_000, 100_000, "postgres"),),
    "small": (Plan("5,000 items, Postgres", 5_000, 500, "postgres"),),
}


def measure(size: Size) -> Report:
    """See `serve`."""
    return report_of("serve_postgres", PLANS[size], size)


if __name__ == "__main__":
    run_bench("serve_postgres", measure, SERVED_BY)
