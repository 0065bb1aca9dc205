"""Whole nights through a real S3-compatible server: no two steps share a folder."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.drills.local import LocalStore, day_of, local_store, replica
from infra.drills.small_night import fill, open_small_night, steps
from infra.drills.stack import now_ms
from ray_jobs.encoders.train_config import tiny
from ray_jobs.nightly.carried_work import fetch_work, forget_in_store, leave_node
from ray_jobs.nightly.prune import prune
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.step import INFRASTRUCTURE_ERRORS, Night, run_step
from ray_jobs.nightly.verify import verify
from ray_jobs.nightly.work_files import in_use
from ray_jobs.nightly.workspace import VerifyFailed
from ray_jobs.shards.carry import fetch_generation, upload_generation
from ray_jobs.shards.manifest import open_manifest, shard_name
from ray_jobs.shards.object_store import ObjectStore
from sql import generations
from sql.engine import read_snapshot
from sql.erasure import erase_user
from sql.erasure_ledger import Ledger
from sql.errors import LedgerNotShared
from sql.settings import StoreSettings
from tests.contract.s3_server import S3Server, s3_server

ITEMS = 5
PATH = "/v1/users/reader0/recommendations?k=5"


@pytest.fixture
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def store(server: S3Server) -> Iterator[LocalStore]:
    with local_store(items=ITEMS, seed=1) as made:
        fill(made, seed=1)
        yield replace(made, artifact_uri=server.uri("shop"), ledger_root=made.root)


def fresh(store: LocalStore, folder: Path) -> LocalStore:
    """The same store as another node has it: its own empty folder."""
    (folder / "artifacts").mkdir(parents=True)
    return replace(store, folder=folder)


def run_night(store: LocalStore, generation_id: str, folder: Path) -> list[Night]:
    """Each step on a node of its own; their nights."""
    nights = []
    for name, step in steps(tiny(1)).items():
        night = open_small_night(fresh(store, folder / generation_id / name), generation_id)
        run_step(night, name, step)
        nights.append(night)
    return nights


def live_of(store: LocalStore) -> str | None:
    with read_snapshot(store.engine) as conn:
        live = generations.read_live(conn)
    return live.generation_id if live else None


def objects_of(store: LocalStore) -> ObjectStore:
    objects = ObjectStore.open(store.artifact_uri)
    assert objects is not None
    return objects


def answer_of(store: LocalStore, folder: Path) -> tuple[str, list[str]]:
    """From which generation a replica on a fresh node answers, and with what."""
    with replica(fresh(store, folder)) as client:
        answer = client.get(PATH)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return body["generation"], ids_of(body)


def ids_of(body: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in body["items"]]


def test_nights_whose_steps_share_no_folder(
    store: LocalStore, server: S3Server, tmp_path: Path
) -> None:
    first = run_night(store, "n1", tmp_path)
    assert live_of(store) == "n1"
    objects = objects_of(store)
    of_later_steps = ("work/n1/verify", "work/n1/prune")
    left = [name for name in objects.sizes("work") if not name.startswith(of_later_steps)]
    assert left == []  # rows of users are gone with the publish, from the store and from each node
    assert not [path for night in first for path in night.workspace.work.parent.glob("*")]

    generation, items = answer_of(store, tmp_path / "a replica")
    assert (generation, len(items)) == ("n1", 5)

    second = run_night(store, "n2", tmp_path)
    assert live_of(store) == "n2"
    evaluate = second[list(steps(tiny(1))).index("evaluate")].workspace.root
    assert (evaluate / "generations" / "n1").is_dir()  # it was compared with the first, fetched
    _roll_back(store, tmp_path, items)
    _refuse_a_damaged_object(store, tmp_path)
    _away(store, server, tmp_path)


def _roll_back(store: LocalStore, tmp_path: Path, items: list[str]) -> None:
    """To a generation whose copy the replica's node lost."""
    node = fresh(store, tmp_path / "lost n1")
    with replica(node) as client:
        shutil.rmtree(node.root / "generations" / "n1")
    with replica(node) as client:
        pointer = rollback(store.engine, "n1", who="test", why="test")
        assert pointer.generation_id == "n1"
        answer = client.get(PATH).json()
        assert answer["generation"] == "n1"
        assert ids_of(answer) == items


def _refuse_a_damaged_object(store: LocalStore, tmp_path: Path) -> None:
    """The name is told; what is whole is answered from."""
    objects, name = objects_of(store), f"generations/n1/{shard_name(0)}"
    entry_size = objects.sizes(name.rpartition("/")[0])[name]
    sound = objects.get_bytes(name, entry_size)
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    objects.put_bytes(bytes(flipped), name)
    with replica(fresh(store, tmp_path / "a damaged object")) as client:
        assert name in day_of(client).watch.refused["n1"]
        assert list(day_of(client).watch.loaded) == ["n2"]
        assert client.get("/readyz").status_code == 503
    night = open_small_night(fresh(store, tmp_path / "checked"), "n1")
    with pytest.raises(VerifyFailed, match=name):
        verify(night)
    objects.put_bytes(sound, name)


def _away(store: LocalStore, server: S3Server, tmp_path: Path) -> None:
    """The night fails and may be tried again; what is live stays, and goes on answering."""
    before = live_of(store)
    with replica(fresh(store, tmp_path / "answers")) as client:
        listed = ids_of(client.get(PATH).json())  # scores move with the clock, by what trends
        server.kill()
        night = open_small_night(fresh(store, tmp_path / "away"), "n3")
        with pytest.raises(INFRASTRUCTURE_ERRORS, match=r"s3://moonlark/shop/\S+/n3"):
            run_step(night, "export", steps(tiny(1))["export"])
        assert live_of(store) == before
        assert ids_of(client.get(PATH).json()) == listed


def test_pruned_generations_leave_the_store_and_each_node(tmp_path: Path) -> None:
    """A folder as the store: what is asked of it is the same."""
    with local_store(items=ITEMS, seed=1) as made:
        store = replace(made, artifact_uri=f"file://{tmp_path}/store", ledger_root=made.root)
        for number in range(6):
            store.publish(f"g{number}", seed=number)
            objects = objects_of(store)
            directory = store.root / "generations" / f"g{number}"
            upload_generation(objects, directory, open_manifest(directory))
        elsewhere = fresh(store, tmp_path / "elsewhere")
        for name in ("g0", "g5"):
            fetch_generation(objects, elsewhere.root, name, None)
        gone = prune(open_small_night(store, "g5"))
        assert gone == ["g2", "g1", "g0"]
        assert objects.folders("generations") == ["g3", "g4", "g5"]
        with replica(elsewhere):
            held = sorted(path.name for path in (elsewhere.root / "generations").iterdir())
            assert held == ["g4", "g5"]
        assert prune(open_small_night(store, "g5")) == []


def test_a_store_without_a_shared_ledger_does_not_start() -> None:
    """Else each node would make a key of its own, and no node know whom another one erased."""
    with pytest.raises(LedgerNotShared, match="MOONLARK_LEDGER_ROOT"):
        _ = StoreSettings(artifact_uri="s3://moonlark/shop").ledger_folder


def test_erased_users_leave_the_work_files_in_the_store(tmp_path: Path) -> None:
    with local_store(items=ITEMS, seed=1) as made:
        fill(made, seed=1)
        store = replace(made, artifact_uri=f"file://{tmp_path}/store", ledger_root=made.root)
        night = open_small_night(store, "n1")
        for name in ("export", "check", "embed"):
            run_step(night, name, steps(tiny(1))[name])
        erase_user(store.engine, Ledger.open(made.root), "reader0", at_ms=now_ms())
        forget = partial(forget_in_store, store.engine, store.root, objects_of(store))
        assert forget() == ([], [], ["n1"])  # it may be running, on whichever node
        generations.seal(store.engine, "n1", manifest_digest="d", metrics={})
        before = rows_of_users(night)
        assert forget() == ([], ["n1"], [])
        assert rows_of_users(night) < before
        assert forget() == ([], [], [])
        generations.fail(store.engine, "n1", "broken")
        assert forget() == ([], [], [])  # it may be tried again
        generations.prune(store.engine, "n1")
        assert forget() == (["n1"], [], [])
        assert objects_of(store).sizes("work") == {}


def rows_of_users(night: Night) -> int:
    """As a step on another node would read them."""
    with in_use(night.workspace.work):
        fetch_work(night.workspace)
        rows: int = pq.read_metadata(night.workspace.events).num_rows
    leave_node(night.workspace.root)
    return rows
