"""The BERT that the day and the night use; the import loads torch."""

import torch

from ray_jobs.encoders.bert_forward import check_runtime
from ray_jobs.encoders.bert_settings import device_of
from ray_jobs.encoders.item_bert import BertEncoder, open_bert, resolve_model
from ray_jobs.nightly.settings import NightSettings


def check_model(*, is_local: bool) -> None:
    """Raises an `EncoderError` where the model, its runtime or the GPU is not there: before Ray
    starts, not after. `is_local`: the night runs on this machine, so the GPU must be here."""
    settings = NightSettings()
    resolve_model(settings.bert_model)
    check_runtime(settings.bert_precision)
    if is_local:
        device_of(settings.device, torch.cuda.device_count(), "on this machine")


def load_encoder() -> BertEncoder:
    """As MOONLARK_BERT_MODEL, MOONLARK_BERT_PRECISION and MOONLARK_DEVICE say. Raises an
    `EncoderError` where one of them is not there."""
    return open_bert(NightSettings())
