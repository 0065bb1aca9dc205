"""Faults of nights, and of what is done beside them: of what they publish, of a night that ends or
hangs, of an erasure that nobody completes (`infra.drills.faults`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import LiteralString

from sqlalchemy import update

from infra.drills.small_night import Words
from infra.drills.stack import now_ms
from infra.drills.victims import wait_for
from infra.drills.ward import Ward
from infra.stack.postgres import connect
from ray_jobs.nightly.check import check
from ray_jobs.nightly.export import export
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.verify import verify
from ray_jobs.nightly.verify_live import LiveBroken, verify_live
from ray_jobs.nightly.workspace import DataRefused, NightError, VerifyFailed, Workspace
from sql import generations
from sql.engine import write
from sql.erasure import erase_user
from sql.erasure_ledger import Ledger
from sql.settings import StoreSettings
from sql.tables import erasures
from sql.tables import generations as generations_table

HOUR_MS = 3_600_000
OLD_HOURS = 40
SILENT_HOURS = 9
ROTS = "weights.safetensors"
SEEN_S = 60.0
BEGINS_S = 240.0
"""Until a night that was begun has done its first step."""
ERASED = "idle0"


def _published(ward: Ward, **figures: float) -> None:
    name = ward.make()
    ward.publish(name)
    generations.add_metrics(ward.stack.engine, name, figures)


def parity_broken(ward: Ward) -> None:
    """The figure that the parity check would write."""
    _published(ward, parity_max_abs_diff=1e-2, canary_min_cosine=1.0)


def recall_low(ward: Ward) -> None:
    """The figure that a night would write."""
    _published(ward, index_recall=0.8)


def accuracy_dropped(ward: Ward) -> None:
    """The figures that two nights would write."""
    generations.add_metrics(ward.stack.engine, ward.live, {"ndcg@10": 0.2})
    query = "ray_moonlark_live_generation_ndcg == 0.2"
    wait_for("the figure before", lambda: bool(ward.prometheus.values(query)), SEEN_S)
    _published(ward, **{"ndcg@10": 0.05})


def hold_set(ward: Ward) -> None:
    """A rollback."""
    ward.publish(ward.make())
    rollback(ward.stack.engine, None, who="drill", why="to try the runbook")


def generation_refused(file: str) -> Callable[[Ward], None]:
    """A byte of a file flips before any replica has it, and the pointer names its generation."""

    def inject(ward: Ward) -> None:
        ward.clear_hold()
        name, engine = ward.make(), ward.stack.engine
        path = ward.stack.root / "generations" / name / file
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        generations.stage(engine, name)
        with engine.connect() as conn:
            live = generations.read_live(conn)
        assert live is not None, "a stack begins with one"
        generations.flip(
            engine,
            name,
            expected_flip=live.flip,
            who="drill",
            why="damaged",
            hold=False,
            at_ms=now_ms(),
        )

    return inject


@contextmanager
def _found(kind: type[NightError]) -> Iterator[None]:
    """Whoever looks in the block finds the file that rotted, and nothing else."""
    found = "nothing"
    try:
        yield
    except kind as error:
        found = str(error)
    assert ROTS in found, f"{ROTS} rotted, and found was {found}"


def _flip_a_bit(ward: Ward, generation_id: str) -> Night:
    """Of the weights, which replicas hold in memory; the night of that generation."""
    path = ward.stack.root / "generations" / generation_id / ROTS
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return night_of(ward, generation_id)


def night_of(ward: Ward, generation_id: str) -> Night:
    """As a job on this stack opens it."""
    stack = ward.stack
    store = StoreSettings(database_url=stack.database_url, artifact_root=stack.root)
    workspace = Workspace(stack.root, generation_id, None)
    return Night(stack.engine, store, NightSettings(), workspace, now_ms)


def live_rots(ward: Ward) -> None:
    """A bit of what is live flips, and the hourly look comes by."""
    ward.publish(ward.make())
    night = _flip_a_bit(ward, ward.live)
    with _found(LiveBroken):
        verify_live(night, Words())


def rolls_back(ward: Ward) -> None:
    """A bit of what was just published flips, and the night checks it."""
    ward.publish(ward.make())
    ward.publish(ward.make())
    night = _flip_a_bit(ward, ward.live)
    with _found(VerifyFailed):
        verify(night)


def generation_old(ward: Ward) -> None:
    """What is live is dated back."""
    ward.clear_hold()
    with write(ward.stack.engine) as conn:
        at_ms = generations.database_now_ms(conn) - OLD_HOURS * HOUR_MS
        row = generations_table.c.generation_id == ward.live
        conn.execute(update(generations_table).where(row).values(created_at_ms=at_ms))


def night_ends_with(error: NightError) -> Callable[[Ward], None]:
    """Its export is done, the step after it ends so."""

    def inject(ward: Ward) -> None:
        ward.clear_hold()
        ward.failed = f"n{next(ward.numbers)}"
        night = night_of(ward, ward.failed)
        run_step(night, "export", export)

        def step(_: Night) -> Report:
            raise error

        with suppress(NightError):
            run_step(night, "check", step)

    return inject


def data_refused(ward: Ward) -> None:
    """The check itself refuses, told that no item may have an event."""
    ward.clear_hold()
    ward.failed = f"n{next(ward.numbers)}"
    night = night_of(ward, ward.failed)
    run_step(night, "export", export)
    settings = night.settings.model_copy(update={"check_min_events": 1, "check_max_item_share": 0})
    try:
        run_step(replace(night, settings=settings), "check", check)
    except DataRefused:
        return
    raise AssertionError("the check refused nothing: nobody did anything today")


def night_stuck(ward: Ward) -> None:
    """A night was killed with -9 hours ago, and nothing was left that could say so."""
    ward.clear_hold()
    ward.failed = f"n{next(ward.numbers)}"
    workspace = night_of(ward, ward.failed).workspace
    with ward.started(f"moonlark night --generation {ward.failed}"):
        wait_for("the night begins", lambda: workspace.report("export") is not None, BEGINS_S)
    earlier_ms = now_ms() - SILENT_HOURS * HOUR_MS
    generations.report_step(ward.stack.engine, ward.failed, earlier_ms)


def after_publish(ward: Ward) -> None:
    """The pruning of what is live fails."""
    ward.publish(ward.make())
    ward.failed = ward.live

    def prunes(_: Night) -> Report:
        raise NightError("the disk is away", hint="")

    with suppress(NightError):
        run_step(night_of(ward, ward.failed), "prune", prunes)


def erasure_open(ward: Ward) -> Callable[[], None]:
    """Asked for 40 hours ago, and no job came by. Postgres 16 lets only the owner of a table VACUUM
    it: for once the on-call is one."""
    engine, root = ward.stack.engine, ward.stack.root
    receipt = erase_user(engine, Ledger.open(root), ERASED, at_ms=now_ms())
    with write(engine) as conn:
        row = erasures.c.erasure_id == receipt.erasure_id
        earlier_ms = erasures.c.erased_at_ms - OLD_HOURS * HOUR_MS
        conn.execute(update(erasures).where(row).values(erased_at_ms=earlier_ms))
    _as_superuser(ward, "GRANT moonlark_owner TO moonlark_oncall")
    return lambda: _as_superuser(ward, "REVOKE moonlark_owner FROM moonlark_oncall")


def _as_superuser(ward: Ward, statement: LiteralString) -> None:
    with connect(ward.server.url()) as conn:
        conn.execute(statement)
