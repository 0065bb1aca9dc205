"""A real Prometheus for drills: Debian's binary, on the loopback, its data in its own folder."""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from infra.stack import local_http
from infra.stack.errors import StackStartFailed
from infra.stack.ports import LOOPBACK, find_free_run

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.2
CONFIG = """\
global:
  scrape_interval: 5s
  scrape_timeout: 5s
  evaluation_interval: 1s
rule_files: [{rules}]
scrape_configs:
"""
JOB = """\
  - job_name: {name}
    static_configs:
      - targets: ["{loopback}:{port}"]
"""


def binary() -> str | None:
    """Where it is; None where it is not installed."""
    return shutil.which("prometheus")


class LocalPrometheus:
    """Scrapes a port of this machine for each job every five seconds (on a busy one Ray needs three
    for its answer), and evaluates `rules` each second."""

    def __init__(self, folder: Path, jobs: Mapping[str, int], rules: str) -> None:
        self._folder = folder
        self._jobs, self._rules = jobs, rules
        self._port = find_free_run(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{LOOPBACK}:{self._port}"

    def __enter__(self) -> "LocalPrometheus":
        tool = binary()
        if tool is None:
            raise StackStartFailed("prometheus is not installed", hint="apt-get install prometheus")
        self._folder.mkdir(parents=True)
        rules, config = self._folder / "rules.yaml", self._folder / "prometheus.yaml"
        rules.write_text(self._rules, encoding="utf-8")
        jobs = (JOB.format(name=n, loopback=LOOPBACK, port=p) for n, p in self._jobs.items())
        config.write_text(CONFIG.format(rules=rules) + "".join(jobs), encoding="utf-8")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    tool,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={LOOPBACK}:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while local_http.get(f"{self.url}/-/ready") is None:
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                said = (self._folder / "log").read_text(errors="replace")[-2_000:]
                self.stop()
                raise StackStartFailed(f"prometheus: {said}", hint="look at what it says")
            time.sleep(POLL_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, by its pid."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = self._get("/api/v1/alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def values(self, expression: str) -> list[float]:
        """What a query gives now."""
        found = self._get(f"/api/v1/query?{urlencode({'query': expression})}")
        return [float(each["value"][1]) for each in found["result"]]

    def names(self) -> set[str]:
        """Of all metrics it has seen."""
        return set(self._get("/api/v1/label/__name__/values"))

    def _get(self, path: str) -> Any:
        body = local_http.get(f"{self.url}{path}")
        if body is None:
            raise OSError(f"{self.url}{path}: no answer")
        return json.loads(body)["data"]
