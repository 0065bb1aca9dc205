"""The shipped gateway with the words encoder beside it, in place of BERT, on a clock that a drill
can step.

Deployed by `infra.drills.stack`; nothing of the gateway is replaced.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve as ray_serve

from infra.drills.clock import stepped_clock_ms
from infra.drills.words_encoder import WordsEncoder
from serve.app import SHARD_SERVER, assembled
from serve.settings import ServeSettings

WORDS_ENCODER = ray_serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})(
    WordsEncoder
)


def build(_: Mapping[str, Any] | None = None) -> ray_serve.Application:
    """The application as the environment says (`MOONLARK_...`)."""
    encoder = WORDS_ENCODER.bind()
    return assembled(ServeSettings(), encoder, SHARD_SERVER, stepped_clock_ms)
