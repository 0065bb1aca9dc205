"""A killed step goes on at its last chunk: on this node, and on another one by an object store."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import func, select

from infra.drills.local import local_store
from infra.drills.small_night import fill, open_small_night, steps
from ray_jobs.encoders.train_config import tiny
from ray_jobs.nightly import fold
from ray_jobs.nightly.embed import keep_vectors, kept_vectors
from ray_jobs.nightly.fold import UserRange, fold_range, fold_with
from ray_jobs.nightly.kept import Kept, KeptFile
from ray_jobs.nightly.step import run_step
from ray_jobs.nightly.workspace import Workspace, write_json
from ray_jobs.shards.object_store import ObjectStore
from sql.engine import read_snapshot
from sql.sessions import SessionRow
from sql.tables import sessions

ENCODER = "bert"
PART = 3


def part(number: int) -> pa.Table:
    """Texts {t<number>-0..2}, with vectors that tell them apart."""
    digests = [f"t{number}-{n}" for n in range(PART)]
    vectors = [np.array([number, n], np.float32).tobytes() for n in range(PART)]
    return pa.table({"text_digest": digests, "vector": pa.array(vectors, pa.binary())})


class Killed(Exception):
    pass


def parts(numbers: range, killed_before: int | None = None) -> Iterator[pa.Table]:
    for number in numbers:
        if number == killed_before:
            raise Killed
        yield part(number)


@pytest.fixture(params=["on this node", "object store"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    uri = None if request.param == "on this node" else f"file://{tmp_path / 'bucket'}"
    return Kept(Workspace(tmp_path / "node", "g1", ObjectStore.open(uri)), "embed")


def next_try(kept: Kept) -> Kept:
    """As the next try has it: with an object store on another node."""
    if kept.workspace.objects is not None:
        shutil.rmtree(kept.workspace.work)
    return Kept(kept.workspace, kept.step)


def test_vectors_are_there_for_the_next_try_and_gone_when_the_step_is_done(kept: Kept) -> None:
    with pytest.raises(Killed):
        keep_vectors(kept, ENCODER, parts(range(4), killed_before=2))
    again = next_try(kept)
    found = kept_vectors(again, ENCODER)
    assert sorted(found) == [f"t{number}-{n}" for number in range(2) for n in range(PART)]
    assert found["t1-2"].tolist() == [1, 2]
    assert kept_vectors(again, "another BERT") == {}
    whole = found | keep_vectors(again, ENCODER, parts(range(2, 4)))
    assert {name: v.tolist() for name, v in kept_vectors(next_try(again), ENCODER).items()} == {
        name: v.tolist() for name, v in whole.items()
    }
    again.forget()
    assert next_try(again).files() == []


def test_what_a_kill_tore_is_not_read(kept: Kept) -> None:
    keep_vectors(kept, ENCODER, parts(range(1)))
    folder = kept.files()[0].parent
    (folder / ".tmp-0123-t9-0.parquet").write_bytes(b"half a f")
    assert sorted(kept_vectors(Kept(kept.workspace, "embed"), ENCODER)) == [
        "t0-0",
        "t0-1",
        "t0-2",
    ]


def test_damage_in_the_store_costs_a_chunk_and_not_the_night(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    kept = Kept(Workspace(tmp_path / "node", "g1", ObjectStore.open(f"file://{bucket}")), "embed")
    keep_vectors(kept, ENCODER, parts(range(2)))
    (damaged,) = bucket.rglob("t0-0.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert sorted(kept_vectors(next_try(kept), ENCODER)) == ["t1-0", "t1-1", "t1-2"]
    (listed,) = bucket.rglob("embed.json")
    listed.write_text("{")
    assert kept_vectors(next_try(kept), ENCODER) == {}


def test_the_fold_goes_on_after_the_users_that_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "KEPT_RANGES", 2)
    seen: list[UserRange] = []

    def folded(workspace: Workspace, ranges: list[UserRange]) -> Iterator[SessionRow]:
        for users in ranges:
            if len(seen) == 5:
                raise Killed
            seen.append(users)
            yield from fold_range(workspace, users)

    with local_store(items=0, seed=1) as store:
        fill(store, seed=1, users=60)
        night = open_small_night(store, "g1")
        night = replace(night, settings=night.settings.model_copy(update={"fold_users": 8}))
        made = steps(tiny(1))
        for name in ("export", "check", "embed", "train", "build", "fuse"):
            run_step(night, name, made[name])
        with pytest.raises(Killed):
            run_step(night, "fold", lambda night: fold_with(night, folded))
        first, seen[:] = seen[:], []
        report = run_step(night, "fold", lambda night: fold_with(night, folded))
        # The range of a group that was not whole is folded again.
        assert seen[0] == first[4]
        assert len(first[:4] + seen) == report["ranges"] == 8
        with read_snapshot(store.engine) as conn:
            stored = conn.execute(select(func.count()).select_from(sessions)).scalar_one()
        assert stored == report["sessions"] == 60
        assert Kept(night.workspace, "fold").files() == []


def test_sessions_by_other_weights_do_not_count(kept: Kept) -> None:
    fold_kept = KeptFile(Kept(kept.workspace, "fold"), "done.json")
    told = {"weights": "these", "through": 7, "sessions": 3}
    fold_kept.keep(lambda path: write_json(path, told))
    assert fold.done_by(fold_kept, "these") == {"through": 7, "sessions": 3}
    assert fold.done_by(fold_kept, "others") == {"through": -1, "sessions": 0}
