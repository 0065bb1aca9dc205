"""BERT: texts a second and cosine to fp32, by runtime and precision, against the GEMM of the core.

    python -m infra.bench.encoder                    film titles of MovieLens 100K
    python -m infra.bench.encoder --data FOLDER      a catalog as of `moonlark evaluate` as well

All on one thread, in turn, by CPU time: on one thread it is what the clock says on an idle machine,
and on a busy one it still compares. The floor is what the core multiplies at most: square matrices
by torch, fp32 and bf16. The peer is sentence-transformers' `encode`, called as its page says.
"""

import argparse
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig

from infra.bench.report import PACKAGES, Ratio, Report, Size, Table, run_bench
from infra.bench.rounds import Times, in_turn
from infra.evaluation.load import ML_100K, load_interactions
from ray_jobs.encoders.bert_forward import Forward, OpenVinoForward
from ray_jobs.encoders.bert_settings import Precision
from ray_jobs.encoders.errors import RuntimeMissing
from ray_jobs.encoders.item_bert import BertEncoder, batches, resolve_model
from ray_jobs.nightly.canary import MIN_COSINE

TOKENS: dict[Size, int] = {"full": 12_000, "small": 300}
"""Of each catalog, texts evenly taken until they have so many."""
ROUNDS: dict[Size, int] = {"full": 5, "small": 1}
ALONE: dict[Size, int] = {"full": 64, "small": 4}
"""Texts that are embedded each by itself, too, as the day and the canaries do it."""
GEMM: dict[Size, int] = {"full": 1024, "small": 128}
NEIGHBOURS = 10
ACTOR_BATCH = 256
"""Texts handed to an actor of the night at a time."""

FP32, BF16 = "torch fp32, sorted", "torch bf16"
OPENVINO_FP32, OPENVINO_BF16 = "OpenVINO fp32", "OpenVINO bf16"
PEER = "sentence-transformers encode"
GEMM_FP32, GEMM_BF16 = "GEMM fp32", "GEMM bf16"
PEAK_OF = {BF16: GEMM_BF16, OPENVINO_BF16: GEMM_BF16}
GOALS = {BF16: 1.8, OPENVINO_BF16: 2.2}
MAX_PADDING = 1.1
MAX_LOSS = round(1 - MIN_COSINE, 6)

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class _Found:
    """Of one catalog: what each variant took, and what it gave."""

    name: str
    texts: list[str]
    lengths: list[int]
    times: dict[str, Times]
    vectors: dict[str, NDArray[np.float32]]
    alone: dict[str, float]
    """Lowest cosine between a text alone and in its batch."""
    gemm_gflop: float


def measure(size: Size, data: str | None = None) -> Report:
    """MovieLens' titles and, where it is named, another catalog."""
    names = [ML_100K] if data is None else [ML_100K, data]
    catalogs = {
        name if name == ML_100K else Path(name).name: list(load_interactions(name).texts_I)
        for name in names
    }
    found = report(resolve_model(None), catalogs, size)
    if data is None:
        return found
    return found.model_copy(update={"arguments": ("--data", Path(data).name)})


def report(model: Path | str, catalogs: Mapping[str, list[str]], size: Size) -> Report:
    """The figures for texts by catalog."""
    torch.set_num_threads(1)
    encoders, notes = _encoders(model)
    peer, missing = _peer(model)
    notes += missing
    shape = BertEncoder(model)
    found = [
        _of_catalog(name, _taken(texts, shape, TOKENS[size]), shape, encoders, peer, size)
        for name, texts in catalogs.items()
    ]
    padding = {name: _padding(shape, texts) for name, texts in catalogs.items()}
    return Report(
        bench="encoder",
        about=(
            f"{Path(str(model)).name} on texts of {' and '.join(catalogs)}, {TOKENS[size]:,} "
            f"tokens each, one thread, by CPU time, {ROUNDS[size]} rounds in turn."
        ),
        ratios=tuple(
            [claim for one in found for claim in _ratios(one)]
            + [
                Ratio(
                    name=f"{name}: padding",
                    value=share[-1],
                    of="tokens computed / real tokens, the whole catalog as the night embeds it",
                    at_most=MAX_PADDING,
                )
                for name, share in padding.items()
            ]
        ),
        tables=(*(_table(one, model) for one in found), _padding_table(padding)),
        notes=(
            f"The canaries ask for a cosine of {MIN_COSINE} between a text alone and as it was "
            "stored. Share of the peak: multiplications of real tokens a second, against the GEMM "
            "of the same precision in the same run.",
            *notes,
        ),
    )


def _encoders(model: Path | str) -> tuple[dict[str, Encode], list[str]]:
    """By name, fp32 first; and what is missing."""
    found: dict[str, Encode] = {
        FP32: BertEncoder(model).encode,
        BF16: BertEncoder(model, precision="bf16").encode,
    }
    try:
        found[OPENVINO_FP32] = BertEncoder(model, make_forward=_openvino_fp32).encode
        found[OPENVINO_BF16] = BertEncoder(model, precision="openvino-bf16").encode
    except RuntimeMissing as error:
        return found, [str(error)]
    return found, []


def _openvino_fp32(bert: nn.Module, precision: Precision, device: str) -> Forward:
    return OpenVinoForward(bert, "f32")


def _peer(model: Path | str) -> tuple[dict[str, Encode], list[str]]:
    try:
        library: Any = importlib.import_module("sentence_transformers")
    except ModuleNotFoundError:
        return {}, ["The peer is not installed: pip install 'moonlark[evaluation]'"]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    peer = library.SentenceTransformer(str(model), device="cpu")
    peer.max_seq_length = 256

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = peer.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return {PEER: encode}, []


def _taken(texts: list[str], shape: BertEncoder, tokens: int) -> list[str]:
    """Evenly, so many that they have about `tokens` tokens."""
    rows = np.linspace(0, len(texts) - 1, min(len(texts), 200)).astype(int)
    mean = np.mean([len(ids) for ids in shape.token_ids([texts[row] for row in rows])])
    count = int(np.clip(tokens / mean, NEIGHBOURS + 1, len(texts)))
    return [texts[row] for row in np.linspace(0, len(texts) - 1, count).astype(int)]


def _of_catalog(
    name: str,
    texts: list[str],
    shape: BertEncoder,
    encoders: dict[str, Encode],
    peer: dict[str, Encode],
    size: Size,
) -> _Found:
    every = {**encoders, **peer}
    vectors = {of: encode(texts) for of, encode in every.items()}
    calls: dict[str, Callable[[], object]] = {
        of: _call(encode, texts) for of, encode in every.items()
    }
    calls[GEMM_FP32] = _gemm(GEMM[size], torch.float32)
    calls[GEMM_BF16] = _gemm(GEMM[size], torch.bfloat16)
    rows = np.linspace(0, len(texts) - 1, min(len(texts), ALONE[size])).astype(int)
    alone = {
        of: min(float(encode([texts[row]])[0] @ vectors[of][row]) for row in rows)
        for of, encode in encoders.items()
    }
    lengths = [len(ids) for ids in shape.token_ids(texts)]
    times = in_turn(calls, ROUNDS[size], name)
    return _Found(name, texts, lengths, times, vectors, alone, 2 * GEMM[size] ** 3 / 1e9)


def _call(encode: Encode, texts: list[str]) -> Callable[[], object]:
    return lambda: encode(texts)


def _gemm(side: int, dtype: torch.dtype) -> Callable[[], object]:
    one, other = torch.ones(side, side, dtype=dtype), torch.ones(side, side, dtype=dtype)
    return lambda: one @ other


def _padding(shape: BertEncoder, texts: list[str]) -> tuple[float, float, float]:
    """Tokens computed for each real one: all at once; as many as an actor gets, in the order of the
    catalog; the same, longest first, as the night does."""
    lengths = [len(ids) for ids in shape.token_ids(texts)]
    by_size = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    return (
        _computed([lengths], shape.batch_tokens),
        _computed(_parts(lengths), shape.batch_tokens),
        _computed(_parts([lengths[row] for row in by_size]), shape.batch_tokens),
    )


def _parts(lengths: list[int]) -> list[list[int]]:
    return [lengths[first : first + ACTOR_BATCH] for first in range(0, len(lengths), ACTOR_BATCH)]


def _computed(parts: list[list[int]], batch_tokens: int) -> float:
    computed = sum(
        len(rows) * max(part[row] for row in rows)
        for part in parts
        for rows in batches(part, batch_tokens)
    )
    return computed / sum(map(sum, parts))


def _ratios(found: _Found) -> list[Ratio]:
    claims = []
    for of, goal in GOALS.items():
        if of not in found.vectors:
            continue
        claims += [
            Ratio(
                name=f"{found.name}: {of}",
                value=ratio(found.times[FP32], found.times[of]),
                of=f"texts/s of {of} / {FP32}",
                at_least=goal,
            ),
            Ratio(
                name=f"{found.name}: {of}, 1 - cosine",
                value=1 - float(_cosines(found, of).min()),
                of=f"1 - lowest cosine of a text by {of} to fp32",
                at_most=MAX_LOSS,
            ),
            Ratio(
                name=f"{found.name}: {of}, alone",
                value=1 - found.alone[of],
                of="1 - lowest cosine of a text alone to itself in a batch, both in this precision",
                at_most=MAX_LOSS,
            ),
        ]
    if PEER in found.vectors:
        claims.append(
            Ratio(
                name=f"{found.name}: fp32 and the peer",
                value=ratio(found.times[PEER], found.times[FP32]),
                of=f"texts/s of {FP32} / {PEER}",
            )
        )
    return claims


def ratio(over: Times, under: Times) -> float:
    """The median of the ratios round by round, by CPU time."""
    return float(np.median(over.cpus_s_R / under.cpus_s_R))


def _table(found: _Found, model: Path | str) -> Table:
    gflop = _gflop(model, found.lengths)
    rows = []
    for of in found.vectors:
        cosines_N = _cosines(found, of)
        peak = found.times[PEAK_OF.get(of, GEMM_FP32)]
        rows.append(
            (
                of,
                f"{len(found.texts) / found.times[of].cpu_s:.1f}",
                f"{ratio(found.times[FP32], found.times[of]):.2f}",
                f"{cosines_N.mean():.6f}",
                f"{cosines_N.min():.6f}",
                f"{found.alone[of]:.6f}" if of in found.alone else "",
                f"{_overlap(found.vectors[FP32], found.vectors[of]):.3f}",
                f"{gflop / found.gemm_gflop * ratio(peak, found.times[of]):.0%}",
            )
        )
    for of in (GEMM_FP32, GEMM_BF16):
        speed = f"{found.gemm_gflop / found.times[of].cpu_s:.0f} GFLOP/s"
        rows.append((of, speed, "", "", "", "", "", ""))
    columns = ("", "texts/CPU s", "x", "cosine", "min", "alone, min", "top 10", "of the peak")
    mean = np.mean(found.lengths)
    title = f"{found.name}: {len(found.texts)} texts of {mean:.0f} tokens"
    return Table(title=title, columns=columns, rows=tuple(rows))


def _gflop(model: Path | str, lengths: list[int]) -> float:
    """Of all matrix products of BERT for texts of these lengths, without padding."""
    config = AutoConfig.from_pretrained(model)
    width, inner = config.hidden_size, config.intermediate_size
    layers = config.num_hidden_layers
    of_tokens = sum(lengths) * 2 * (4 * width * width + 2 * width * inner)
    of_pairs = sum(length * length for length in lengths) * 4 * width
    return float(layers * (of_tokens + of_pairs) / 1e9)


def _cosines(found: _Found, of: str) -> NDArray[np.float32]:
    return np.asarray(np.vecdot(found.vectors[FP32], found.vectors[of]), np.float32)


def _overlap(one_ND: NDArray[np.float32], other_ND: NDArray[np.float32]) -> float:
    """Mean share of a text's nearest NEIGHBOURS that both have."""
    nearest = []
    for vectors_ND in (one_ND, other_ND):
        scores_NN = vectors_ND @ vectors_ND.T
        np.fill_diagonal(scores_NN, -np.inf)
        nearest.append(np.argsort(-scores_NN, axis=1)[:, :NEIGHBOURS])
    shared = [len(set(a) & set(b)) for a, b in zip(*map(np.ndarray.tolist, nearest), strict=True)]
    return float(np.mean(shared)) / min(NEIGHBOURS, len(one_ND) - 1)


def _padding_table(padding: Mapping[str, tuple[float, float, float]]) -> Table:
    told = ("all at once", f"{ACTOR_BATCH} at a time", f"{ACTOR_BATCH} at a time, longest first")
    rows = tuple((name, *(f"{share:.3f}" for share in shares)) for name, shares in padding.items())
    return Table(title="tokens computed / real tokens", columns=("catalog", *told), rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", metavar="FOLDER")
    own, rest = parser.parse_known_args()
    packages = (*PACKAGES, "transformers", "openvino", "sentence-transformers")
    run_bench("encoder", lambda size: measure(size, own.data), packages, rest)


if __name__ == "__main__":
    main()
