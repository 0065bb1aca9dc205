"""The shipped gateway; the deployments beside it are the shipped ones behind a switch (`sickness`).

Deployed by `infra.drills.stack` for the drills that break one of them.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve as ray_serve

from infra.drills.sick_deployments import SickShardServer, SickWordsEncoder
from serve.app import SHARD_SERVER, assembled
from serve.settings import ServeSettings

APP = "infra.drills.sick_app:build"


SICK_SHARD_SERVER = SHARD_SERVER.options(func_or_class=SickShardServer)
SICK_WORDS_ENCODER = ray_serve.deployment(
    max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1}
)(SickWordsEncoder)


def build(_: Mapping[str, Any] | None = None) -> ray_serve.Application:
    """The application as the environment says (`MOONLARK_...`)."""
    return assembled(ServeSettings(), SICK_WORDS_ENCODER.bind(), SICK_SHARD_SERVER)
