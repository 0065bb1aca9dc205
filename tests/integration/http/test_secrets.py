"""Canaries: a key or a password is in no log record, no answer, no error text, no output."""

import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.main import app
from infra.client import Moonlark, MoonlarkError, RetryPolicy
from sql.engine import open_engine
from sql.keys import digest_of, make_key, new_secret
from tests.integration.http.conftest import Stack

ROOT = Path(__file__).parents[3]
PASSWORD = "canary-of-the-database"
URLS = [
    f"postgresql://u:{PASSWORD}@127.0.0.1:9/x",
    f"postgresql+psycopg://u@127.0.0.1:9/x?password={PASSWORD}",
    f"postgresql://u:{PASSWORD}@host:port/x",
    f"postgresql://u:{PASSWORD}",
    f"u:{PASSWORD}@127.0.0.1:9/x",
    f"mysql://u:{PASSWORD}@127.0.0.1:9/x",
]
BAD_BODIES = ["", "{", "[" * 100, '{"user_id":"u"}', '{"a":1,"a":1}', "\udcff"]


def said(records: list[logging.LogRecord]) -> str:
    """All that any handler could make of the records."""
    lines = []
    for record in records:
        lines += [record.getMessage(), repr(record.args), repr(record.__dict__)]
        if record.exc_info:
            lines += traceback.format_exception(*record.exc_info)
    return "\n".join(lines)


def test_a_key_is_in_no_log_record_and_in_no_answer(
    stack: Stack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = new_secret()
    key = make_key(stack.engine, secret, name="a", scopes=["admin"], at_ms=1)
    client = stack.replicas[0]
    client.app.state.day.keys.look()  # type: ignore[attr-defined]
    texts = []

    def ask() -> None:
        for header in (f"Bearer {secret}", f"Bearer {secret}x", f"Basic {secret}", secret):
            headers = {"authorization": header, "content-type": "application/json"}
            for method, url in (
                ("GET", "/v1/status"),
                ("GET", "/v1/users/u/recommendations"),
                ("GET", "/v1/items/none"),
                ("PATCH", "/v1/items/none"),
                ("GET", "/nowhere"),
                ("GET", "/readyz"),
            ):
                answer = client.request(method, url, headers=headers)
                texts.append(answer.text + str(answer.headers))
            for body in BAD_BODIES:
                content = body.encode("utf-8", "surrogateescape")
                answer = client.post("/v1/events", content=content, headers=headers)
                texts.append(answer.text + str(answer.headers))

    def bug(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    with caplog.at_level(logging.DEBUG):
        ask()
        stack.bert_is_there = False
        monkeypatch.setattr("serve.routes.health.read_snapshot", bug)
        monkeypatch.setattr("serve.user_state.read_recommendation", bug)
        ask()
    assert len(texts) > 80
    assert any("RuntimeError" in text for text in texts)
    for told in ("".join(texts), said(caplog.records)):
        assert secret not in told
        assert key.key_sha256 not in told
        assert digest_of(secret.encode()) not in told


def test_a_key_is_in_no_error_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    secret = new_secret()
    with (
        caplog.at_level(logging.DEBUG),
        Moonlark(
            "http://127.0.0.1:9", 0.2, secret, retry=RetryPolicy(first_wait_s=0.001)
        ) as client,
        pytest.raises(MoonlarkError) as caught,
    ):
        client.recommend("u")
    told = "".join(traceback.format_exception(caught.value)) + repr(client) + said(caplog.records)
    assert "127.0.0.1" in told
    assert secret not in told


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_in_no_error_of_the_store(url: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever: see what it tells
        open_engine(url)
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert PASSWORD not in told


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", [["init"], ["status"], ["keys", "list"], ["generations"]])
def test_a_password_is_in_no_output_of_the_command_line(
    url: str, command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOONLARK_DATABASE_URL", url)
    for words in (command, ["--debug", *command]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        told = result.output + "".join(traceback.format_exception(result.exception))
        assert PASSWORD not in told


def test_a_password_is_in_no_output_of_a_step_of_the_night(tmp_path: Path) -> None:
    """What a step prints is what Airflow keeps: its log, and the last line as XCom."""
    token = tmp_path / "token"
    token.write_text("canary-of-ray")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MOONLARK_DATABASE_URL": URLS[0],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.nightly.export", "--generation", "g1"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    told = done.stdout + done.stderr
    assert done.returncode != 0
    assert "127.0.0.1:9" in told
    assert PASSWORD not in told
    assert "canary-of-ray" not in told


def test_a_stranger_is_not_told_where_the_database_is(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sql.errors import StoreUnavailable

    def away(*_: object) -> None:
        raise StoreUnavailable("postgresql://u:***@db.internal/x", "no route to db.internal")

    monkeypatch.setattr("serve.routes.health.read_snapshot", away)
    answer = stack.replicas[0].get("/readyz")
    assert answer.status_code == 503
    assert "db.internal" not in answer.text
