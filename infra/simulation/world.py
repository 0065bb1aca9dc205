"""What there is in one simulation: the store, the replicas, the clock, and what was promised."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

import sql.user_rows
from infra.drills.memory import memory_folder
from infra.simulation.fake_model import Model
from infra.simulation.faulty_store import Faults
from infra.simulation.scheduler import Scheduler
from infra.simulation.shadow import make_template
from infra.simulation.truth import Truth
from sql.engine import open_engine
from sql.erasure_ledger import Ledger
from sql.erasure_receipts import PENDING
from sql.events import NewEvent

if TYPE_CHECKING:
    from infra.simulation.replica import Replica

NEVER = 2**62


@dataclass
class Sent:
    """An event that a client sent. Steps are the scheduler's."""

    event: NewEvent
    first_sent: int
    acked: int | None = None
    acked_seq: int | None = None


@dataclass
class UserPromise:
    """What a user was promised: the numbers acknowledged, and when they asked to be forgotten."""

    floor: int = 0
    """Every later answer reflects at least this `user_seq`."""
    erasures: list[list[int]] = field(default_factory=list)
    """[first asked, acknowledged] steps; NEVER while it is not."""
    forgotten_ms: int = -1
    """When the last erasure that was acknowledged had been asked for."""

    @property
    def being_erased(self) -> bool:
        return any(end == NEVER for _, end in self.erasures)

    @property
    def last_erased(self) -> int:
        return max((end for _, end in self.erasures), default=-1)


@dataclass
class Promises:
    """What clients were told, and may hold us to."""

    sent: dict[str, Sent] = field(default_factory=dict)
    users: dict[str, UserPromise] = field(default_factory=dict)
    catalog_seq: int = 0
    changes: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    """change_seq that a client was told -> item id, and the version that it had asked for."""
    answers: int = 0
    exact: int = 0
    """Answers whose whole list was compared."""

    def user(self, user_id: str) -> UserPromise:
        return self.users.setdefault(user_id, UserPromise())


class World:
    """Everything of one seed; a folder of its own, gone at the end."""

    def __init__(self, scheduler: Scheduler, bench: "Bench") -> None:
        self.scheduler = scheduler
        self.rng: Random = scheduler.rng
        self.root = bench.clear()
        self.engine: Engine = bench.engine
        self.faults: Faults = Faults()
        self.truth = Truth(bench.database)
        self.ledger = Ledger.open(self.root)
        self.promises = Promises()
        self.models: dict[str, Model] = {}
        self.damaged: dict[str, tuple[Path, bytes]] = {}
        """Generation -> a file of it that was altered, and its right bytes."""
        self.bad: set[str] = set()
        """Generations whose items are mixed up when they are built: none may go live."""
        self.bert_is_up = True
        self.retained = False
        """Whether retention ever ran: what it took is no duplicate, and cannot be undone."""
        self.replicas: list[Replica] = []
        self.item_ids: list[str] = []
        self.user_ids: list[str] = []
        self.numbers: Iterator[int] = itertools.count(1)

    def erased_at_ms(self, user_id: str) -> int:
        """By the ledger, when the user was last erased; -1 where never."""
        name = self.ledger.key.hmac_of(user_id)
        return max((e.erased_at_ms for e in self.ledger.read() if e.user_hmac == name), default=-1)

    def is_erasure_pending(self, user_id: str) -> bool:
        """Whether the ledger names the user in a line whose commit failed: a try that was told so,
        and is in force when a replica next starts (`sql.erasure`)."""
        name = self.ledger.key.hmac_of(user_id)
        query = "SELECT erasure_id FROM erasures WHERE receipt != ?"
        done = {row[0] for row in self.truth.rows(query, PENDING)}
        lines = self.ledger.read()
        return any(e.user_hmac == name and e.erasure_id not in done for e in lines)

    def now_ms(self) -> int:
        """The true time; a replica's clock may be wrong."""
        return self.scheduler.now_ms


class Bench:
    """Where one seed after the other is simulated: a folder, a template and an engine. The engine
    stays, so that SQLAlchemy compiles a statement once and not once a seed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template.db"
        make_template(self._template)
        self.database = folder / "world" / "moonlark.db"
        self.engine = open_engine(f"sqlite:///{self.database}")

    def clear(self) -> Path:
        """An empty, migrated database and an empty artifact root, whose path is returned."""
        self.engine.dispose()
        shutil.rmtree(self.database.parent)
        root = self.database.parent / "artifacts"
        root.mkdir(parents=True)
        shutil.copyfile(self._template, self.database)
        return root

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def open_bench() -> Iterator[Bench]:
    """In memory where there is such a folder: a seed syncs thousands of times."""
    with tempfile.TemporaryDirectory(prefix="moonlark-", dir=memory_folder()) as folder:
        bench = Bench(Path(folder))
        try:
            yield bench
        finally:
            bench.close()


@contextmanager
def seeded_keys(rng: Random) -> Iterator[None]:
    """The one randomness of the shipped code that reaches the database, `user_key`, from the seed.

    It is no argument of `append`, because who calls that must not choose the keys.
    """

    class Seeded:
        @staticmethod
        def randbits(bits: int) -> int:
            return rng.getrandbits(bits)

    module: Any = sql.user_rows
    shipped, module.secrets = module.secrets, Seeded
    try:
        yield
    finally:
        module.secrets = shipped
