"""A past night made again, as a new generation: the same watermark, seed and settings.

Each night keeps in the registry, with its seal, up to which receipt it read the log and how it was
set (`WATERMARK`); they outlive its files. The export of a rebuild (`export --rebuild ID`) reads
the log and the catalog as of then, and every later step is set as that night was.

The same as in the original: items and their texts (the catalog's log keeps every change), the
events that are still there, what is kept from training, and so weights, shards and sessions, bit
for bit on the same machine. What cannot be the same:

- events of users erased since, and what retention took since, are gone;
- an event that was being written at the very moment of the export may be in one and not the other;
- counts by hour (`item_activity`) stand as they do now: undone or late events since changed them,
  and old hours are gone by age.

The gate judges it as any other, but not against what is live, which has learned from what came
after. It is not published unless one asks for it.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.workspace import NothingToDo, Workspace
from sql import generations
from sql.generations import REBUILDS, WATERMARK, Generation

KEPT_SETTINGS = (
    *("train_recipe", "train_seed", "train_workers", "shards", "index_recall"),
    *("holdout_hours", "holdout_events", "fusion_questions"),
)
"""What decides a generation's bytes, besides the data. BERT's is in the encoder id."""

NOT_COMPARED = {"gate_margin": 1.0, "gate_min_questions": 0}


@dataclass(frozen=True, slots=True)
class Watermark:
    """Of the night `generation_id`: what it read, and how it was set."""

    generation_id: str
    as_of_ms: int
    """When its export began."""
    received_until_ms: int
    catalog_seq: int
    events: int
    users: int
    settings: dict[str, Any]


def kept_settings(settings: NightSettings) -> dict[str, Any]:
    """What a rebuild of this night has to be told."""
    return {name: getattr(settings, name) for name in KEPT_SETTINGS}


def watermark_of(conn: Connection, named: str) -> Watermark:
    """Of the generation of that id, or of the newest whose id begins so, where it ends with `-`.

    A rebuild is never the newest of a beginning: a night is found by its own time.

    Raises:
        NothingToDo: there is none, it was never sealed, or it was made before watermarks were kept.
    """
    found = _named(conn, named)
    if found is None:
        raise NothingToDo(f"no generation {named}", hint="moonlark generations lists them")
    stored = found.metrics.get(WATERMARK)
    if stored is None:
        why = "was never sealed, or by a version that kept no watermark"
        raise NothingToDo(
            f"generation {found.generation_id} cannot be made again: it {why}",
            hint="moonlark generations, for another one",
        )
    return Watermark(
        generation_id=found.generation_id,
        as_of_ms=stored["as_of_ms"],
        received_until_ms=stored["received_until_ms"],
        catalog_seq=found.catalog_seq,
        events=found.event_count,
        users=found.user_count,
        settings=stored["settings"],
    )


def _named(conn: Connection, named: str) -> Generation | None:
    if not named.endswith("-"):
        return generations.get_generation(conn, named)
    for found in generations.list_generations(conn):
        is_original = WATERMARK in found.metrics and not found.is_rebuild
        if is_original and found.generation_id.startswith(named):
            return found
    return None


def watermark_metric(exported: dict[str, Any]) -> dict[str, Any]:
    """What the seal keeps of the export's report; empty for one of an earlier version."""
    if "received_until_ms" not in exported:
        return {}
    names = ("as_of_ms", "received_until_ms", "settings", REBUILDS)
    return {WATERMARK: {name: exported[name] for name in names if name in exported}}


def as_exported(settings: NightSettings, workspace: Workspace) -> NightSettings:
    """The settings of a night; of a rebuild, those of its original where they decide bytes."""
    exported = workspace.report("export")
    if exported is None or REBUILDS not in exported:
        return settings
    return settings.model_copy(update={**exported["settings"], **NOT_COMPARED})
