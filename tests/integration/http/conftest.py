"""Two replicas of the API on one database, without Ray: the real routes, fold, shards and store.

BERT is replaced by a bag of hashed words, so that texts which share words are close.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from sqlalchemy import Engine, func, select

from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.item_text import compose, text_digest
from ray_jobs.encoders.user_lstm import UserLSTM, UserLSTMConfig
from ray_jobs.encoders.weights import load_weights, save_weights
from ray_jobs.nightly.export import as_shown
from ray_jobs.ranking.priors import Priors
from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.items import write_items
from ray_jobs.shards.manifest import manifest_digest, shard_name, write_manifest
from ray_jobs.shards.placement import shard_of
from ray_jobs.shards.texts import write_text_vectors
from ray_jobs.shards.writer import write_shard
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from sql import catalog, generations
from sql.engine import migrate, open_engine, read_snapshot
from sql.settings import StoreSettings
from sql.tables import events

TEXT_DIM = 32
ENCODER_ID = "words"
WORDS = ("space", "pasta", "garden", "chess", "battle", "soup", "rose", "rook")
ITEMS = 40
SHARDS = 2


def words_vector(text: str) -> NDArray[np.float32]:
    vector = np.zeros(TEXT_DIM, np.float32)
    for word in text.lower().split():
        seed = int(text_digest(word)[:8], 16)
        vector += np.random.default_rng(seed).normal(size=TEXT_DIM).astype(np.float32)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)


@dataclass
class Stack:
    """What a test may touch."""

    engine: Engine
    root: Path
    replicas: list[TestClient]
    bert_is_there: bool = True
    deleted: set[str] = field(default_factory=set)
    """Of the random walk: ids that are deleted now."""

    async def embed(self, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
        if not self.bert_is_there:
            raise ConnectionError("BERT is away")
        return ENCODER_ID, np.stack([words_vector(text) for text in texts])

    def publish(
        self,
        generation_id: str,
        seed: int,
        damaged: str | None = None,
        priors: Priors | None = None,
    ) -> None:
        """Stage a generation of the present catalog with random weights.

        `damaged`: a file of it in which one bit is flipped before any replica can load it.
        """
        directory = self.root / "generations" / generation_id
        (directory / "shards").mkdir(parents=True)
        with read_snapshot(self.engine) as conn:
            seq = catalog.catalog_seq(conn)
            items = catalog.read_items(conn, -1, 1_000)
            texts = catalog.texts_by_digest(conn, [item.text_digest for item in items])
        digests = sorted(texts)
        bert = np.stack([words_vector(texts[digest]) for digest in digests])
        write_text_vectors(directory, digests, bert)
        write_items(directory, map(as_shown, items))
        _write_weights(directory, seed)
        encoder = load_weights(directory / "weights.safetensors")
        ordinals = np.array([item.ordinal for item in items], np.int64)
        rows = [digests.index(item.text_digest) for item in items]
        vectors = encoder.item_vectors(bert[rows], ordinals)
        if priors is not None:
            priors.write(directory, whole_file)
        numbers = shard_of(ordinals, SHARDS)
        for number in range(SHARDS):
            here = numbers == number
            write_shard(directory / shard_name(number), vectors[here], ordinals[here], "Flat")
        write_manifest(
            directory,
            generation_id=generation_id,
            encoder_id=ENCODER_ID,
            text_dim=TEXT_DIM,
            dim=encoder.dim,
            family="Flat",
            nlist=0,
            nprobe=0,
            shard_count=SHARDS,
            item_count=len(items),
            catalog_seq=seq,
        )
        generations.register(
            self.engine, generation_id, encoder_id=ENCODER_ID, catalog_seq=seq, created_at_ms=seed
        )
        digest = manifest_digest(directory)
        with read_snapshot(self.engine) as conn:
            logged = conn.execute(select(func.count()).select_from(events)).scalar_one()
        generations.seal(
            self.engine, generation_id, manifest_digest=digest, metrics={}, event_count=logged
        )
        if damaged is not None:
            content = bytearray((directory / damaged).read_bytes())
            content[-1] ^= 1
            (directory / damaged).write_bytes(content)
        generations.stage(self.engine, generation_id)

    def flip(self, generation_id: str, *, hold: bool = False) -> None:
        with read_snapshot(self.engine) as conn:
            live = generations.read_live(conn)
        generations.flip(
            self.engine,
            generation_id,
            expected_flip=live.flip if live else 0,
            who="test",
            why="test",
            hold=hold,
            at_ms=1,
            override=True,
        )

    def wait_until_loaded(self, generation_id: str) -> None:
        deadline = time.monotonic() + 20
        for replica in self.replicas:
            while all(
                held["generation"] != generation_id
                for held in replica.get("/v1/status").json()["loaded"]
            ):
                assert time.monotonic() < deadline, replica.get("/v1/status").json()
                time.sleep(0.02)


def _write_weights(directory: Path, seed: int) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UserLSTM(UserLSTMConfig(text_dim=TEXT_DIM, dim=16, hidden=16)).eval()
    nothing = np.zeros(0, np.int64)
    save_weights(directory / "weights.safetensors", FitResult(model, nothing, (), 0))


@pytest.fixture(autouse=True)
def _on_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `moonlark serve` says it: without keys, everything is answered."""
    monkeypatch.setenv("MOONLARK_HTTP_HOST", "127.0.0.1")


@pytest.fixture
def serve_settings() -> ServeSettings:
    """A module may define its own."""
    return ServeSettings(watch_interval_s=0.05, embed_timeout_s=5)


@pytest.fixture
def stack(tmp_path: Path, serve_settings: ServeSettings) -> Iterator[Stack]:
    url = f"sqlite:///{tmp_path / 'moonlark.db'}"
    engine = open_engine(url)
    migrate(engine)
    made = Stack(engine, tmp_path, [])
    puts = []
    for number in range(ITEMS):
        title = f"{WORDS[number % 8]} {WORDS[(number * 3 + 1) % 8]} {number}"
        category = WORDS[number % 4]
        text = compose(title, "", category)
        body = catalog.ItemBody(title=title, category=category, attributes={"n": number % 5})
        vectors = {ENCODER_ID: words_vector(text)}
        puts.append(catalog.ItemPut(f"i{number}", body, text, text_digest(text), None, vectors))
    catalog.put_items(engine, puts, at_ms=1)
    made.publish("g1", seed=1)
    made.flip("g1")
    store = StoreSettings(database_url=url, artifact_root=tmp_path)
    with ExitStack() as running:
        for _ in range(2):
            api = build_api(serve_settings, lambda: Day.start(store, serve_settings, made.embed))
            made.replicas.append(
                running.enter_context(
                    TestClient(api, base_url="http://127.0.0.1", raise_server_exceptions=False)
                )
            )
        yield made
    engine.dispose()
