"""The work files of a night between nodes: a step fetches what earlier ones put, then puts its own.

    work/<generation_id>/...                 work files, and
    generations/<generation_id>/...          files of the generation, under their own names
    work/<generation_id>/<step>.files.json   which of them the step wrote, with digests
    work/<generation_id>/<step>.json         its report, put last: by it the step is done

These are names in the object store. Work files hold rows of users, so a node has them only while a
step runs there: `leave_node`. What a killed step leaves goes with the next step of any night on
that node.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine

from ray_jobs.nightly.kept import KEPT
from ray_jobs.nightly.work_files import folders, if_free, in_use, rewrite
from ray_jobs.nightly.workspace import WORK, Workspace
from ray_jobs.shards.carry import GENERATIONS, one_at_a_time, upload_generation
from ray_jobs.shards.errors import DamagedObject
from ray_jobs.shards.manifest import FileEntry, Manifest, digest_file, is_plain
from ray_jobs.shards.object_store import ObjectStore
from sql import generations
from sql.engine import read_snapshot

LIST = ".files.json"
MAX_LIST_BYTES = 4 << 20
PASSED_OVER = ("ray_train", KEPT)
"""Folders of one step's own."""

Entries = dict[str, FileEntry]
Stamps = dict[str, tuple[int, int]]
_ENTRIES = TypeAdapter(Entries)


def fetch_work(workspace: Workspace) -> Entries:
    """Every file that a finished step of this night put, each held against its digest.

    Returns:
        what is in the store, by name.

    Raises:
        ray_jobs.shards.errors.ObjectStoreError: the store is away, an object missing or damaged.
    """
    objects = _objects(workspace)
    there: Entries = {}
    for entries in _lists(workspace).values():
        there |= entries
    with one_at_a_time(workspace.root):
        for name, entry in sorted(there.items()):
            path = workspace.root / name
            if not path.is_file() or digest_file(path) != entry:
                objects.get(name, path, entry)
    return there


def stamps(workspace: Workspace) -> Stamps:
    """Inode and time of each file of the night on this node: what changes when one is written."""
    return {
        path.relative_to(workspace.root).as_posix(): (stat.st_ino, stat.st_mtime_ns)
        for path in _files(workspace)
        for stat in [path.stat()]
    }


def put_work(
    workspace: Workspace,
    step: str,
    report: dict[str, object],
    *,
    there: Entries,
    before: Stamps,
    wrote: Iterable[Path] | None = None,
) -> None:
    """Put what `step` wrote, the list of it, then its report.

    It wrote what the store lacks and what changed since `before`. `wrote`: instead of that, by a
    part that ran beside others in one folder.

    Raises:
        ray_jobs.shards.errors.StoreAway: the store did not take it; the step is not done.
    """
    objects = _objects(workspace)
    if wrote is None:
        now = stamps(workspace)
        names = [each for each in now if each not in there or now[each] != before.get(each)]
    else:
        names = [path.relative_to(workspace.root).as_posix() for path in wrote]
    entries = {name: objects.put(workspace.root / name, name) for name in sorted(names)}
    _put_list(workspace, step, entries)
    objects.put_bytes(json.dumps(report).encode(), f"{_prefix(workspace)}/{step}.json")


def put_generation(workspace: Workspace, manifest: Manifest) -> None:
    """Put what of a sealed generation its steps have not put, and its manifest last.

    Raises: as `ray_jobs.shards.carry.upload_generation`.
    """
    prefix = f"{GENERATIONS}/{workspace.generation_id}/"
    there: Entries = {}
    for entries in _lists(workspace).values():
        there |= {name.removeprefix(prefix): entry for name, entry in entries.items()}
    upload_generation(_objects(workspace), workspace.directory, manifest, there=there)


def put_rewritten(workspace: Workspace, before: Stamps) -> None:
    """Put anew what was rewritten on this node since `before`, and the lists that name it."""
    now, objects = stamps(workspace), _objects(workspace)
    changed = {name for name in now if now[name] != before.get(name)}
    for step, entries in _lists(workspace).items():
        anew = {name: objects.put(workspace.root / name, name) for name in changed & entries.keys()}
        if anew:
            _put_list(workspace, step, entries | anew)


def forget_in_store(
    engine: Engine, root: Path, objects: ObjectStore
) -> tuple[list[str], list[str], list[str]]:
    """As `work_files.forget_erased`, for the work files that the store has.

    A lock says nothing of other nodes: a night that is `building` counts as one that has a step
    running, until it ends. Those that are published, pruned or unknown are discarded, all others
    rewritten: a failed one may be tried again.
    """
    discarded: list[str] = []
    rewritten: list[str] = []
    busy: list[str] = []
    leave_node(root)
    with read_snapshot(engine) as conn:
        states = {g.generation_id: g.state for g in generations.list_generations(conn)}
    for name in objects.folders(WORK):
        workspace = Workspace(root, name, objects)
        if states.get(name) == "building":
            busy.append(name)
        elif states.get(name) in (None, "published", "pruned"):
            workspace.discard_work()
            discarded.append(name)
        elif _rewrite_in_store(engine, workspace):
            rewritten.append(name)
    leave_node(root)
    return discarded, rewritten, busy + sorted(work.name for work in folders(root))


def _rewrite_in_store(engine: Engine, workspace: Workspace) -> bool:
    with in_use(workspace.work):
        fetch_work(workspace)
        before = stamps(workspace)
        is_rewritten = rewrite(engine, workspace)
        if is_rewritten:
            put_rewritten(workspace, before)
    return is_rewritten


def leave_node(root: Path) -> None:
    """Delete all work files here but those of a step that is running now."""
    for work in folders(root):
        try:
            with if_free(work) as is_free:
                if is_free:
                    shutil.rmtree(work)
        except FileNotFoundError:  # another step that ended was quicker
            continue


def _lists(workspace: Workspace) -> dict[str, Entries]:
    """By step, of the steps that are done."""
    objects, prefix = _objects(workspace), _prefix(workspace)
    names = objects.sizes(prefix)
    lists: dict[str, Entries] = {}
    for name in sorted(names):
        step = name.removeprefix(f"{prefix}/").removesuffix(LIST)
        if name.endswith(LIST) and f"{prefix}/{step}.json" in names:
            lists[step] = _list(workspace, name)
    return lists


def _list(workspace: Workspace, name: str) -> Entries:
    objects = _objects(workspace)
    raw = objects.get_bytes(name, MAX_LIST_BYTES)
    own = (f"{_prefix(workspace)}/", f"{GENERATIONS}/{workspace.generation_id}/")
    try:
        entries = _ENTRIES.validate_json(raw)
    except ValidationError as error:
        raise DamagedObject(objects.place(name), expected="a list", actual=error) from error
    for each in entries:
        if not each.startswith(own) or not is_plain(each):
            raise DamagedObject(objects.place(name), expected="files of the night", actual=each)
    return entries


def _put_list(workspace: Workspace, step: str, entries: Entries) -> None:
    name = f"{_prefix(workspace)}/{step}{LIST}"
    _objects(workspace).put_bytes(_ENTRIES.dump_json(entries, indent=2), name)


def _files(workspace: Workspace) -> list[Path]:
    """Those of the night that may be of use to another step: no locks, nothing unfinished."""
    found: list[Path] = []
    for folder in (workspace.work, workspace.directory):
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            is_hidden = any(part.startswith(".") or part in PASSED_OVER for part in parts)
            if path.is_file() and not is_hidden and path.suffix != ".tmp":
                found.append(path)
    return found


def _prefix(workspace: Workspace) -> str:
    return f"{WORK}/{workspace.generation_id}"


def _objects(workspace: Workspace) -> ObjectStore:
    assert workspace.objects is not None, "without an object store nothing is carried"
    return workspace.objects
