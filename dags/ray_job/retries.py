"""Which failure of a Ray job Airflow tries again: the cluster's, not the job's own.

A gate that refuses or a check that fails would refuse and fail again, half an hour later, with
the on-call none the wiser. A lost node or a restarting head is worth another try.
"""

from typing import Any, Self

from airflow.sdk import RetryDecision, RetryPolicy
from airflow.sdk.definitions.context import Context

from dags.ray_job.errors import RayJobError


class InfrastructureRetries(RetryPolicy):
    """Within the task's `retries`; what is no error of a Ray job follows Airflow's own rule."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        if not isinstance(exception, RayJobError):
            return RetryDecision.default()
        if exception.is_infrastructure:
            return RetryDecision.retry(reason=f"{type(exception).__name__}: infrastructure")
        return RetryDecision.fail(f"{type(exception).__name__}: it would fail again the same way")

    def serialize(self) -> dict[str, Any]:
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        return cls()
