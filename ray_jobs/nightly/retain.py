"""The job that applies retention (`MOONLARK_RETAIN_...`), in small transactions beside the day.

Best before the export, so that the night folds what is left.

Run: python -m ray_jobs.nightly.retain
"""

import json
import sys
import time

from ray_jobs.nightly.erase_users import RESULT_MARK
from ray_jobs.nightly.infrastructure import ends_for_another_try
from sql.engine import check_schema, open_engine
from sql.retention import retain
from sql.settings import RetentionSettings, StoreSettings


def main() -> None:
    """Entrypoint of the Ray job."""
    with ends_for_another_try("retain"):
        engine = open_engine(StoreSettings().database_url)
        check_schema(engine)
        report = retain(engine, RetentionSettings(), now_ms=time.time_ns() // 1_000_000)
    sys.stdout.write(f"{RESULT_MARK} {json.dumps(report, sort_keys=True)}\n")


if __name__ == "__main__":
    main()
