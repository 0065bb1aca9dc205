"""A past night made again is the same night, but for what is gone since."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from infra.drills.catalog import TOPICS, item_put
from infra.drills.local import LocalStore, local_store
from infra.drills.small_night import ITEMS_A_TOPIC, fill, open_small_night, run_night, steps
from infra.drills.stack import now_ms
from ray_jobs.encoders.train_config import tiny
from ray_jobs.nightly.export import export
from ray_jobs.nightly.rebuild import as_exported
from ray_jobs.nightly.step import run_step
from ray_jobs.nightly.workspace import NothingToDo
from ray_jobs.shards.items import Item, read_items
from sql import catalog, generations
from sql.engine import read_snapshot
from sql.erasure import erase_user
from sql.erasure_ledger import Ledger
from sql.events import EventKind, NewEvent, append
from sql.generations import WATERMARK
from sql.sessions import read_session
from sql.tables import users

FIRST, AGAIN = "g20260101T030000Z-aaaaaa", "g20260101T030000Z-bbbbbb"


@pytest.fixture(scope="module")
def store() -> Iterator[LocalStore]:
    """A night of a shop, and a day after it on which everything changed."""
    with local_store(items=0, seed=1) as made:
        fill(made, seed=1, users=60)
        run_night(made, FIRST, seed=3)
        later = [NewEvent(f"reader{n}", "late", EventKind.CLICK, "space1") for n in range(0, 60, 2)]
        append(made.engine, [later], received_at_ms=now_ms() + 1_000)
        puts = [item_put("space1", "another title", category="space"), item_put("new", "new")]
        catalog.put_items(made.engine, puts, now_ms())
        catalog.delete_item(made.engine, "space2", None, now_ms())
        catalog.delete_item(made.engine, "space3", None, now_ms())
        catalog.put_items(made.engine, [item_put("space3", "back")], now_ms())
        yield made


def rebuild(store: LocalStore, generation_id: str, of: str) -> generations.Generation:
    """All its steps but those after the publish, which it is told not to do."""
    night = open_small_night(store, generation_id)
    # Of the environment of today: a seed that must not matter.
    night = replace(night, settings=night.settings.model_copy(update={"publish": False}))
    for name, step in steps(tiny(3)).items():
        doing = partial(export, rebuild=of) if name == "export" else step
        settings = as_exported(night.settings, night.workspace)
        run_step(replace(night, settings=settings), name, doing)
    return registered(store, generation_id)


def registered(store: LocalStore, generation_id: str) -> generations.Generation:
    with read_snapshot(store.engine) as conn:
        found = generations.get_generation(conn, generation_id)
    assert found is not None
    return found


def files(store: LocalStore, generation_id: str) -> dict[str, str]:
    with read_snapshot(store.engine) as conn:
        return {file.path: file.sha256 for file in generations.list_artifacts(conn, generation_id)}


def sessions_of(store: LocalStore, generation_id: str) -> dict[int, bytes]:
    with read_snapshot(store.engine) as conn:
        keys = conn.execute(users.select().with_only_columns(users.c.user_key)).scalars().all()
        found = {key: read_session(conn, generation_id, key) for key in keys}
    return {key: row.state for key, row in found.items() if row is not None}


DIFFERS = {"metrics.json"}
"""It says against what was live then it was judged."""


def test_a_past_night_made_again_has_the_same_digests(store: LocalStore) -> None:
    original, again = registered(store, FIRST), rebuild(store, AGAIN, "g20260101T030000Z-")
    assert (again.state, original.state) == ("sealed", "published"), "nothing went live"
    assert again.metrics[WATERMARK]["rebuilds"] == FIRST
    for name in ("catalog_seq", "event_count", "user_count", "encoder_id"):
        assert getattr(again, name) == getattr(original, name), name
    before, after = files(store, FIRST), files(store, AGAIN)
    assert sorted(before) == sorted(after)
    assert {path for path in before if before[path] != after[path]} <= DIFFERS
    assert sessions_of(store, AGAIN) == sessions_of(store, FIRST)


def test_erased_since_is_gone_and_said(store: LocalStore) -> None:
    erase_user(store.engine, Ledger.open(store.root), "reader1", at_ms=now_ms())
    night = open_small_night(store, "g-after")
    report = run_step(night, "export", partial(export, rebuild=FIRST))
    original = registered(store, FIRST)
    assert (report["events_gone"], report["users_gone"]) == (14, 1)
    assert registered(store, "g-after").is_rebuild, "from its export on, so that it pages nobody"
    assert not registered(store, FIRST).is_rebuild
    assert report["events"] == original.event_count - 14
    items = read_items(night.workspace.work)
    assert report["items"] == ITEMS_A_TOPIC * len(TOPICS), "the catalog of then, whole"
    with read_snapshot(store.engine) as conn:
        now = {item.item_id: item for item in catalog.read_items(conn, -1, 10_000)}
    found: list[Item | None] = [items.get(int(ordinal)) for ordinal in items.live_ordinals()]
    then = {item.item_id: item for item in found if item is not None}
    assert {"new"} == now.keys() - then.keys()
    assert {"space2"} == then.keys() - now.keys()
    assert then["space1"].title != now["space1"].body.title
    assert then["space3"].ordinal in now["space3"].former_ordinals
    assert then["space3"].former_ordinals == ()


@pytest.mark.parametrize("named", ["g-none", "g2031-", "g-after"])
def test_what_cannot_be_made_again_is_refused(store: LocalStore, named: str) -> None:
    night = open_small_night(store, "g-refused")
    with pytest.raises(NothingToDo, match=r"no generation|cannot be made again"):
        run_step(night, "export", partial(export, rebuild=named))
