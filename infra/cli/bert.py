"""The BERT that the day and the night use; the import loads torch."""

from ray_jobs.encoders.item_bert import BertEncoder, resolve_model
from ray_jobs.nightly.settings import NightSettings


def check_model() -> None:
    """Raises an `EncoderError` where the model is not there: before Ray starts, not after."""
    resolve_model(NightSettings().bert_model)


def load_encoder() -> BertEncoder:
    """As MOONLARK_BERT_MODEL says. Raises an `EncoderError` where it is not there."""
    return BertEncoder(resolve_model(NightSettings().bert_model))
