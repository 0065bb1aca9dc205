"""The fold: one event for one user, 64 users at once, and the histories of a night.

    python -m infra.bench.fold             about 3 minutes

One event is `ray_jobs.encoders.fold.fold` as a replica calls it: the product with the text's
vector, the gates, the step and what a session remembers of items. The floor is the three products
of it alone, since each weight has to be read once. The peers have no session: they compute again,
with torch, the user vector from the whole history, at its last position alone, or only the states
of its nn.LSTM from inputs that are ready.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench.fold_data import Fitted, history, made_texts, user_lstm, write_night
from infra.bench.report import Ratio, Report, Size, Table, run_bench
from infra.bench.rounds import Times, in_turn, ratio
from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.reference import Reference
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.user_lstm import EventBatch, UserLSTM
from ray_jobs.encoders.weights import encoder_of
from ray_jobs.nightly.fold import fold_range
from ray_jobs.nightly.settings import NightSettings

SEED = 0
USERS_AT_ONCE = 64
LENGTHS = (50, 200)
MEAN_EVENTS = 50
HISTORIES: dict[Size, int] = {"full": 100_000, "small": 300}
ROUNDS: dict[Size, int] = {"full": 40, "small": 3}
INNER: dict[Size, int] = {"full": 500, "small": 20}
"""Calls a round of what takes microseconds: one alone would be lost in the clock."""
STEP_US = 20.0
CHEAPER = 50.0


@dataclass(frozen=True)
class _Subject:
    """One user of LENGTHS[-1] events, and the model as it is served and in torch."""

    encoder: UserEncoder
    reference: Reference
    events: list[FoldEvent]
    session: Session
    """After all events but the last."""


def measure(size: Size) -> Report:
    """Both parts, one after the other."""
    torch.set_num_threads(1)
    subject = _subject()
    one = _one_event(subject, size)
    together = _together(subject, size)
    seconds, events = _night(HISTORIES[size])
    per_million_s = seconds / HISTORIES[size] * 1e6
    folded = one["fold"]
    return Report(
        bench="fold",
        about=(
            f"One event of one user behind a session of {LENGTHS[-1] - 1} events, H = 128, texts of"
            f" 384 numbers, one thread; {USERS_AT_ONCE} users at once; and {HISTORIES[size]:,} "
            f"histories of {events / HISTORIES[size]:.0f} events by the night's `fold_range` from "
            "exported Parquet to session bytes, one process."
        ),
        ratios=(
            Ratio(
                name="step, µs",
                value=1e6 * one["step"].wall_s,
                of="microseconds of text product, gates and LSTM step of one event",
                at_most=STEP_US,
            ),
            Ratio(
                name="fold of one event, µs",
                value=1e6 * folded.wall_s,
                of="microseconds of fold(): the step, and what a session remembers of items",
                at_most=STEP_US,
            ),
            Ratio(
                name="cheaper than nn.LSTM over 200",
                value=ratio(one["nn.LSTM 200"], folded),
                of="torch nn.LSTM alone over 200 ready inputs / fold() of one event; the peer has "
                "neither texts nor what a session remembers",
                at_least=CHEAPER,
            ),
            Ratio(
                name="cheaper than nn.LSTM over 200, like by like",
                value=ratio(one["nn.LSTM 200"], one["gates and step"]),
                of="torch nn.LSTM alone over 200 ready inputs / gates and step of a textless event",
            ),
            Ratio(
                name="cheaper than recomputing 200",
                value=ratio(one["recompute 200"], one["fold and vector"]),
                of="user vector from 200 events by torch, of the last position alone / fold() of "
                "one event and the user vector",
            ),
            Ratio(
                name="fold and floor",
                value=ratio(folded, one["floor"]),
                of="fold() of one event / its three products alone",
            ),
            Ratio(
                name="64 users at once and LSTMCell",
                value=ratio(together["step"], together["LSTMCell"]),
                of="gates and step of 64 users, one by one / torch LSTMCell of all at once, both "
                "from ready inputs",
            ),
            Ratio(
                name="a million histories, CPU minutes",
                value=per_million_s / 60,
                of=f"CPU minutes of fold_range for a million users, from {HISTORIES[size]:,}",
            ),
        ),
        tables=(
            _one_table(one, subject.encoder),
            _together_table(together),
            Table(
                title="histories of a night, one process",
                columns=("histories", "events", "CPU s", "µs an event", "s a million histories"),
                rows=(
                    (
                        f"{HISTORIES[size]:,}",
                        f"{events:,}",
                        f"{seconds:.1f}",
                        f"{1e6 * seconds / events:.1f}",
                        f"{per_million_s:,.0f}",
                    ),
                ),
            ),
        ),
        notes=(
            "The weights that one event reads lie in the processor's cache here; a replica that "
            "searched meanwhile reads them from memory again.",
            "A million histories is the time of the histories folded, scaled; the writes of the "
            "sessions to the database are the night's.",
        ),
    )


def _subject() -> _Subject:
    rng = np.random.default_rng(SEED)
    model, ordinals = user_lstm(SEED)
    encoder = encoder_of(Fitted(model, ordinals))
    events = history(rng, made_texts(rng), LENGTHS[-1])
    return _Subject(encoder, Reference(model, ordinals), events, fold(encoder, None, events[:-1]))


def _one_event(subject: _Subject, size: Size) -> dict[str, Times]:
    encoder, session, last = subject.encoder, subject.session, subject.events[-1:]
    lstm, cell = subject.reference.model.lstm, torch.nn.LSTMCell(encoder.dim, encoder.hidden)
    textless = [replace(last[0], vector=None)]
    floor = _products(encoder)
    x_1D = torch.zeros(1, encoder.dim)
    state = (torch.from_numpy(session.h)[None], torch.from_numpy(session.c)[None])

    quick: dict[str, Callable[[], object]] = {
        "fold": lambda: fold(encoder, session, last),
        "step": lambda: encoder.walk(last, session),
        "gates and step": lambda: encoder.walk(textless, session),
        "user vector": lambda: user_vector(encoder, session),
        "fold and vector": lambda: user_vector(encoder, fold(encoder, session, last)),
        "floor": floor,
        "LSTMCell": lambda: cell(x_1D, state),
    }
    inner = INNER[size]
    calls = {name: _repeated(call, inner) for name, call in quick.items()}
    for length in LENGTHS:
        events = subject.events[-length:]
        inputs_1LD = torch.zeros(1, length, encoder.dim)
        batch = subject.reference.batch(events)
        calls[f"nn.LSTM {length}"] = partial(lstm, inputs_1LD)
        calls[f"recompute {length}"] = partial(recompute, subject.reference.model, *batch)
    with torch.inference_mode():
        times = in_turn(calls, ROUNDS[size], "one event")
    return {
        name: Times(found.walls_s_R / inner, found.cpus_s_R / inner) if name in quick else found
        for name, found in times.items()
    }


def recompute(model: UserLSTM, texts_NT: torch.Tensor, batch: EventBatch) -> torch.Tensor:
    """User vector (1, D) after all events: `UserLSTM.forward` at its last position alone."""
    assert model.config.pooling == "last", "the last state is all that the user vector needs"
    inputs_1LD = model.inputs(model.text(texts_NT), model.residuals(), batch)
    return model.users(model.states(inputs_1LD)[:, -1])


def _products(encoder: UserEncoder) -> Callable[[], object]:
    """The three products of one event: 700 kB of weights, each read once."""
    text_E = np.zeros(encoder.text_dim, np.float32)
    input_D = np.zeros(encoder.dim, np.float32)
    h_H = np.zeros(encoder.hidden, np.float32)
    text_ED, input_DG, hidden_HG = encoder.products

    def products() -> None:
        _ = text_E @ text_ED, input_D @ input_DG, h_H @ hidden_HG

    return products


def _together(subject: _Subject, size: Size) -> dict[str, Times]:
    """One event each of some users, one user after the other, and torch for all at once."""
    encoder, session = subject.encoder, subject.session
    events = [[subject.events[row % len(subject.events)]] for row in range(USERS_AT_ONCE)]
    textless = [[replace(event, vector=None)] for (event,) in events]
    cell = torch.nn.LSTMCell(encoder.dim, encoder.hidden)
    x_BD, h_BH = torch.zeros(USERS_AT_ONCE, encoder.dim), torch.from_numpy(session.h)
    state = (h_BH.repeat(USERS_AT_ONCE, 1), torch.from_numpy(session.c).repeat(USERS_AT_ONCE, 1))

    def walked(of_users: list[list[FoldEvent]]) -> Callable[[], object]:
        return lambda: [encoder.walk(of_user, session) for of_user in of_users]

    quick: dict[str, Callable[[], object]] = {
        "events and step": walked(events),
        "step": walked(textless),
        "LSTMCell": lambda: cell(x_BD, state),
    }
    inner = max(1, INNER[size] // 10)
    calls = {name: _repeated(call, inner) for name, call in quick.items()}
    with torch.inference_mode():
        times = in_turn(calls, ROUNDS[size], f"{USERS_AT_ONCE} users")
    return {
        name: Times(found.walls_s_R / inner, found.cpus_s_R / inner)
        for name, found in times.items()
    }


def _night(histories: int) -> tuple[float, int]:
    """CPU seconds of this process, and events folded."""
    with TemporaryDirectory() as folder:
        workspace, events = write_night(Path(folder), histories, MEAN_EVENTS, SEED)
        users = NightSettings().fold_users
        began = time.process_time()
        for first in tqdm(range(0, histories, users), desc="histories", unit="range", leave=False):
            fold_range(workspace, (first + 1, min(histories, first + users)))
        return time.process_time() - began, events


def _repeated(call: Callable[[], object], times: int) -> Callable[[], object]:
    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated


def _one_table(one: dict[str, Times], encoder: UserEncoder) -> Table:
    told = {
        "fold": "fold(): one event",
        "step": "of it: text product, gates, LSTM step",
        "gates and step": "of it: gates from a ready input, LSTM step (an event without a text)",
        "floor": "floor: the three products alone",
        "user vector": "user vector of a session",
        "fold and vector": "fold() of one event, and the user vector",
        "LSTMCell": "torch LSTMCell, ready input",
    }
    told |= {f"nn.LSTM {n}": f"torch nn.LSTM over {n} ready inputs" for n in LENGTHS}
    told |= {f"recompute {n}": f"user vector from {n} events by torch" for n in LENGTHS}
    weights: tuple[NDArray[np.float32], ...] = encoder.products
    size = sum(product.nbytes for product in weights)
    rows = [(what, f"{1e6 * one[name].wall_s:.1f}") for name, what in told.items()]
    speed = size / one["floor"].wall_s / 1e9
    rows.append((f"the floor reads {size / 1e3:.0f} kB: GB/s", f"{speed:.0f}"))
    return Table(title="one event, one user", columns=("", "µs"), rows=tuple(rows))


def _together_table(together: dict[str, Times]) -> Table:
    told = {
        "events and step": "text product, gates, LSTM step, one user after the other",
        "step": "gates from ready inputs, LSTM step, one user after the other",
        "LSTMCell": "torch LSTMCell of all, ready inputs",
    }
    rows = tuple(
        (what, f"{1e6 * together[n].wall_s / USERS_AT_ONCE:.2f}") for n, what in told.items()
    )
    return Table(title=f"{USERS_AT_ONCE} users at once", columns=("", "µs a user"), rows=rows)


if __name__ == "__main__":
    run_bench("fold", measure)
