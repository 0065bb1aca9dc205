"""A text that is embedded again is still what was stored, or the generation is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ray_jobs.encoders.item_text import text_digest
from ray_jobs.nightly import canary, embed
from ray_jobs.nightly.export import EVENTS_SCHEMA, TEXTS_SCHEMA
from ray_jobs.nightly.gate import check_canaries
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report
from ray_jobs.nightly.workspace import GateRefused, Workspace
from sql import catalog
from sql.engine import migrate, open_engine
from sql.settings import StoreSettings

TEXTS = [f"text {n}" for n in range(30)]
DIM = 8


class Letters:
    """Stands in for BERT: a vector a text, `drift` added to what today gives."""

    encoder_id = "letters"
    dim = DIM
    drift = 0.0

    def __init__(self, *_: object) -> None: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        seeds = [int(text_digest(text)[:8], 16) for text in texts]
        rows = [np.random.default_rng(seed).normal(size=DIM) for seed in seeds]
        vectors = np.array(rows, np.float32).reshape(-1, DIM) + np.float32(self.drift)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    """A night whose texts were all embedded by the day."""
    engine = open_engine(f"sqlite:///{tmp_path / 'moonlark.db'}")
    migrate(engine)
    workspace = Workspace(tmp_path, "g1")
    workspace.make()
    digests = [text_digest(text) for text in TEXTS]
    vectors = Letters().encode(TEXTS)
    puts = [
        catalog.ItemPut(f"i{n}", catalog.ItemBody(title=text), text, digest, None, {"letters": row})
        for n, (text, digest, row) in enumerate(zip(TEXTS, digests, vectors, strict=True))
    ]
    catalog.put_items(engine, puts, at_ms=1)
    texts = {"text_digest": digests, "text": TEXTS}
    pq.write_table(pa.table(texts, TEXTS_SCHEMA).sort_by("text_digest"), workspace.texts)
    pq.write_table(EVENTS_SCHEMA.empty_table(), workspace.events)
    exported = {"catalog_seq": len(TEXTS), "events": 1, "users": 1, "created_at_ms": 1}
    workspace.write_report("export", exported)
    monkeypatch.setattr(embed, "open_bert", Letters)
    return Night(engine, StoreSettings(), NightSettings(), workspace, lambda: 1)


def test_reused_vectors_that_are_what_bert_gives_pass(night: Night) -> None:
    report = embed.embed(night)
    assert (report["reused"], report["canary_texts"]) == (len(TEXTS), canary.CANARIES)
    assert report["canary_min_cosine"] > 0.999999
    check_canaries(report)


def test_vectors_of_another_bert_are_refused_before_anything_is_published(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Letters, "drift", 0.05)
    report = embed.embed(night)
    assert 0.9 < report["canary_min_cosine"] < canary.MIN_COSINE
    with pytest.raises(GateRefused, match=r"20 texts embedded again, one has cosine 0\.9"):
        check_canaries(report)


@pytest.mark.parametrize(
    ("cosine", "passes"), [(None, True), (0.9999, True), (0.99989, False), (float("nan"), False)]
)
def test_the_bound_is_the_promise(cosine: float | None, passes: bool) -> None:
    report: Report = {"canary_texts": 3, "canary_min_cosine": cosine}
    if passes:
        check_canaries(report)
    else:
        with pytest.raises(GateRefused):
            check_canaries(report)


def test_the_choice_is_seeded_and_of_all(night: Night) -> None:
    assert canary.choose(100, 1).tolist() == canary.choose(100, 1).tolist()
    assert canary.choose(100, 1).tolist() != canary.choose(100, 2).tolist()
    assert canary.choose(3, 1).tolist() == [0, 1, 2]
    assert {row for seed in range(60) for row in canary.choose(30, seed)} == set(range(30))
