"""The jobs of a Ray head, by its own Jobs API: which were submitted, and how they stand."""

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import httpx

from infra.stack import local_http
from infra.stack.ray_cluster import LocalRay

ACTIVE = ("PENDING", "RUNNING")
ATTEMPT = re.compile(r"-c\d+-a\d+$")
TIMEOUT_S = 30.0


class Job(NamedTuple):
    """As the head told it last."""

    submission_id: str
    status: str

    @property
    def work(self) -> str:
        """What it is a job of, whichever attempt."""
        return ATTEMPT.sub("", self.submission_id)


def jobs_of(listed: Iterable[dict[str, Any]]) -> list[Job]:
    """Of an answer of `/api/jobs/`, in the order of submission; drivers that nobody submitted are
    left out."""
    submitted = [job for job in listed if job["submission_id"]]
    submitted.sort(key=lambda job: (job["start_time"], job["submission_id"]))
    return [Job(job["submission_id"], job["status"]) for job in submitted]


class SubmittedJobs:
    """Of `cluster`, in the order of submission."""

    def __init__(self, cluster: LocalRay) -> None:
        self._cluster = cluster

    def all(self) -> list[Job]:
        """Those that the head knows; none while it does not answer."""
        answer = local_http.get(f"{self._cluster.jobs_url}/api/jobs/", token=self._token)
        return [] if answer is None else jobs_of(json.loads(answer))

    def active(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self.all() if job.status in ACTIVE]

    def stop(self, job: Job) -> None:
        """As `ray job stop` does."""
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            http.post(
                f"{self._cluster.jobs_url}/api/jobs/{job.submission_id}/stop",
                headers={"Authorization": f"Bearer {self._token}"},
            ).raise_for_status()

    @property
    def _token(self) -> str:
        return self._cluster.token_path.read_text(encoding="utf-8")
