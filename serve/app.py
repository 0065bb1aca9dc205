"""The Serve application: gateway replicas that answer whole by themselves, and BERT beside them.

One HTTP hop: state, deltas and search are in the replica that took the request (a handle call
costs five times a no-op request, ANCHORS.md). A catalog that does not fit in each replica's memory
has its shards in deployments of their own (`MOONLARK_SHARD_PLACEMENT=deployments`), at three handle
calls a deployment and list. Deployed by `moonlark serve`, or by hand:

    serve run serve.app:build
"""

from collections.abc import Callable, Mapping
from typing import Any

import ray
import torch
from ray import serve as ray_serve
from ray.serve.config import AutoscalingConfig

from ray_jobs.encoders.bert_settings import device_of
from serve.clock import wall_clock_ms
from serve.replica import Gateway
from serve.settings import ServeSettings
from serve.shard_server import ShardServer
from serve.text_encoder import TextEncoder
from sql.settings import StoreSettings

# Applied by call: as decorators they would hide the class's own type.
GATEWAY = ray_serve.deployment(
    # Above the guard's own bound, which answers with a problem document: what is above it there
    # only sends its body, or is being refused.
    max_ongoing_requests=1024,
    max_queued_requests=1024,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=5,
    graceful_shutdown_timeout_s=10,
    # Paths name users; no log may keep what an erasure cannot reach.
    logging_config={"enable_access_log": False},
)(ray_serve.ingress()(Gateway))

TEXT_ENCODER = ray_serve.deployment(
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0.1},
)(TextEncoder)

SHARD_ACTOR: dict[str, float] = {"num_cpus": 0.1}

SHARD_SERVER = ray_serve.deployment(
    # One query is a core's work for a millisecond; who waits longer than its caller is dropped.
    max_ongoing_requests=64,
    max_queued_requests=256,
    ray_actor_options=SHARD_ACTOR,
    health_check_period_s=5,
    graceful_shutdown_timeout_s=10,
)(ShardServer)


DAY_GPU = 0.2
"""Of a GPU, what the day's BERT asks Ray for; the night leaves it that much (`NIGHT_GPU`)."""


def _text_encoder(settings: ServeSettings) -> ray_serve.Application:
    """BERT, on a GPU where the settings and the cluster have it."""
    device = device_of(settings.bert_device, _gpus(), "that the day could use")
    told = settings.model_copy(update={"device": device})
    if device == "cpu":
        return TEXT_ENCODER.bind(told)
    actor = {"num_cpus": 0.1, "num_gpus": DAY_GPU}
    return TEXT_ENCODER.options(ray_actor_options=actor).bind(told)


def _gpus() -> float:
    """Of the Ray cluster, or of this machine where none is joined yet."""
    if not ray.is_initialized():
        return torch.cuda.device_count()
    total: float = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    return total


def build(_: Mapping[str, Any] | None = None) -> ray_serve.Application:
    """The application as the environment says (`MOONLARK_...`)."""
    settings = ServeSettings()
    return assembled(settings, _text_encoder(settings), SHARD_SERVER)


def assembled(
    settings: ServeSettings,
    encoder: ray_serve.Application,
    shard_server: ray_serve.Deployment,
    now_ms: Callable[[], int] = wall_clock_ms,
) -> ray_serve.Application:
    """Gateway replicas with `encoder` beside them, and the shards where `settings` place them."""
    store, shards = StoreSettings(), []
    if settings.shard_placement == "deployments":
        shards = [
            shard_server.options(name=f"Shards{index}", **shard_options(settings)).bind(
                store, settings, index
            )
            for index in range(settings.shard_deployments)
        ]
    gateway = GATEWAY.options(**gateway_options(settings))
    return gateway.bind(store, settings, encoder, *shards, now_ms=now_ms)


def gateway_options(settings: ServeSettings) -> dict[str, Any]:
    """How many gateway replicas: a number, or from `replicas` to `max_replicas` by load."""
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.replicas,
            initial_replicas=settings.replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.replica_target_requests,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
        )
    }


def shard_options(settings: ServeSettings) -> dict[str, Any]:
    """How many replicas of each deployment of shards, and where they may run."""
    actor = dict(SHARD_ACTOR)
    if settings.shard_memory_bytes is not None:
        actor["memory"] = settings.shard_memory_bytes
    options: dict[str, Any] = {
        "num_replicas": settings.shard_replicas,
        "ray_actor_options": actor,
    }
    if settings.shard_replicas_per_node is not None:
        options["max_replicas_per_node"] = settings.shard_replicas_per_node
    return options
