"""The sizing formula: by the bytes of files that the shipped code wrote, and what it is to say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.bench.held_memory import item_bytes
from infra.bench.made_generation import (
    ACTIVE_SHARE,
    GENERATION,
    RESIDUAL_SHARE,
    Shape,
    made_vectors,
    make_generation,
)
from infra.bench.sizing import (
    KEPT,
    Ask,
    Floors,
    generation_bytes,
    generation_parts,
    session_bytes,
    shard_server_bytes,
    size,
)
from infra.cli.main import app
from ray_jobs.encoders.fold import FoldEvent, fold
from ray_jobs.shards.items import read_items
from serve.loaded_generation import LoadedGeneration

SHAPE = Shape(items=25_000, dim=16, text_dim=32, neighbours=7)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made generation, large enough for IVF."""
    folder = tmp_path_factory.mktemp("made")
    make_generation(folder, SHAPE)
    return folder


@pytest.fixture(scope="module")
def ask(root: Path) -> Ask:
    """What the made generation is, in the words of the formula."""
    return Ask(
        items=SHAPE.items,
        dim=SHAPE.dim,
        text_dim=SHAPE.text_dim,
        neighbours=SHAPE.neighbours,
        item_bytes=item_bytes(root / "generations" / GENERATION),
        residual_share=RESIDUAL_SHARE,
        active_share=ACTIVE_SHARE,
    )


def file_bytes(root: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in (root / "generations" / GENERATION).glob(pattern))


@pytest.mark.parametrize(
    ("part", "pattern"),
    [
        ("index", "shards/*.faiss"),
        ("texts", "texts.*.npy"),
        ("neighbours", "neighbours.*.npy"),
        ("activity", "activity.*.npy"),
    ],
)
def test_what_is_mapped_is_as_long_as_its_files(
    root: Path, ask: Ask, part: str, pattern: str
) -> None:
    assert generation_parts(ask)[part].mapped == pytest.approx(file_bytes(root, pattern), rel=0.01)


def test_columns_of_items_are_as_long_as_arrow_says(root: Path, ask: Ask) -> None:
    items = read_items(root / "generations" / GENERATION)
    items.warm()
    block = items.blocks[0]
    held = sum(column.nbytes for column in block._columns.values())
    arrays = (block.ordinals, block.published_ms, block.newest_first, block._available)
    held += sum(array.nbytes for array in arrays) + block._categories[1].nbytes
    assert generation_parts(ask)["items"].private == pytest.approx(held, rel=0.02)


def test_residuals_are_as_long_as_their_matrix(root: Path, ask: Ask) -> None:
    encoder = LoadedGeneration.open(root, GENERATION).encoder
    count = encoder.config.residual_count
    assert count == int(SHAPE.items * RESIDUAL_SHARE)
    assert generation_parts(ask)["residuals"].private == count * (4 * SHAPE.dim + 8)


def test_a_session_is_as_long_as_its_row(root: Path) -> None:
    encoder = LoadedGeneration.open(root, GENERATION).encoder
    vectors = made_vectors(60, SHAPE.text_dim, np.random.default_rng(0))
    events = [FoldEvent(n + 1, "view", n, vector) for n, vector in enumerate(vectors)]
    row = fold(encoder, None, events).to_bytes()
    assert session_bytes(Ask(items=SHAPE.items, dim=SHAPE.dim, seen=60)) == len(row)


def test_a_replica_holds_two_generations_and_a_third_while_it_switches() -> None:
    asked, floors = Ask(items=1_000_000, users=10), Floors()
    one, found = generation_bytes(asked), size(asked)
    assert found.replica.mapped == (floors.replica_mapped + floors.first_mapped + KEPT * one.mapped)
    assert found.switching.private - found.replica.private == pytest.approx(one.private)
    # What is mapped is there once, however many replicas a node has.
    more = size(replace(asked, rate=2_000.0))
    assert more.replicas > found.replicas
    own = (more.replicas - found.replicas) * found.switching.private
    assert more.node - found.node == pytest.approx(own)


def test_cores_grow_with_the_rate_and_the_cache_ends_where_it_is_said_to() -> None:
    asked = Ask(items=100_000, users=50_000, rate=100.0)
    assert size(replace(asked, rate=200.0)).cores == pytest.approx(2 * size(asked).cores)
    assert size(replace(asked, users=10**7)).sessions == size(asked).sessions
    assert size(replace(asked, users=10**7)).database == pytest.approx(200 * size(asked).database)


def test_shards_in_deployments_share_what_they_hold() -> None:
    asked, floor = Ask(items=10_000_000), Floors().shard_server
    held = {
        count: shard_server_bytes(replace(asked, shard_deployments=count)).all - floor
        for count in (1, 4, 5, 10)
    }
    # Five shards, whole: of four deployments one has two of them.
    assert held[4] == pytest.approx(2 / 5 * held[1])
    assert held[5] == pytest.approx(1 / 5 * held[1])
    assert held[10] == pytest.approx(1 / 10 * held[1])
    # The gateways hold what they have, and little else of the index.
    apart, together = (
        generation_bytes(replace(asked, shard_deployments=count)) for count in (4, 0)
    )
    gone = KEPT * (together.all - apart.all)
    assert 0.9 < gone / (KEPT * generation_parts(asked)["index"].all) < 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="items 0"):
        size(Ask(items=0))


def test_the_command_says_what_the_formula_says() -> None:
    arguments = ["size", "--items", "1000000", "--users", "1000", "--shard-deployments", "4"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    memory = shard_server_bytes(Ask(items=1_000_000, users=1_000, shard_deployments=4)).all
    assert f"{memory:.0f}" in told.output
