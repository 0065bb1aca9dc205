"""Work files of nights hold rows of users: who uses them now, how erased users leave them.

A step holds a lock in its work folder while it runs (flock on `.lock`: on one machine, or on a file
system that carries it, as NFS does). Whoever rewrites or deletes work files takes the same lock.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from ray_jobs.nightly.event_vectors import EventVectors, write_event_vectors
from ray_jobs.nightly.workspace import WORK, Workspace, generation_directory, work_root
from ray_jobs.shards.object_store import ObjectStore
from sql import generations
from sql.batch import batch_of, batch_rows
from sql.engine import read_snapshot
from sql.generations import Generation
from sql.tables import users

log = logging.getLogger("moonlark.night")

LOCK = ".lock"
ABANDONED = "it broke off: no step of it runs, and its time is over"
USERS_A_QUERY = 10_000


@contextmanager
def in_use(work: Path, *, beside_others: bool = False) -> Iterator[None]:
    """Hold the lock of a work folder, which is made if need be; waits for whoever holds it.

    `beside_others`: parts of one step, such as the shards, hold it together.
    """
    kind = fcntl.LOCK_SH if beside_others else fcntl.LOCK_EX
    while True:
        work.mkdir(parents=True, exist_ok=True)
        with (work / LOCK).open("ab") as file:
            fcntl.flock(file, kind)
            if not _is_still(file, work / LOCK):
                continue  # the folder was discarded while we waited for it
            yield
            return


@contextmanager
def if_free(work: Path) -> Iterator[bool]:
    """As `in_use`, but without waiting: False where a step is running."""
    with (work / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield _is_still(file, work / LOCK)


def _is_still(file: BinaryIO, path: Path) -> bool:
    """Whether the file that is locked is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def forget_erased(engine: Engine, root: Path) -> tuple[list[str], list[str], list[str]]:
    """Take the rows of users that are no more out of all work folders.

    What no night goes on with (published, pruned, of no registered generation) is discarded. The
    folders of nights that go on, are held or failed are rewritten: a failed one may only wait for
    its next try, which needs them; what never gets one goes by `discard_old_work`.

    Returns:
        generations whose folder was discarded, whose was rewritten, and which have a step running
        now, so that their folder could not be touched.
    """
    discarded: list[str] = []
    rewritten: list[str] = []
    busy: list[str] = []
    known = _known(engine)
    for work in folders(root):
        with if_free(work) as is_free:
            if not is_free:
                busy.append(work.name)
                continue
            found = known.get(work.name)
            if found is None or found.state in ("published", "pruned"):
                shutil.rmtree(work)
                discarded.append(work.name)
            elif rewrite(engine, Workspace(root, work.name)):
                rewritten.append(work.name)
    return discarded, rewritten, busy


def fail_abandoned(engine: Engine, root: Path, *, before_ms: int, now_ms: int) -> list[str]:
    """Mark failed what began before `before_ms`, is still building and has no step running.

    Nobody else would: a night that is out of time (`dagrun_timeout`), or whose machine is gone, has
    no step that could say so. One that is taken up all the same is building again
    (`generations.resume`).
    """

    def is_building(generation: Generation) -> bool:
        return generation.state == "building"

    marked: list[str] = []
    for generation in _known(engine).values():
        workspace = Workspace(root, generation.generation_id)
        if is_building(generation) and generation.created_at_ms < before_ms:
            failed = fail_idle(engine, workspace, is_building, ABANDONED, "NightAbandoned", now_ms)
            if failed:
                marked.append(generation.generation_id)
    return marked


def fail_idle(
    engine: Engine,
    workspace: Workspace,
    is_left: Callable[[Generation], bool],
    why: str,
    failed_as: str,
    now_ms: int,
) -> bool | None:
    """Mark a generation failed that no step works on, if it still `is_left`.

    Returns:
        whether it was; None: a step of it runs on this node.
    """
    name, work = workspace.generation_id, workspace.work
    # Under the lock of its steps: one that begins now waits, and makes it building again.
    with if_free(work) if work.exists() else nullcontext(True) as is_free:
        if not is_free:
            return None
        if not is_left(_known(engine)[name]):
            return False
        generations.fail(engine, name, why)
        told = {"failed_as": failed_as, "failed_at_ms": now_ms}
        generations.add_metrics(engine, name, told)
        return True


def discard_old_work(
    engine: Engine, root: Path, *, before_ms: int, objects: ObjectStore | None = None
) -> list[str]:
    """Discard the work files of nights that began before `before_ms`, and what failed ones of them
    had made of their generation; return the failed ones, which are pruned now."""
    known = _known(engine)
    pruned: list[str] = []
    if objects is not None:
        for name in objects.folders(WORK):
            if name not in known or known[name].created_at_ms < before_ms:
                objects.delete_folder(f"{WORK}/{name}")
    for work in folders(root):
        found = known.get(work.name)
        if found is not None and found.created_at_ms >= before_ms:
            continue
        with if_free(work) as is_free:
            if is_free:
                shutil.rmtree(work)
    for generation in known.values():
        if generation.state == "failed" and generation.created_at_ms < before_ms:
            generations.prune(engine, generation.generation_id)
            shutil.rmtree(generation_directory(root, generation.generation_id), ignore_errors=True)
            pruned.append(generation.generation_id)
    return pruned


def _known(engine: Engine) -> dict[str, Generation]:
    with read_snapshot(engine) as conn:
        return {g.generation_id: g for g in generations.list_generations(conn)}


def folders(root: Path) -> list[Path]:
    """The work folders that are on this node."""
    folder = work_root(root)
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


def rewrite(engine: Engine, workspace: Workspace) -> bool:
    """Take the rows of users that are no more out of one night's work files on this node.

    Returns:
        whether there was anything to take out.
    """
    for torn in workspace.work.glob("*.tmp"):
        torn.unlink()
    if workspace.report("export") is None:
        # The export broke off: its files may be torn, and the next try writes them anew.
        for path in (workspace.events, workspace.trimmed):
            path.unlink(missing_ok=True)
        return True
    keys = pq.read_table(workspace.events, columns=["user_key"])["user_key"].to_numpy()
    wanted = np.unique(keys)
    alive = _alive(engine, wanted)
    if len(alive) == len(wanted):
        return False
    _rewrite_event_vectors(workspace, alive)
    _keep_rows(workspace.trimmed, alive)
    _keep_rows(workspace.events, alive)  # last: it is by this one that there is something to do
    return True


def _alive(engine: Engine, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    batch = batch_of(engine.dialect.name, user_key=int)
    find = select(users.c.user_key).join_from(batch, users, users.c.user_key == batch.c.user_key)
    found: list[int] = []
    for first in range(0, len(keys), USERS_A_QUERY):
        part = [(int(key),) for key in keys[first : first + USERS_A_QUERY]]
        with read_snapshot(engine) as conn:
            found += conn.execute(find, batch_rows(part)).scalars()
    return np.sort(np.array(found, np.int64))


def _keep_rows(path: Path, alive: NDArray[np.int64]) -> None:
    """Replace a Parquet file by one with the rows of those users only."""
    temporary = path.with_name(path.name + ".tmp")
    kept = pa.array(alive)
    source = pq.ParquetFile(path)
    with pq.ParquetWriter(temporary, source.schema_arrow) as writer:
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            writer.write_table(table.filter(pc.is_in(table["user_key"], value_set=kept)))
    source.close()
    temporary.rename(path)


def _rewrite_event_vectors(workspace: Workspace, alive: NDArray[np.int64]) -> None:
    if workspace.report("embed") is None:
        for path in workspace.work.glob("event_vectors.*"):
            path.unlink()  # torn perhaps; the next try writes them anew
        return
    stored = EventVectors.open(workspace.work)
    stays_S = np.isin(stored.keys_S2[:, 0], alive)
    kept = {
        (int(key), int(seq)): np.array(stored.vectors_SD[row])
        for row, (key, seq) in enumerate(stored.keys_S2)
        if stays_S[row]
    }
    write_event_vectors(workspace.work, kept, stored.vectors_SD.shape[1])
