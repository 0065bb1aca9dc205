"""Base and delta against a plain dictionary, through any day: items put, edited, withdrawn, deleted
and put again; generations made, loaded anew, searched with filters; what a user left stays away.

The shipped catalog log, export, shards, delta, item table and `LoadedGeneration`, over SQLite.
"""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.item_text import text_digest
from ray_jobs.encoders.user_lstm import UserLSTM, UserLSTMConfig
from ray_jobs.encoders.weights import load_weights, save_weights
from ray_jobs.nightly.export import as_shown
from ray_jobs.shards import items as items_module
from ray_jobs.shards import search as search_module
from ray_jobs.shards.items import write_items
from ray_jobs.shards.manifest import COARSE_NAME, shard_name, write_manifest
from ray_jobs.shards.placement import Family, shard_of
from ray_jobs.shards.search import search
from ray_jobs.shards.texts import write_text_vectors
from ray_jobs.shards.writer import train_coarse, write_coarse, write_shard
from serve.loaded_generation import LoadedGeneration
from sql import catalog
from sql.engine import migrate, open_engine, read_snapshot

ENCODER, TEXT_DIM, DIM = "words", 8, 6
NIGHT_ITEMS, NLIST, SHARDS = 30, 4, 2
MAX_GENERATIONS = 3
IDS = [f"i{n}" for n in range(NIGHT_ITEMS + 8)]
CATEGORIES = [None, "film", "book"]
PRECISION: dict[Family, float] = {"Flat": 1e-5, "IVF,SQfp16": 4e-3}

# Some often, so that they live more than twice.
ids = st.one_of(st.sampled_from(IDS[:3]), st.sampled_from(IDS))
texts = st.integers(0, 11)  # few: equal vectors are no accident
categories = st.sampled_from(CATEGORIES)


def text_vector(text: str) -> NDArray[np.float32]:
    vector = np.random.default_rng(int(text_digest(text)[:8], 16)).normal(size=TEXT_DIM)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@dataclass(frozen=True)
class Listed:
    """An item as its owner last put it."""

    text: str
    category: str | None
    n: int
    available: bool
    ordinal: int


class DayOfItems(RuleBasedStateMachine):
    """See the module. `items` is the oracle."""

    template: Path

    @initialize(family=st.sampled_from(list(PRECISION)), seal_at=st.sampled_from([1, 5, 4096]))
    def night(self, family: Family, seal_at: int) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(items_module, "SEAL_AT", seal_at)
        shutil.copyfile(self.template, self.root / "moonlark.db")
        self.engine = open_engine(f"sqlite:///{self.root / 'moonlark.db'}")
        self.family, self.seal_at = family, seal_at
        self.items: dict[str, Listed] = {}
        self.left: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.made: list[str] = []
        self.loaded: dict[str, LoadedGeneration] = {}
        for number in range(NIGHT_ITEMS):
            self.put(IDS[number], number % 12, CATEGORIES[number % 3], number % 2, number % 7 != 3)
        self.publish()

    @rule(
        item_id=ids, text=texts, category=categories, n=st.integers(0, 1), available=st.booleans()
    )
    def put(self, item_id: str, text: int, category: str | None, n: int, available: bool) -> None:
        """A new item, an edit, a withdrawal, a return, or an id that lives again."""
        body = catalog.ItemBody(
            title=f"text {text}", category=category, attributes={"n": n}, available=available
        )
        words = f"text {text} {category}"
        vectors = {ENCODER: text_vector(words)}
        version = self.versions.get(item_id, 0) + 1
        put = catalog.ItemPut(item_id, body, words, text_digest(words), version, vectors)
        (result,) = catalog.put_items(self.engine, [put], at_ms=1)
        assert result.outcome != "stale_version"
        before = self.items.get(item_id)
        if before is not None:
            assert result.ordinal == before.ordinal
        self.versions[item_id] = version
        self.items[item_id] = Listed(words, category, n, available, result.ordinal)

    @rule(item_id=ids)
    def late_retry(self, item_id: str) -> None:
        """Of a put that was overtaken: it changes nothing and revives nothing."""
        if item_id in self.versions:
            words = "text of long ago"
            body = catalog.ItemBody(title=words)
            version = self.versions[item_id] - 1
            put = catalog.ItemPut(item_id, body, words, text_digest(words), version, {})
            (result,) = catalog.put_items(self.engine, [put], at_ms=1)
            assert result.outcome == "stale_version"

    @rule(item_id=ids)
    def delete(self, item_id: str) -> None:
        version = self.versions.get(item_id, 0) + 1
        result = catalog.delete_item(self.engine, item_id, version, at_ms=1)
        assert (result.outcome == "deleted") == (item_id in self.items)
        if result.outcome != "absent":
            self.versions[item_id] = version
        self.items.pop(item_id, None)

    @rule(item_id=ids)
    def leave(self, item_id: str) -> None:
        """The user hides an item under the ordinal that it has today."""
        if item_id in self.items:
            self.left.setdefault(item_id, self.items[item_id].ordinal)

    @rule(item_id=ids, text=texts, category=categories)
    def live_again(self, item_id: str, text: int, category: str | None) -> None:
        self.delete(item_id)
        self.put(item_id, text, category, 0, True)

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def undo_leave(self, data: st.DataObject) -> None:
        del self.left[data.draw(st.sampled_from(sorted(self.left)))]

    @precondition(lambda self: len(self.made) < MAX_GENERATIONS and len(self.items) >= NLIST)
    @rule()
    def publish(self) -> None:
        """A night: a generation of the catalog as it stands, with weights of its own."""
        generation_id = f"g{len(self.made)}"
        write_generation(self.root, self.engine, generation_id, self.family, seed=len(self.made))
        self.made.append(generation_id)
        self.load(generation_id)

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """One generation is loaded from its files again."""
        self.load(data.draw(st.sampled_from(self.made)))

    def load(self, generation_id: str) -> None:
        generation = LoadedGeneration.open(self.root, generation_id)
        delta = replace(generation._view.delta, seal_at=self.seal_at)
        generation._view = replace(generation._view, delta=delta)
        self.loaded[generation_id] = generation

    @rule(
        seed=st.integers(0, 2**16),
        k=st.sampled_from([1, 3, 10, 60]),
        category=categories,
        n=st.sampled_from([None, 0, 1]),
        gather_limit=st.sampled_from([0, 2_048]),
        max_overfetch=st.sampled_from([0, 1_024]),
        data=st.data(),
    )
    def look(
        self,
        seed: int,
        k: int,
        category: str | None,
        n: int | None,
        gather_limit: int,
        max_overfetch: int,
        data: st.DataObject,
    ) -> None:
        """A search in any generation: live, before it, or rolled back to."""
        generation = self.loaded[data.draw(st.sampled_from(self.made))]
        with read_snapshot(self.engine) as conn:
            head = catalog.catalog_seq(conn)
        view = generation.catch_up(self.engine, head)
        assert view.catalog_seq == head
        query = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
        left = np.array(sorted(self.left.values()), np.int64)
        wanted = {} if n is None else {"n": n}
        eligible = view.items.matching(category, wanted) if category or wanted else None
        vectors = self.oracle(generation, category, n)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search_module, "GATHER_LIMIT", gather_limit)
            patch.setattr(search_module, "MAX_OVERFETCH", max_overfetch)
            for nprobe in (None, NLIST):
                scores, ordinals = search(
                    generation.shards,
                    view.delta,
                    query,
                    k,
                    eligible=eligible,
                    excluded=view.items.with_returned(left),
                    nprobe=nprobe if self.family != "Flat" else None,
                )
                found = [item and item.item_id for item in view.items.get_many(ordinals)]
                assert len(found) == len(set(found)) == min(k, len(vectors))
                assert set(found) <= vectors.keys()
                true = np.array([vectors[str(item)] @ query for item in found])
                np.testing.assert_allclose(scores, true, atol=PRECISION[self.family] * 4)
        best = np.sort([vector @ query for vector in vectors.values()])[::-1][:k]
        # With every list probed it is the exact top k, up to the shards' precision.
        np.testing.assert_allclose(scores, best, atol=PRECISION[self.family] * 4)

    def oracle(
        self, generation: LoadedGeneration, category: str | None, n: int | None
    ) -> dict[str, NDArray[np.float32]]:
        """Vectors by id of all that may be shown."""
        allowed = {
            item_id: item
            for item_id, item in self.items.items()
            if item.available
            and item_id not in self.left
            and (category is None or item.category == category)
            and (n is None or item.n == n)
        }
        if not allowed:
            return {}
        bert = np.stack([text_vector(item.text) for item in allowed.values()])
        ordinals = np.array([item.ordinal for item in allowed.values()], np.int64)
        return dict(zip(allowed, generation.encoder.item_vectors(bert, ordinals), strict=True))

    @invariant()
    def an_item_is_what_its_owner_put_last(self) -> None:
        with read_snapshot(self.engine) as conn:
            stored = {item.item_id: item for item in catalog.read_items(conn, -1, 1_000)}
        assert {i: (s.ordinal, s.body.available) for i, s in stored.items()} == {
            i: (item.ordinal, item.available) for i, item in self.items.items()
        }

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
            self.patch.undo()
            shutil.rmtree(self.root)


def write_generation(root: Path, engine, generation_id: str, family: Family, seed: int) -> None:
    directory = root / "generations" / generation_id
    (directory / "shards").mkdir(parents=True)
    with read_snapshot(engine) as conn:
        seq = catalog.catalog_seq(conn)
        items = catalog.read_items(conn, -1, 1_000)
        words = catalog.texts_by_digest(conn, [item.text_digest for item in items])
    digests = sorted(words)
    bert = np.stack([text_vector(words[digest]) for digest in digests])
    write_text_vectors(directory, digests, bert)
    write_items(directory, map(as_shown, items))
    ordinals = np.array([item.ordinal for item in items], np.int64)
    write_weights(directory / "weights.safetensors", ordinals[::3], seed)
    encoder = load_weights(directory / "weights.safetensors")
    rows = [digests.index(item.text_digest) for item in items]
    vectors = encoder.item_vectors(bert[rows], ordinals)
    coarse = None
    if family != "Flat":
        coarse = directory / COARSE_NAME
        write_coarse(coarse, train_coarse(vectors, NLIST, seed=7))
    numbers = shard_of(ordinals, SHARDS)
    for number in range(SHARDS):
        here = numbers == number
        path = directory / shard_name(number)
        write_shard(path, vectors[here], ordinals[here], family, coarse)
    write_manifest(
        directory,
        generation_id=generation_id,
        encoder_id=ENCODER,
        text_dim=TEXT_DIM,
        dim=DIM,
        family=family,
        nlist=0 if family == "Flat" else NLIST,
        nprobe=0 if family == "Flat" else 1,
        shard_count=SHARDS,
        item_count=len(items),
        catalog_seq=seq,
    )


def write_weights(path: Path, residual_ordinals: NDArray[np.int64], seed: int) -> None:
    """Random ones, with residuals: an item that comes back has its own, a new life has none."""
    config = UserLSTMConfig(
        text_dim=TEXT_DIM, dim=DIM, hidden=4, residual_count=len(residual_ordinals)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UserLSTM(config).eval()
        with torch.no_grad():
            model.residual.weight[1:].normal_(0.0, 0.5)
    save_weights(path, FitResult(model, residual_ordinals, (), 0))


def test_what_is_found_is_what_the_catalog_says(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    engine = open_engine(f"sqlite:///{template}")
    migrate(engine)
    engine.dispose()
    machine = type("DayOfItemsHere", (DayOfItems,), {"template": template})
    one_case = machine.TestCase
    one_case.settings = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    one_case("runTest").runTest()
