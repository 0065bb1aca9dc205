"""How many replicas there are and where they may run, from settings to what Serve is told."""

import pytest
from pydantic import ValidationError

from serve.app import SHARD_ACTOR, gateway_options, shard_options
from serve.settings import ServeSettings


def test_without_a_most_the_number_of_gateways_is_fixed() -> None:
    assert gateway_options(ServeSettings(replicas=3)) == {"num_replicas": 3}


def test_with_a_most_serve_scales_between_both() -> None:
    settings = ServeSettings(
        replicas=2, max_replicas=5, replica_target_requests=4, upscale_delay_s=7
    )
    scaling = gateway_options(settings)["autoscaling_config"]
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert scaling.initial_replicas == 2
    assert scaling.target_ongoing_requests == 4
    assert scaling.upscale_delay_s == 7


def test_a_most_below_the_fewest_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_replicas 1 is below replicas 2"):
        ServeSettings(replicas=2, max_replicas=1)


def test_shards_ask_for_the_memory_that_they_are_said_to_need() -> None:
    settings = ServeSettings(shard_replicas=2, shard_replicas_per_node=1, shard_memory_bytes=10**9)
    assert shard_options(settings) == {
        "num_replicas": 2,
        "max_replicas_per_node": 1,
        "ray_actor_options": {**SHARD_ACTOR, "memory": 10**9},
    }
    assert "memory" not in SHARD_ACTOR  # shared by all deployments
    assert shard_options(ServeSettings()) == {"num_replicas": 1, "ray_actor_options": SHARD_ACTOR}
