"""Ray's job client with a limit on each request. The one module here that imports Ray.

`dags.ray_job.hook` loads it when a task runs, never when a DAG is parsed.
"""

import os
from typing import Any

from ray.job_submission import JobSubmissionClient

REQUEST_TIMEOUT_S = 30.0
API_SERVER_VARIABLE = "RAY_API_SERVER_ADDRESS"


class BoundedJobClient(JobSubmissionClient):  # type: ignore[misc, unused-ignore]
    """The Jobs API of one Ray head.

    The token, where the cluster has one, comes from RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH.
    """

    def __init__(self, jobs_url: str) -> None:
        # Ray lets this variable and RAY_ADDRESS override the address that it is given.
        os.environ[API_SERVER_VARIABLE] = jobs_url
        super().__init__(jobs_url)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        # Ray's client sends without a timeout; a hanging head would hang the task with it.
        options.setdefault("timeout", REQUEST_TIMEOUT_S)
        return super()._do_request(method, endpoint, **options)
