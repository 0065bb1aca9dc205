"""Step 4, first part: what all shards share, and how many there are. Airflow maps over the number.

Run: python -m ray_jobs.nightly.plan_shards --generation ID
"""

from ray_jobs.nightly.build import plan_shards
from ray_jobs.nightly.step import main
from ray_jobs.nightly.step_figures import PLAN

if __name__ == "__main__":
    main(PLAN, plan_shards)
