"""Serve's HAProxy starts with a configuration that listens here only and refuses what is too much.

The file is made of Serve's own template, so a Ray that changes it is noticed.
"""

import re
import subprocess
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from infra.stack.haproxy import QUEUED_REQUESTS, REPLICA_REQUESTS, WRAPPER_NAME, write_wrapper

CONFIG = """global
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend prometheus
    bind :29001
frontend http_frontend
    bind *:29002
    use_backend app
backend default_backend
    http-request return status 404
backend app
    timeout http-request 3600s
    default-server inter 5s
    server one 127.0.0.1:29003 check observe layer4 error-limit 3 on-error mark-down
    server two 127.0.0.1:29004 check backup
"""


@pytest.fixture
def changed(tmp_path: Path) -> str:
    """CONFIG as HAProxy gets it; HAProxy itself says that it is valid."""
    write_wrapper(tmp_path)
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG, encoding="utf-8")
    command = [str(tmp_path / WRAPPER_NAME), "-c", "-f", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return config.read_text(encoding="utf-8")


def test_every_listener_is_on_the_loopback(changed: str) -> None:
    assert re.findall(r"^ *bind (\S+)", changed, re.M) == ["127.0.0.1:29001", "127.0.0.1:29002"]


def test_each_replica_gets_so_many_and_what_is_beyond_the_queue_is_refused(changed: str) -> None:
    servers = re.findall(r"^ *server .*", changed, re.M)
    assert len(servers) == 2
    assert all(server.endswith(f" maxconn {REPLICA_REQUESTS}") for server in servers)
    app = changed.split("\nbackend app\n")[1]
    assert f"queue ge {QUEUED_REQUESTS}" in app
    assert len(re.findall(r"status 503 .* hdr Retry-After 1 ", app)) == 2
    assert "503" not in changed.split("\nbackend default_backend\n")[1].split("\nbackend")[0]


def test_serves_template_has_the_lines_that_are_changed() -> None:
    for line in ("^frontend http_frontend$", "^backend default_backend$", "^    server .* check"):
        assert re.search(line, HAPROXY_CONFIG_TEMPLATE, re.M), line


def test_its_own_errors_are_problem_documents_and_say_when_to_come_back(changed: str) -> None:
    front = changed.split("\nfrontend http_frontend\n")[1].split("\nbackend")[0]
    assert set(re.findall(r"http-error status (\d+) content-type application/problem", front)) == {
        "400",
        "408",
    }
    app = changed.split("\nbackend app\n")[1]
    told = re.findall(r"http-error status (\d+) content-type \S+ hdr Retry-After 1 ", app)
    assert set(told) == {"500", "502", "503", "504"}
