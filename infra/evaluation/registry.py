"""The models by name, and the options from which each chooses on validation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from infra.evaluation import rectools
from infra.evaluation.errors import NotHere, UnknownModel
from infra.evaluation.interactions import Interactions
from infra.evaluation.rankers.als import Als
from infra.evaluation.rankers.als import is_installed as has_als
from infra.evaluation.rankers.choosing import Blend, Chosen, OrPopular
from infra.evaluation.rankers.ease import Ease
from infra.evaluation.rankers.fused import Fused, MakeTimeline
from infra.evaluation.rankers.hourly import HourlyTimeline
from infra.evaluation.rankers.moonlark import Moonlark, Say
from infra.evaluation.rankers.neighbours import ItemKNN, SequentialKNN
from infra.evaluation.rankers.popularity import Newest, Popularity
from infra.evaluation.rankers.sasrec import SasRec
from infra.evaluation.rankers.text_mean import TextMean
from infra.evaluation.rankers.transformers import Transformer
from infra.evaluation.rectools.peer import BERT4REC, SASREC, Model, PeerMissing, environment
from infra.evaluation.task import Ranker
from ray_jobs import compiled, encoders, order, ranking
from ray_jobs.encoders.fit import TrainConfig
from ray_jobs.nightly import replay
from ray_jobs.ranking.fusion import FEATURES
from ray_jobs.ranking.timeline import Timeline

WINDOWS = (30.0, 7.0, 1.0)
"""Days of recent popularity: for blends, and for users without a history."""
WEIGHTS = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Of recent popularity in a blend."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a model is made for. `bert_IT`: vectors of the items' texts, None where there are none
    (then models that read texts cannot be had). `cache`: where trained weights are kept."""

    interactions: Interactions
    seed: int
    recipe: TrainConfig
    bert_IT: NDArray[np.float32] | None
    cache: Path
    train_days: int
    fuse_days: int
    say: Say

    def texts(self, name: str) -> NDArray[np.float32]:
        """`bert_IT`, or NotHere."""
        if self.bert_IT is None:
            raise NotHere(name, "no text vectors", "run `python -m infra.datasets`")
        return self.bert_IT


Make = Callable[[Setting], Ranker]


@dataclass(frozen=True, slots=True)
class Entry:
    """`seeded`: whether another seed gives another model. `chooses`: among options that this file
    has. `shelves`: the code, beside the rankers', that answers depend on: of our own models what
    they ship with, of RecTools' the process.
    `needs` says what is missing, if any, of this data or in this installation (a folder for what is
    kept there): the reason, and what to do."""

    make: Make
    seeded: bool = False
    chooses: bool = False
    is_ours: bool = False
    shelves: tuple[ModuleType, ...] = ()
    needs: Callable[[Interactions, Path], tuple[str, str] | None] = lambda interactions, cache: None

    def check(self, name: str, interactions: Interactions, cache: Path) -> None:
        """Raises NotHere where this data or installation cannot have it."""
        missing = self.needs(interactions, cache)
        if missing is not None:
            raise NotHere(name, *missing)


def _knn(setting: Setting) -> Ranker:
    quick = ((decay, 20) for decay in (0.8, 0.7, 0.6, 0.5, 0.3))
    options = ((0.9, 50), *quick, (0.97, 100), (1.0, 200))
    return Chosen({f"decay {d:g}, last {n}": partial(SequentialKNN, d, n) for d, n in options})


def _item_knn(setting: Setting) -> Ranker:
    return Chosen({f"k {k}": partial(ItemKNN, k) for k in (100, 5, 10, 20, 50, 200, 500, 1_000)})


def _ease(setting: Setting) -> Ranker:
    return Chosen(
        {f"ridge {r:g}": partial(Ease, r) for r in (300.0, 30.0, 100.0, 1_000.0, 3_000.0)}
    )


def _als(setting: Setting) -> Ranker:
    options = (
        *((64, 0.1, 1.0), (32, 0.1, 1.0), (64, 0.01, 1.0), (64, 1.0, 1.0), (64, 0.1, 0.3)),
        *((64, 0.1, 10.0), (32, 0.1, 10.0), (128, 1.0, 10.0), (64, 1.0, 40.0)),
    )
    return Chosen(
        {
            f"{f} factors, regularization {r:g}, alpha {a:g}": partial(Als, f, r, a, setting.seed)
            for f, r, a in options
        }
    )


def _needs_implicit(interactions: Interactions, cache: Path) -> tuple[str, str] | None:
    return None if has_als() else ("`implicit` is missing", "pip install -e '.[evaluation]'")


def _needs_dates(interactions: Interactions, cache: Path) -> tuple[str, str] | None:
    if interactions.published_ms_I is None:
        return "its items have no time of publication", "name another model"
    return None


def _cosine(setting: Setting) -> Moonlark:
    bert_IT = setting.texts("moonlark")
    return Moonlark(setting.recipe, bert_IT, setting.cache, setting.say, setting.train_days)


def _fused(setting: Setting, make_timeline: MakeTimeline = Timeline) -> Ranker:
    cosine = _cosine(setting)
    return Fused(cosine, OrPopular(cosine, WINDOWS), setting.fuse_days, make_timeline)


def _fused_hourly(setting: Setting) -> Ranker:
    return _fused(setting, HourlyTimeline)


def _fused_without_cosine(setting: Setting) -> Ranker:
    """What the user vector is worth to a list: it finds items still, but scores none."""
    used_F = np.array([name != "cosine" for name in FEATURES])
    return Fused(_cosine(setting), Popularity(WINDOWS[0]), setting.fuse_days, used_F=used_F)


def _transformer(model: Model) -> Make:
    """In the environment that the bench `train` makes as well."""
    return lambda setting: Transformer(
        model, setting.seed, _rectools_of(setting.cache), setting.train_days
    )


def _rectools_of(cache: Path) -> Path:
    return cache.parent / "rectools"


def _needs_rectools(interactions: Interactions, cache: Path) -> tuple[str, str] | None:
    """Its environment is made here, before other models have learned for hours."""
    try:
        environment(_rectools_of(cache))
    except PeerMissing as error:
        return str(error), error.hint
    return None


def _or_popular(make: Make) -> Make:
    return lambda setting: OrPopular(make(setting), WINDOWS)


def _blended(make: Make) -> Make:
    return lambda setting: Blend(lambda: make(setting), WINDOWS, WEIGHTS)


COSINE = (encoders, compiled, order)
FUSED = (*COSINE, ranking, replay)
"""What our own answers are made by, beside the rankers."""

MODELS: Mapping[str, Entry] = {
    "moonlark": Entry(_fused, seeded=True, is_ours=True, shelves=FUSED),
    "moonlark-hourly": Entry(_fused_hourly, seeded=True, is_ours=True, shelves=FUSED),
    "moonlark-no-cosine": Entry(_fused_without_cosine, seeded=True, is_ours=True, shelves=FUSED),
    "moonlark-cosine": Entry(_or_popular(_cosine), seeded=True, is_ours=True, shelves=COSINE),
    "popularity": Entry(lambda setting: Popularity()),
    "popularity-1d": Entry(lambda setting: Popularity(1)),
    "popularity-7d": Entry(lambda setting: Popularity(7)),
    "popularity-30d": Entry(lambda setting: Popularity(30)),
    "newest": Entry(lambda setting: Newest(), needs=_needs_dates),
    "item-knn": Entry(_or_popular(_item_knn), chooses=True),
    "sequential-knn": Entry(_or_popular(_knn), chooses=True),
    "ease": Entry(_or_popular(_ease), chooses=True),
    "als": Entry(_or_popular(_als), seeded=True, chooses=True, needs=_needs_implicit),
    "bert-mean": Entry(_or_popular(lambda setting: TextMean(setting.texts("bert-mean")))),
    "sasrec": Entry(
        _or_popular(lambda setting: SasRec(setting.seed, setting.train_days)), seeded=True
    ),
    "sasrec-rectools": Entry(
        _or_popular(_transformer(SASREC)),
        seeded=True,
        shelves=(rectools,),
        needs=_needs_rectools,
    ),
    "bert4rec-rectools": Entry(
        _or_popular(_transformer(BERT4REC)),
        seeded=True,
        shelves=(rectools,),
        needs=_needs_rectools,
    ),
    "sequential-knn+popular": Entry(_blended(_knn), chooses=True),
    "ease+popular": Entry(_blended(_ease), chooses=True),
}


def make(name: str, setting: Setting) -> Ranker:
    """The model of that name.

    Raises:
        UnknownModel: none of MODELS.
        NotHere: it reads texts, and there are no vectors of them.
    """
    return entry_of(name).make(setting)


def entry_of(name: str) -> Entry:
    """Raises UnknownModel."""
    if name not in MODELS:
        raise UnknownModel(name, MODELS)
    return MODELS[name]
