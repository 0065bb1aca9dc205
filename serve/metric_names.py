"""Every metric that a replica tells Prometheus, by name: what the rules and dashboards may use.

Ray's exporter puts `ray_` before each name, and labels with the replica. Names and units are those
of Prometheus: `_total` counts, `_seconds` and `_bytes` are base units, a moment is a `_timestamp`.
No label holds an id of a user, an item or a request: each has a few values, known beforehand.
"""

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds. A list takes some milliseconds, and after 10 s nobody waits any more."""

PREFIX = "ray_"
"""What Ray's exporter puts before each name."""


class Metric(NamedTuple):
    """One metric. `buckets`: upper bounds, of a histogram."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = "moonlark_requests_total"
DURATION = "moonlark_request_duration_seconds"
DEGRADED = "moonlark_degraded_answers_total"
EVENTS = "moonlark_events_total"
EVENT_TO_VISIBLE = "moonlark_event_to_visible_seconds"
LAST_EVENT = "moonlark_last_event_timestamp_seconds"
DROPPED = "moonlark_write_behind_dropped_total"

DATABASE_UP = "moonlark_database_up"
DATABASE_SIZE = "moonlark_database_size_bytes"
DISK_FREE = "moonlark_artifact_disk_free_bytes"
DISK_SIZE = "moonlark_artifact_disk_size_bytes"
REPLICAS = "moonlark_replicas"
REFUSED = "moonlark_generations_refused"
CATALOG_LAG = "moonlark_catalog_lag_seconds"
HOLD = "moonlark_publish_hold"

AGE = "moonlark_live_generation_age_seconds"
NDCG = "moonlark_live_generation_ndcg"
RECALL = "moonlark_live_generation_index_recall"
DAY_NDCG = "moonlark_day_ndcg"
PARITY = "moonlark_live_generation_parity_max_abs_diff"
CANARY = "moonlark_live_generation_canary_min_cosine"
DELTA_SHARE = "moonlark_delta_share"

LIVE_RECALL = "moonlark_live_recall"
LIVE_BROKEN = "moonlark_live_broken"
LIVE_UNVERIFIED = "moonlark_live_unverified_seconds"

ERASURE_OPEN = "moonlark_erasure_open_seconds"
NIGHTS_FAILED = "moonlark_nights_failed"
NIGHT_SILENT = "moonlark_night_silent_seconds"
NIGHT_CHECK = "moonlark_night_check"
STEP_DURATION = "moonlark_night_step_duration_seconds"
STEP_ROWS = "moonlark_night_step_rows"

_COUNTED = (
    Metric(REQUESTS, "counter", "Requests answered.", ("route", "method", "status")),
    Metric(
        DURATION,
        "histogram",
        "From the request's head to the last byte of its answer.",
        ("route",),
        LATENCY_BUCKETS,
    ),
    Metric(DEGRADED, "counter", "Lists that were marked as less, by why.", ("reason",)),
    Metric(EVENTS, "counter", "Events that were posted, by what became of them.", ("outcome",)),
    Metric(
        EVENT_TO_VISIBLE,
        "histogram",
        "From a post of events to its commit: from then on every list reflects it.",
        (),
        LATENCY_BUCKETS,
    ),
    Metric(DROPPED, "counter", "Exposures and sessions that were not written."),
)
_OF_THE_REPLICA = (
    Metric(
        LAST_EVENT,
        "gauge",
        "When an event was last stored, as far as this replica knows, Unix time.",
    ),
    Metric(DATABASE_UP, "gauge", "1 where the database answers this replica, else 0."),
    Metric(DATABASE_SIZE, "gauge", "Size of the database."),
    Metric(DISK_FREE, "gauge", "Free bytes where the artifact root is."),
    Metric(DISK_SIZE, "gauge", "All bytes where the artifact root is."),
    Metric(REPLICAS, "gauge", "Replicas with a fresh lease, by what they hold.", ("holds",)),
    Metric(REFUSED, "gauge", "Generations that this replica could not load.", ("role",)),
    Metric(CATALOG_LAG, "gauge", "Age of the oldest item change not applied here; 0 without one."),
    Metric(HOLD, "gauge", "1 while no night may publish, by who set that, else 0.", ("set_by",)),
    Metric(
        ERASURE_OPEN,
        "gauge",
        "Since the oldest erasure was asked for whose copies are not all rewritten; 0 without one.",
    ),
)
_OF_THE_GENERATION = (
    Metric(AGE, "gauge", "Since the live generation was made."),
    Metric(NDCG, "gauge", "NDCG@10 of the live generation on the hours kept from its training."),
    Metric(RECALL, "gauge", "Recall@100 of its index against exact search."),
    Metric(
        DAY_NDCG,
        "gauge",
        "NDCG@10 of the last day looked back on, with live feedback and without.",
        ("of",),
    ),
    Metric(PARITY, "gauge", "Largest difference of a user vector's coordinate, day against night."),
    Metric(CANARY, "gauge", "Least cosine of a text embedded again to its stored vector."),
    Metric(DELTA_SHARE, "gauge", "Items that changed since the night, of those of the generation."),
    Metric(LIVE_RECALL, "gauge", "Recall@100 of its shards, as last measured while it was live."),
    Metric(LIVE_BROKEN, "gauge", "1 where the last look found files or recall broken, else 0."),
    Metric(LIVE_UNVERIFIED, "gauge", "Since its last look; before the first, since it went live."),
    Metric(
        NIGHTS_FAILED,
        "gauge",
        "Nights that failed since the live one was made, or in its own after the publish.",
        ("why",),
    ),
    Metric(
        NIGHT_SILENT,
        "gauge",
        "Since a step began or ended of the night that builds and is silent the longest; else 0.",
    ),
    Metric(NIGHT_CHECK, "gauge", "What the newest night's data checks found.", ("check",)),
    Metric(
        STEP_DURATION,
        "gauge",
        "How long each step of the newest night took; of one not done yet, of a night before.",
        ("step",),
    ),
    Metric(STEP_ROWS, "gauge", "Rows that each step of that night worked on.", ("step",)),
)

METRICS = {metric.name: metric for metric in (*_COUNTED, *_OF_THE_REPLICA, *_OF_THE_GENERATION)}
"""By name, without Ray's prefix."""


def exported_names() -> frozenset[str]:
    """As Prometheus has them: with the prefix, and a histogram as its three series."""
    names = set()
    for metric in METRICS.values():
        ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {f"{PREFIX}{metric.name}{end}" for end in ends}
    return frozenset(names)
