"""A stand-in for Ray's Jobs API whose jobs are plain processes: starts in no time, needs no Ray.

For drills and tests of Airflow's side, where what matters is who submits, waits and stops, and
which of them was killed. What Ray itself does is tested in tests/integration/test_ray_job.py.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.stack.ports import LOOPBACK

OWN_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"


@dataclass
class Job:
    """One that was submitted. `log` is a file."""

    process: "subprocess.Popen[bytes]"
    log: Path
    metadata: dict[str, str]
    stopped: bool = False

    def details(self, submission_id: str) -> dict[str, Any]:
        """As Ray's API has it."""
        code = self.process.poll()
        status = "RUNNING" if code is None else "SUCCEEDED" if code == 0 else "FAILED"
        if self.stopped and code is not None:
            status = "STOPPED"
        return {
            "type": "SUBMISSION",
            "submission_id": submission_id,
            "entrypoint": "",
            "status": status,
            "message": "",
            "error_type": OWN_ERROR if status == "FAILED" else None,
            "driver_exit_code": code,
            "metadata": self.metadata,
        }


@dataclass
class JobsApi:
    """The server; a context manager. `jobs` by submission id, in the order of submission."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of the jobs, on top of this process's."""
    jobs: dict[str, Job] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """For MOONLARK_RAY_JOBS_URL."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(*api.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._answer(*api.post(self.path, json.loads(body or b"{}")))

            def _answer(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        for job in self.jobs.values():
            if job.process.poll() is None:
                os.killpg(job.process.pid, signal.SIGKILL)
                job.process.wait()

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": "2.60.0", "ray_commit": ""}
        if path == "/api/jobs/":
            with self.lock:
                return 200, [job.details(name) for name, job in self.jobs.items()]
        submission_id, _, what = path.removeprefix("/api/jobs/").partition("/")
        job = self.jobs.get(submission_id)
        if job is None:
            return 404, f"Job {submission_id} does not exist"
        if what == "logs":
            return 200, {"logs": job.log.read_text()}
        return 200, job.details(submission_id)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path.endswith("/stop"):
            job = self.jobs[path.split("/")[-2]]
            job.stopped = True
            if job.process.poll() is None:
                os.killpg(job.process.pid, signal.SIGTERM)
            return 200, {"stopped": True}
        submission_id = body["submission_id"]
        with self.lock:
            if submission_id in self.jobs:
                return 500, f"Job with submission_id {submission_id} already exists"
            log = self.folder / f"{submission_id}.log"
            environment = (body.get("runtime_env") or {}).get("env_vars") or {}
            with log.open("wb") as file:
                process = subprocess.Popen(
                    body["entrypoint"],
                    shell=True,
                    env={**os.environ, **self.env, **environment},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.jobs[submission_id] = Job(process, log, body.get("metadata") or {})
        return 200, {"job_id": submission_id, "submission_id": submission_id}
