"""Settings of the night. What decides the meaning of bytes is no setting: it is in the manifest."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ray_jobs.encoders.bert_settings import BertSettings
from sql.live import LEASE_MS


class NightSettings(BertSettings):
    """Read from the environment (`MOONLARK_...`) once per job, then passed down."""

    model_config = SettingsConfigDict(env_prefix="MOONLARK_", frozen=True)

    embed_all: bool = False
    """Embed every text again, also those whose vectors an earlier night or the day has."""

    embed_workers: int = Field(1, ge=1, le=1024)
    """Actors that embed, each with a copy of BERT and one CPU; on GPUs they share these."""

    embed_batch: int = Field(256, ge=1, le=8192)
    """Texts handed to an actor at a time."""

    train_workers: int = Field(1, ge=1, le=256)
    """Ray Train workers; gradients are averaged over them. On GPUs, one each."""

    train_recipe: Literal["nightly", "tiny"] = "nightly"
    """Named training configuration (`ray_jobs.encoders.fit`); `tiny` is for tests."""

    train_seed: int = Field(0, ge=0, le=2**31 - 1)
    """Of everything that training draws."""

    shards: int | None = Field(None, ge=1, le=4096)
    """Shards of the index; by default one for each two million items."""

    index_recall: float = Field(0.99, gt=0, le=1)
    """Recall@100 against exact search that users are promised: the night measures how many lists a
    query must probe for it."""

    fold_users: int = Field(2_000, ge=1)
    """Users folded by one Ray task: the unit of work and of retry."""

    holdout_hours: float = Field(24.0, gt=0)
    """The last hours of the log are kept from training, for the gate."""

    holdout_events: int = Field(500, ge=1)
    """The holdout is widened until it has this many questions: first sights of an item, of each
    user the newest 20 (never past a tenth of all)."""

    fusion_questions: int = Field(2_000, ge=0)
    """Questions before the holdout, kept from training, on which the re-ranking weights are learned
    and the epoch is chosen (never past a tenth of all). Below 100 there is no fusion: lists are
    ordered by cosine alone."""

    gate_min_questions: int = Field(1, ge=0)
    """Held-out questions without which a candidate cannot be compared with what is live, and is
    refused. 0 publishes it all the same."""

    gate_min_index_recall: float = Field(0.95, ge=0, le=1)
    """Recall@100 of the shards against exact search below which a candidate is refused."""

    gate_margin: float = Field(0.01, ge=0, le=1)
    """NDCG@10 a candidate may lose against a live generation of 0.1 or more before it is refused,
    and of a lower one in proportion: of 0.03 a tenth is 0.003."""

    publish: bool = True
    """False: the generation is sealed, past its gate, and not made live; a person may do that."""

    check_min_events: int = Field(1_000, ge=0)
    """Shares and volumes of fewer events (or items) say nothing: they are not judged, nor is by
    itself a day of fewer."""

    check_max_duplicates: float = Field(0.1, ge=0, le=1)
    """Share of events that repeat an earlier one: same user, kind, item or text, value and time.
    Of this and the two below: of the whole log, or of the worst of the days that were received
    since the live generation's log, whichever is larger."""

    check_max_impossible_times: float = Field(0.01, ge=0, le=1)
    """Share of events that occurred an hour or more after they were received, or before 1990."""

    check_max_unknown_items: float = Field(0.5, ge=0, le=1)
    """Share of the events on items whose item is not in the catalog (any more)."""

    check_max_empty_texts: float = Field(0.2, ge=0, le=1)
    """Share of items of which BERT would read nothing."""

    check_min_volume: float = Field(0.2, ge=0)
    """The last day's events over the median of the seven days before it: less is an outage of
    whoever sends them."""

    check_max_volume: float = Field(5.0, ge=1)
    """As above: more is a robot or a mistake."""

    check_max_user_share: float = Field(0.2, ge=0, le=1)
    """Share of the last day's events that one user may have."""

    check_max_item_share: float = Field(0.5, ge=0, le=1)
    """Share of the last day's events that one item may have."""

    stage_deadline_s: float = Field(60.0, gt=0)
    """The pointer flips when all fresh replicas are ready, or after this."""

    verify_deadline_s: float = Field(60.0, gt=0)
    """After the flip: how long a replica may take to be ready, or to be replaced by one that is."""

    live_max_age_hours: float = Field(36.0, gt=0)
    """A live generation older than this is a failure of `verify_live`: a night and a half."""

    lease_s: float = Field(LEASE_MS / 1000, gt=0)
    """A replica whose heartbeat is older than this is not waited for."""

    log: Literal["text", "json"] = "text"
    """`json`: a line of JSON for each step, without anything personal (`step_log`)."""

    keep_generations: int = Field(3, ge=2)
    """Generations kept on disk besides the live one and the one before it."""

    night_max_hours: float = Field(24.0, gt=0)
    """A generation that is building for longer, and has no step running, broke off: it is marked
    failed. More than what Airflow gives a night (`dagrun_timeout`, 20 hours)."""

    keep_work_days: float = Field(7.0, gt=0)
    """A night that broke off can be taken up again for so long; then its work files go, for they
    hold rows of users."""
