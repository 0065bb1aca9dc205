"""The build in parts, as Airflow maps it, is the build in one; and it goes on at the next shard."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine

from infra.bench.fold_data import ITEMS, write_night
from ray_jobs.nightly.build import (
    ShardTask,
    build_shard,
    build_with,
    plan_shards,
    run_part,
)
from ray_jobs.nightly.build_shard import one_shard
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.step_figures import PLAN, shard_step
from ray_jobs.nightly.workspace import StepMissing, Workspace
from ray_jobs.shards.item_block import ItemBlock
from ray_jobs.shards.items import Item
from sql.settings import StoreSettings

SHARDS = 3


def night_at_build(root: Path) -> Night:
    workspace, _ = write_night(root, 20, mean_events=4, seed=3)
    items = [
        Item(ordinal, f"i{ordinal}", "", None, "{}", None, f"{ordinal:032x}")
        for ordinal in range(ITEMS)
    ]
    pq.write_table(ItemBlock.of(items).table(), workspace.items)
    workspace.write_report("train", {})
    settings = NightSettings(shards=SHARDS)
    store = StoreSettings(artifact_root=root)
    return Night(create_engine("sqlite://"), store, settings, workspace, lambda: 0)


def files(workspace: Workspace) -> dict[str, bytes]:
    directory = workspace.directory
    paths = [directory / "items.parquet", *sorted((directory / "shards").iterdir())]
    return {path.name: path.read_bytes() for path in paths}


def one_by_one(tasks: list[ShardTask]) -> list[int]:
    return [build_shard(task) for task in tasks]


def test_shards_made_one_a_job_in_any_order_are_those_of_one_build(tmp_path: Path) -> None:
    whole, parts = night_at_build(tmp_path / "whole"), night_at_build(tmp_path / "parts")
    report = build_with(whole, one_by_one)
    run_part(parts, PLAN, plan_shards)
    for number in (2, 0, 1):
        part = one_shard(number, parts)
        parts.workspace.write_report(shard_step(number), part)

    def nothing_is_left(tasks: list[ShardTask]) -> list[int]:
        raise AssertionError(f"{len(tasks)} shards were made twice")

    assert build_with(parts, nothing_is_left) == report
    assert files(parts.workspace) == files(whole.workspace)
    assert sum(report["shard_items"]) == ITEMS


def test_a_build_that_was_killed_goes_on_at_the_next_shard(tmp_path: Path) -> None:
    night = night_at_build(tmp_path)
    run_part(night, PLAN, plan_shards)
    night.workspace.write_report(shard_step(1), one_shard(1, night))
    made: list[str] = []

    def write(tasks: list[ShardTask]) -> list[int]:
        made.extend(task.path.name for task in tasks)
        return one_by_one(tasks)

    build_with(night, write)
    assert [name.split(".")[0][-1] for name in made] == ["0", "2"]


def test_a_shard_without_a_plan_or_beyond_it_is_refused(tmp_path: Path) -> None:
    night = night_at_build(tmp_path)
    with pytest.raises(StepMissing, match="plan_shards"):
        one_shard(0, night)
    run_part(night, PLAN, plan_shards)
    with pytest.raises(ValueError, match="accepted: 0 to 2"):
        one_shard(SHARDS, night)
