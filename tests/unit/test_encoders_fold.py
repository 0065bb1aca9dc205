"""Promise 3: online equals batch. The fold is the torch forward, and the same bits however a log is
cut."""

from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ray_jobs.encoders import remembered as remembered_module
from ray_jobs.encoders.config import KINDS, SEEN_BITS, UNDO, Pooling, UserLSTMConfig
from ray_jobs.encoders.errors import SessionError
from ray_jobs.encoders.fold import FoldEvent, effective, event_time, fold, user_vector
from ray_jobs.encoders.reference import Reference
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.user_lstm import NO_RESIDUAL, UNKNOWN_TEXT, EventBatch, UserLSTM
from ray_jobs.encoders.weights import encoder_of, save_weights

TEXT_DIM, TEXTS = 12, 9
RESIDUAL_ORDINALS = np.array([3, 5, 40], np.int64)
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "ema")


@dataclass(frozen=True)
class Twins:
    """One set of random weights, in torch and in numpy."""

    model: UserLSTM
    encoder: UserEncoder
    texts_NT: NDArray[np.float32]


def twins(pooling: Pooling, hidden: int = 16) -> Twins:
    torch.manual_seed(7)
    config = UserLSTMConfig(
        text_dim=TEXT_DIM, dim=8, hidden=hidden, pooling=pooling, residual_count=3
    )
    model = UserLSTM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5)
        model.residual.weight[NO_RESIDUAL] = 0.0
    texts = torch.nn.functional.normalize(torch.randn(TEXTS, TEXT_DIM), dim=-1).numpy()
    return Twins(model, encoder_of(_Fitted(model, RESIDUAL_ORDINALS)), texts)


@dataclass(frozen=True)
class _Fitted:
    model: UserLSTM
    residual_ordinals: NDArray[np.int64]


TWINS = {pooling: twins(pooling) for pooling in POOLINGS}


def forward(pair: Twins, events: list[FoldEvent]) -> NDArray[np.float32]:
    """User vectors after each effective event, by torch."""
    rows = {text.tobytes(): row for row, text in enumerate(pair.texts_NT)}
    config = pair.model.config

    def residual(ordinal: int | None) -> int:
        found = np.flatnonzero(ordinal == RESIDUAL_ORDINALS) if ordinal is not None else ()
        return int(found[0]) + 1 if len(found) else NO_RESIDUAL

    batch = EventBatch(
        texts_BL=torch.tensor(
            [[UNKNOWN_TEXT if e.vector is None else rows[e.vector.tobytes()] for e in events]]
        ),
        residuals_BL=torch.tensor([[residual(e.ordinal) for e in events]]),
        kinds_BL=torch.tensor([[config.kinds.index(e.kind) for e in events]]),
        ratings_BL=torch.tensor([[config.rating_bucket(e.kind, e.value) for e in events]]),
    )
    with torch.inference_mode():
        users_LD: NDArray[np.float32] = pair.model(torch.from_numpy(pair.texts_NT), batch)[
            0
        ].numpy()
    return users_LD


@st.composite
def logs(draw: st.DrawFn, max_size: int = 25) -> list[FoldEvent]:
    """A valid log: undos and re-ratings name earlier events that still count."""
    texts_NT = TWINS["last"].texts_NT
    events: list[FoldEvent] = []
    for user_seq in range(1, draw(st.integers(0, max_size)) + 1):
        counting = effective(events)
        if counting and draw(st.integers(0, 4)) == 0:
            target = draw(st.sampled_from(counting))
            events.append(FoldEvent(user_seq, UNDO, None, None, undoes_seq=target.user_seq))
            continue
        kind = draw(st.sampled_from(KINDS))
        text = draw(st.integers(-1, TEXTS - 1))
        ordinal = None if kind == "search" else draw(st.sampled_from([None, 3, 4, 5, 40, 77]))
        older = [e for e in counting if e.kind == kind == "rating" and e.ordinal == ordinal]
        events.append(
            FoldEvent(
                user_seq,
                kind,
                ordinal,
                None if text < 0 else texts_NT[text],
                draw(st.sampled_from([None, 1.0, 3.0, 5.0, 99.0])),
                older[-1].user_seq if older else None,
                draw(st.integers(0, 9)),
            )
        )
    return events


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=logs())
def test_the_fold_equals_forward_over_the_effective_history(
    pooling: Pooling, events: list[FoldEvent]
) -> None:
    pair = TWINS[pooling]
    counting = effective(events)
    vector = user_vector(pair.encoder, fold(pair.encoder, None, events))
    if not counting:
        assert vector is None
        return
    assert vector is not None
    np.testing.assert_allclose(vector, forward(pair, counting)[-1], atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=40, deadline=None)
@given(events=logs())
def test_one_event_at_a_time_equals_all_at_once(pooling: Pooling, events: list[FoldEvent]) -> None:
    """To the bit, and through bytes, as the database does it; where an undo reaches back, from
    nothing again."""
    encoder = TWINS[pooling].encoder
    session: Session | None = None
    for event in events:
        so_far = [e for e in events if e.user_seq <= event.user_seq]
        reaches_back = event.undoes_seq is not None
        base, tail = (None, so_far) if reaches_back else (session, [event])
        session = Session.from_bytes(fold(encoder, base, tail).to_bytes())
        assert session.to_bytes() == fold(encoder, None, so_far).to_bytes()


def is_valid_base(events: list[FoldEvent], base_seq: int) -> bool:
    """The rule: no event after the base undoes one in it."""
    return all(
        event.undoes_seq is None or event.user_seq <= base_seq or event.undoes_seq > base_seq
        for event in events
    )


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=logs())
def test_wherever_a_session_is_valid_its_tail_leads_to_what_forward_says(
    pooling: Pooling, events: list[FoldEvent]
) -> None:
    """Every base with every tail: those that the rule allows agree, the others are refused."""
    pair = TWINS[pooling]
    counting = effective(events)
    whole = fold(pair.encoder, None, events)
    expected = forward(pair, counting)[-1] if counting else None
    for cut in range(1, len(events)):
        base = fold(pair.encoder, None, events[:cut])
        if not is_valid_base(events, cut):
            with pytest.raises(ValueError, match="inside the base"):
                fold(pair.encoder, base, events[cut:])
            continue
        joined = fold(pair.encoder, Session.from_bytes(base.to_bytes()), events[cut:])
        assert joined.to_bytes() == whole.to_bytes()
        vector = user_vector(pair.encoder, joined)
        if expected is None:
            assert vector is None
        else:
            assert vector is not None
            np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=15, deadline=None)
@given(events=logs())
def test_the_reference_is_forward_of_the_weights_that_were_saved(
    tmp_path_factory: pytest.TempPathFactory, pooling: Pooling, events: list[FoldEvent]
) -> None:
    pair = TWINS[pooling]
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, _Fitted(pair.model, RESIDUAL_ORDINALS))
    vector, counting = Reference.load(path).user_vector(events), effective(events)
    if not counting:
        assert vector is None
        return
    assert vector is not None
    np.testing.assert_allclose(vector, forward(pair, counting)[-1], atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_long_history_does_not_drift(pooling: Pooling) -> None:
    pair, rng = TWINS[pooling], np.random.default_rng(0)
    events = [
        FoldEvent(seq, "click", int(rng.integers(0, 50)), pair.texts_NT[int(rng.integers(TEXTS))])
        for seq in range(1, 3001)
    ]
    session = fold(pair.encoder, None, events[:1000])
    session = fold(pair.encoder, session, events[1000:])
    vector = user_vector(pair.encoder, session)
    assert vector is not None
    np.testing.assert_allclose(vector, forward(pair, events)[-1], atol=1e-5)


def test_seen_and_excluded_follow_the_kinds_and_the_undo() -> None:
    encoder = TWINS["last"].encoder
    events = [
        FoldEvent(1, "view", 9, None),
        FoldEvent(2, "purchase", 4, None),
        FoldEvent(3, "hide", 7, None),
        FoldEvent(4, "dislike", 8, None),
        FoldEvent(5, UNDO, None, None, undoes_seq=3),
        FoldEvent(6, "comment", 11, None),
        FoldEvent(7, "view", 4, None),
    ]
    session = fold(encoder, None, events)
    assert (session.seen.tolist(), session.excluded.tolist()) == ([4, 9], [8])
    assert (session.user_seq, session.steps) == (7, 5)


@settings(max_examples=100, deadline=None)
@given(events=logs())
def test_kinds_and_last_purchases_are_those_of_the_effective_history(
    events: list[FoldEvent],
) -> None:
    kinds: dict[int, int] = {}
    bought: dict[int, int] = {}
    for event in effective(events):
        if event.ordinal is not None and event.kind in SEEN_BITS:
            kinds[event.ordinal] = kinds.get(event.ordinal, 0) | SEEN_BITS[event.kind]
            if event.kind == "purchase":
                bought[event.ordinal] = max(bought.get(event.ordinal, 0), event.at_ms)
    session = fold(TWINS["last"].encoder, None, events)
    assert dict(zip(session.seen.tolist(), session.seen_kinds.tolist(), strict=True)) == kinds
    assert {
        o: t for o, t in zip(session.seen.tolist(), session.bought_ms.tolist(), strict=True)
    } == {ordinal: bought.get(ordinal, 0) for ordinal in kinds}


@settings(max_examples=100, deadline=None)
@given(events=logs(), most=st.integers(1, 4), cut=st.integers(0, 40))
def test_recent_items_are_the_last_distinct_ones_however_the_log_is_cut(
    events: list[FoldEvent], most: int, cut: int
) -> None:
    newest_first: list[int] = []
    for event in reversed(effective(events)):
        if event.kind in SEEN_BITS and event.ordinal not in (None, *newest_first):
            newest_first.append(event.ordinal)  # type: ignore[arg-type]
    with patch.object(remembered_module, "MAX_RECENT", most):
        whole = fold(TWINS["last"].encoder, None, events)
        assert whole.recent.tolist() == newest_first[:most][::-1]
        cut = min(cut, len(events))
        if all(e.undoes_seq is None or e.undoes_seq > cut for e in events[cut:]):
            base = fold(TWINS["last"].encoder, None, events[:cut])
            parts = fold(TWINS["last"].encoder, base, events[cut:])
            assert parts.recent.tolist() == whole.recent.tolist()


def test_a_time_is_when_it_occurred_and_never_after_it_was_received() -> None:
    assert (event_time(5, 9), event_time(9, 5)) == (5, 5)


def test_a_rerating_replaces_the_old_rating() -> None:
    pair = TWINS["last"]
    text = pair.texts_NT[0]
    rerated = [
        FoldEvent(1, "rating", 3, text, 1.0),
        FoldEvent(2, "rating", 3, text, 5.0, undoes_seq=1),
    ]
    session = fold(pair.encoder, None, rerated)
    alone = fold(pair.encoder, None, [replace(rerated[1], undoes_seq=None)])
    assert session.to_bytes() == alone.to_bytes()


def test_an_undo_alone_advances_the_sequence_and_nothing_else() -> None:
    encoder = TWINS["last"].encoder
    events = [FoldEvent(1, "click", 3, None), FoldEvent(2, UNDO, None, None, undoes_seq=1)]
    session = fold(encoder, None, events)
    assert (session.user_seq, session.steps, len(session.seen)) == (2, 0, 0)
    assert user_vector(encoder, session) is None


def test_the_fold_never_writes_to_its_base() -> None:
    encoder = TWINS["mean"].encoder
    base = fold(encoder, None, [FoldEvent(1, "click", 3, None)])
    before = base.to_bytes()
    fold(encoder, base, [FoldEvent(2, "click", 4, None)])
    assert base.to_bytes() == before


@pytest.mark.parametrize(
    ("of", "by"),
    [
        (twins("last", hidden=20), TWINS["last"]),
        (twins("last", hidden=12), TWINS["last"]),
        (TWINS["last"], TWINS["mean"]),
        (TWINS["mean"], TWINS["last"]),
    ],
)
def test_a_session_of_another_encoders_size_is_refused(of: Twins, by: Twins) -> None:
    """Kernels check no index: it would be read past its end."""
    base = Session.from_bytes(fold(of.encoder, None, [FoldEvent(1, "click", 3, None)]).to_bytes())
    with pytest.raises(SessionError, match="these weights have"):
        fold(by.encoder, base, [FoldEvent(2, "click", 3, None)])
    with pytest.raises(SessionError, match="these weights have"):
        user_vector(by.encoder, base)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([FoldEvent(5, "click", 1, None)], "does not follow"),
        ([FoldEvent(7, "click", 1, None), FoldEvent(6, "click", 1, None)], "does not follow"),
        ([FoldEvent(6, UNDO, None, None, undoes_seq=5)], "inside the base"),
        ([FoldEvent(6, "purr", 1, None)], "unknown to these weights"),
        ([FoldEvent(6, "click", 1, np.zeros(3, np.float32))], "text vectors"),
    ],
)
def test_the_fold_refuses_what_would_give_a_wrong_session(
    events: list[FoldEvent], reason: str
) -> None:
    encoder = TWINS["last"].encoder
    base = fold(encoder, None, [FoldEvent(5, "click", 1, None)])
    with pytest.raises(ValueError, match=reason):
        fold(encoder, base, events)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_item_vectors_equal_the_models(pooling: Pooling) -> None:
    pair = TWINS[pooling]
    ordinals = np.array([5, 6, 40, 3, 99, 0, 1, 2, 41])
    found = np.searchsorted(RESIDUAL_ORDINALS, ordinals).clip(max=2)
    rows = np.where(RESIDUAL_ORDINALS[found] == ordinals, found + 1, NO_RESIDUAL)
    with torch.inference_mode():
        expected = pair.model.items(torch.from_numpy(pair.texts_NT), torch.from_numpy(rows))
    vectors = pair.encoder.item_vectors(pair.texts_NT, ordinals)
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
