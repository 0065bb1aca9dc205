"""Which BERT, how it multiplies, and where: told once to the night and to the day alike.

The settings of both inherit these, so neither can have another name or default for them.
"""

import logging
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ray_jobs.encoders.errors import NoGpu

log = logging.getLogger("moonlark.encoders")

Precision = Literal["fp32", "bf16", "openvino-bf16"]
Device = Literal["cpu", "cuda"]


class BertSettings(BaseSettings):
    """Read from the environment (`MOONLARK_...`)."""

    model_config = SettingsConfigDict(env_prefix="MOONLARK_", frozen=True)

    bert_model: str | None = None
    """Hugging Face BERT: a folder, a hub name, or the default MiniLM. Night and day must use the
    same, else promise 3 (online equals batch) breaks."""

    bert_precision: Precision = Field("fp32")
    """`bf16`: torch with bf16 weights. `openvino-bf16`: OpenVINO, which the extra `openvino`
    installs; on the CPU, whatever `device` says. Part of the encoder id: another precision is
    another encoder, whose first night embeds all texts again."""

    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where BERT runs, the LSTM is trained and centroids are found. `cuda` does not start without a
    GPU; `auto` takes one where there is one, and says which it took. Not part of the encoder id."""

    @property
    def bert_device(self) -> Literal["cpu", "cuda", "auto"]:
        """`device`, as far as it concerns BERT."""
        return "cpu" if self.bert_precision == "openvino-bf16" else self.device


def device_of(setting: Literal["cpu", "cuda", "auto"], gpus: float, where: str) -> Device:
    """What the setting comes to with so many GPUs; `where` says whose they are.

    Raises:
        NoGpu: `cuda`, and there is none.
    """
    if setting == "cpu":
        return "cpu"
    if gpus > 0:
        return "cuda"
    if setting == "cuda":
        raise NoGpu(where)
    log.warning("MOONLARK_DEVICE=auto: no GPU %s, so the CPU is used", where)
    return "cpu"
