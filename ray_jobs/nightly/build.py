"""Step 4. Item vectors become shards, a Ray task a shard, with one coarse quantizer for all.

Only BERT vectors are stored as such; the projection (and the residual, where an item has one) is
applied here, so new weights cost no embedding. How many lists a query probes is measured here too,
with the vectors of sampled users, and goes into the manifest.

Three parts, each with its own report, so that one that broke off goes on at the next shard:

    plan_shards           items.parquet, the coarse quantizer, how many shards   -> report
    build_shard --shard N one shard                                              -> a report a shard
    build                 whichever of these is left, then nprobe                -> report

Airflow maps the second over the shards; `moonlark night` asks for `build` alone.

Run: python -m ray_jobs.nightly.build --generation ID
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from ray_jobs.encoders.config import SEEN_KINDS
from ray_jobs.encoders.fold import fold, user_vector
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.histories import open_histories
from ray_jobs.nightly.step import NIGHT_GPU, Night, Report, device_of_cluster, main
from ray_jobs.nightly.step_figures import PLAN, shard_step
from ray_jobs.nightly.workspace import NothingToDo, Workspace
from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.items import ITEMS_NAME
from ray_jobs.shards.manifest import COARSE_NAME, shard_name
from ray_jobs.shards.merge import merge_top_k_batch
from ray_jobs.shards.placement import Family, choose_family, choose_shard_count, shard_of
from ray_jobs.shards.reader import Shard
from ray_jobs.shards.recall import Probing, choose_nprobe
from ray_jobs.shards.texts import TextVectors
from ray_jobs.shards.writer import read_coarse, train_coarse, write_coarse, write_shard

SEED = 0
QUERIES = 1_000
"""Users whose vectors nprobe is measured with: the standard error of recall is then some 0.001."""
MIN_QUERIES = 200
SHARDS_ON_A_GPU = 3


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to be written: its place, vectors (N, D), ordinals (N,), and how."""

    path: Path
    vectors_ND: NDArray[np.float32]
    ordinals_N: NDArray[np.int64]
    family: Family
    coarse: Path | None
    use_gpu: bool = False


def build(night: Night) -> Report:
    """Write items.parquet, the shards and, for IVF, coarse.faiss."""
    return build_with(night, _on_the_cluster)


def build_with(night: Night, write: Callable[[list[ShardTask]], list[int]]) -> Report:
    """`build`, the shards that are left written by `write`, which returns the items of each."""
    plan = run_part(night, PLAN, plan_shards)
    numbers = range(plan["shards"])
    left = [number for number in numbers if night.workspace.report(shard_step(number)) is None]
    tasks = [shard_task(night, plan, number) for number in left]
    for number, size in zip(left, write(tasks) if left else [], strict=True):
        night.workspace.write_report(shard_step(number), {"shard_items": size})
    sizes = [night.workspace.require_report(shard_step(n))["shard_items"] for n in numbers]
    probing = _probing(night, plan)
    return {
        **{name: plan[name] for name in ("items", "dim", "family", "nlist", "shards")},
        "nprobe": 0 if probing is None else probing.nprobe,
        "recall": 1.0 if probing is None else probing.recall,
        "shard_items": sizes,
    }


def plan_shards(night: Night) -> Report:
    """Write what all shards share: items.parquet and, for IVF, coarse.faiss; how many there are."""
    night.workspace.require_report("train")
    workspace = night.workspace
    ordinals_N, vectors_ND = item_vectors(workspace)
    if not len(ordinals_N):
        raise NothingToDo("no item has a vector", hint="moonlark ingest --items FILE")
    _write_items(workspace)
    choice = choose_family(len(ordinals_N))
    if choice.family != "Flat":
        coarse = train_coarse(vectors_ND, choice.nlist, SEED, _on_gpu(night, choice.family))
        write_coarse(workspace.directory / COARSE_NAME, coarse)
    (workspace.directory / "shards").mkdir(exist_ok=True)
    return {
        "items": len(ordinals_N),
        "dim": int(vectors_ND.shape[1]),
        "family": choice.family,
        "nlist": choice.nlist,
        "shards": night.settings.shards or choose_shard_count(len(ordinals_N)),
    }


def run_part(night: Night, name: str, part: Callable[[Night], Report]) -> Report:
    """The report of a part of the step, which runs unless it did already."""
    done = night.workspace.report(name)
    if done is None:
        started = time.perf_counter()
        done = part(night)
        done["seconds"] = round(time.perf_counter() - started, 3)
        night.workspace.write_report(name, done)
    return done


def _on_gpu(night: Night, family: Family) -> bool:
    """Whether lists are found on a GPU; Flat shards have none."""
    return family != "Flat" and device_of_cluster(night.settings.device) == "cuda"


def shard_task(night: Night, plan: Report, number: int) -> ShardTask:
    """What one shard is written from: the vectors of its own items, whoever else is at work.

    Raises:
        ValueError: there is no such shard.
    """
    if not 0 <= number < plan["shards"]:
        raise ValueError(f"shard: {number}, accepted: 0 to {plan['shards'] - 1}")
    workspace, family = night.workspace, plan["family"]
    ordinals = pq.read_table(workspace.items, columns=["ordinal"])["ordinal"].to_numpy()
    own_N = shard_of(ordinals, plan["shards"]) == number
    ordinals_N, vectors_ND = item_vectors(workspace, of_N=own_N)
    coarse = None if family == "Flat" else workspace.directory / COARSE_NAME
    path = workspace.directory / shard_name(number)
    return ShardTask(path, vectors_ND, ordinals_N, family, coarse, _on_gpu(night, family))


def item_vectors(
    workspace: Workspace,
    encoder: UserEncoder | None = None,
    *,
    of_N: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ordinals (N,) ascending and unit item vectors (N, dim) of the exported catalog, by the
    weights of tonight (None) or by others that read the same texts. `of_N`: of these rows only."""
    items = pq.read_table(workspace.items, columns=["ordinal", "text_digest"])
    if of_N is not None:
        items = items.filter(pa.array(of_N))
    ordinals_N = items["ordinal"].to_numpy()
    texts = TextVectors.open(workspace.directory)
    rows_N = texts.rows_of(items["text_digest"].to_pylist())
    if encoder is None:
        encoder = load_weights(workspace.directory / "weights.safetensors")
    return ordinals_N, encoder.item_vectors(np.asarray(texts.vectors[rows_N]), ordinals_N)


def _probing(night: Night, plan: Report) -> Probing | None:
    """The fewest lists that keep the promise of `index_recall` for users like those of tonight;
    None for Flat shards, which have no lists."""
    if plan["family"] == "Flat":
        return None
    ordinals_N, vectors_ND = item_vectors(night.workspace)
    return measured_probing(
        night.workspace.directory,
        plan["shards"],
        _queries(night.workspace, vectors_ND),
        vectors_ND,
        ordinals_N,
        night.settings.index_recall,
    )


def measured_probing(
    directory: Path,
    shard_count: int,
    queries_BD: NDArray[np.float32],
    vectors_ND: NDArray[np.float32],
    ordinals_N: NDArray[np.int64],
    promised: float,
) -> Probing:
    """The fewest lists that keep the promise, by the IVF shards that lie in `directory`."""
    shards = [
        Shard.open(directory / shard_name(number), "IVF,SQfp16") for number in range(shard_count)
    ]

    def search(queries_BD: NDArray[np.float32], k: int, nprobe: int) -> NDArray[np.int64]:
        parts = [shard.search(queries_BD, k, nprobe) for shard in shards]
        return merge_top_k_batch(parts, k)[1]

    coarse = read_coarse(directory / COARSE_NAME)
    return choose_nprobe(coarse, queries_BD, vectors_ND, ordinals_N, search, promised)


def _queries(workspace: Workspace, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (B, D) of users drawn from the export; a log with few of them is helped out with
    items, which are what a search for the like of an item asks with."""
    rng = np.random.default_rng(SEED)
    encoder = load_weights(workspace.directory / "weights.safetensors")
    histories = open_histories(workspace)
    users = len(histories.offsets_U1) - 1
    drawn = np.sort(rng.choice(users, min(QUERIES, users), replace=False)).tolist()
    sessions = (fold(encoder, None, histories.events_of(user)) for user in drawn)
    asked = [user_vector(encoder, session) for session in sessions]
    queries = [vector for vector in asked if vector is not None and np.isfinite(vector).all()]
    missing = min(max(0, MIN_QUERIES - len(queries)), len(vectors_ND))
    items = vectors_ND[np.sort(rng.choice(len(vectors_ND), missing, replace=False))]
    return np.array([*queries, *items], np.float32)


def build_shard(task: ShardTask) -> int:
    """Write one shard; returns its number of items."""
    write_shard(task.path, task.vectors_ND, task.ordinals_N, task.family, task.coarse, task.use_gpu)
    return len(task.ordinals_N)


def _on_the_cluster(tasks: list[ShardTask]) -> list[int]:
    """A Ray task a shard."""
    gpu = NIGHT_GPU / SHARDS_ON_A_GPU if any(task.use_gpu for task in tasks) else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpu, max_retries=3)(build_shard)
    sizes: list[int] = ray.get([remote.remote(task) for task in tasks])
    return sizes


def _write_items(workspace: Workspace) -> None:
    """items.parquet of the generation: the catalog with each item's count of seen events."""
    items = pq.read_table(workspace.items)
    log = pq.read_table(workspace.events, columns=["ordinal", "kind"])
    seen = log.filter(pc.is_in(log["kind"], value_set=pa.array(sorted(SEEN_KINDS))))
    counted = pc.value_counts(pc.drop_null(seen["ordinal"].combine_chunks()))
    count_of = dict(
        zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    )
    counts = [count_of.get(ordinal, 0) for ordinal in items["ordinal"].to_pylist()]
    column = items.schema.get_field_index("event_count")
    items = items.set_column(column, items.schema.field(column), pa.array(counts, pa.int64()))
    with whole_file(workspace.directory / ITEMS_NAME) as temporary:
        pq.write_table(items, temporary, compression="zstd")


if __name__ == "__main__":
    main("build", build, needs_ray=True)
