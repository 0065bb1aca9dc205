"""One setting says where BERT and the LSTM run; a GPU that is not there is told at once."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.bert_settings import BertSettings, device_of
from ray_jobs.encoders.errors import NoGpu
from ray_jobs.encoders.fit import fit, from_columns, tiny
from ray_jobs.encoders.item_bert import BertEncoder, open_bert
from ray_jobs.encoders.train_data import TrainData
from ray_jobs.nightly import step
from ray_jobs.nightly.train import scaling
from ray_jobs.shards import faiss_index
from ray_jobs.shards.writer import train_coarse, write_coarse, write_shard
from serve import app
from serve.settings import ServeSettings
from tests.unit.test_encoders_bert import TEXTS, make_bert

WITH_CUDA = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU here: torch.cuda.is_available() is false"
)


def test_cuda_without_a_gpu_is_refused_and_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(app, "_gpus", lambda: 0)
    monkeypatch.setattr(step, "cluster_gpus", lambda: 0.0)
    model = str(make_bert(tmp_path / "bert"))
    with pytest.raises(NoGpu, match="MOONLARK_DEVICE=cuda, but there is no GPU on this machine"):
        open_bert(BertSettings(bert_model=model, device="cuda"))
    with pytest.raises(NoGpu, match=r"MOONLARK_DEVICE=cuda.*the Ray cluster has 0"):
        step.device_of_cluster("cuda")
    with pytest.raises(NoGpu, match="MOONLARK_DEVICE=cuda"):
        app._text_encoder(ServeSettings(device="cuda"))


def test_auto_takes_the_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert device_of("auto", 0, "on this machine") == "cpu"
    assert "MOONLARK_DEVICE=auto: no GPU on this machine, so the CPU is used" in caplog.text
    assert device_of("auto", 1, "on this machine") == "cuda"
    assert device_of("cpu", 8, "on this machine") == "cpu"


def test_fewer_gpus_than_training_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "cluster_gpus", lambda: 1.0)
    with pytest.raises(NoGpu, match="each of 2 workers: the Ray cluster has 1"):
        step.device_of_cluster("cuda", needed=2)
    assert step.device_of_cluster("cuda", needed=1) == "cuda"


def test_two_training_workers_never_share_a_gpu_and_the_day_has_room() -> None:
    resources = scaling(2, "cuda").resources_per_worker
    assert resources is not None
    assert 0.5 < resources["GPU"] <= 1 - app.DAY_GPU
    assert not scaling(2, "cpu").use_gpu


def test_openvino_stays_on_the_cpu() -> None:
    settings = BertSettings(bert_precision="openvino-bf16", device="cuda")
    assert (settings.bert_device, settings.device) == ("cpu", "cuda")


def test_lists_found_beforehand_give_the_file_that_faiss_alone_gives(tmp_path: Path) -> None:
    vectors_ND, ordinals_N = _vectors(2_000), np.arange(2_000)
    write_coarse(tmp_path / "coarse", train_coarse(vectors_ND, 16, seed=0))
    write_shard(tmp_path / "ours", vectors_ND, ordinals_N, "IVF,SQfp16", tmp_path / "coarse")
    coarse = faiss_index.faiss.read_index(str(tmp_path / "coarse"))
    index = faiss_index.new_ivf(coarse)
    index.add_with_ids(vectors_ND, ordinals_N)
    expected = faiss_index.faiss.serialize_index(index).tobytes()
    assert (tmp_path / "ours").read_bytes() == expected


@WITH_CUDA
def test_bert_on_the_gpu_keeps_the_promise(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "bert")
    here, there = BertEncoder(folder), BertEncoder(folder, device="cuda")
    assert here.encoder_id == there.encoder_id
    assert np.sum(here.encode(TEXTS) * there.encode(TEXTS), axis=1).min() >= 0.9999


@WITH_CUDA
def test_the_lstm_trained_on_the_gpu_is_the_one_of_the_cpu() -> None:
    data = _data()
    here, there = fit(tiny(), data), fit(tiny(), data, device="cuda:0")
    assert all(tensor.device.type == "cpu" for tensor in there.model.state_dict().values())
    # Dropout draws other numbers there, so the losses are alike and not equal.
    assert abs(here.history[-1].loss - there.history[-1].loss) < 0.3 * here.history[-1].loss


@WITH_CUDA
def test_without_dropout_it_learns_there_what_it_learns_here() -> None:
    plain = replace(tiny(), input_dropout=0.0, state_dropout=0.0, residual_dropout=0.0)
    data = _data()
    here, there = fit(plain, data), fit(plain, data, device="cuda:0")
    losses = [[epoch.loss for epoch in found.history] for found in (here, there)]
    # cuDNN multiplies with ten bits (TF32), and each step begins where the one before ended.
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.01)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    texts, nothing = (
        torch.from_numpy(data.bert_NT),
        torch.zeros(len(data.bert_NT), dtype=torch.int64),
    )
    with torch.inference_mode():
        items = [found.model.items(texts, nothing) for found in (here, there)]
    assert (items[0] * items[1]).sum(dim=1).min() > 0.99


@pytest.mark.skipif(faiss_index.gpus() == 0, reason="faiss-gpu sees no GPU here")
def test_shards_built_on_the_gpu_find_what_those_of_the_cpu_find(tmp_path: Path) -> None:
    vectors_ND, ordinals_N = _vectors(5_000), np.arange(5_000)
    write_coarse(tmp_path / "coarse", train_coarse(vectors_ND, 32, seed=0, use_gpu=True))
    for name, use_gpu in (("cpu", False), ("gpu", True)):
        write_shard(
            tmp_path / name, vectors_ND, ordinals_N, "IVF,SQfp16", tmp_path / "coarse", use_gpu
        )
    assert (tmp_path / "cpu").stat().st_size == (tmp_path / "gpu").stat().st_size
    _assert_alike(tmp_path / "cpu", tmp_path / "gpu")


def _assert_alike(here: Path, there: Path) -> None:
    """Both shards give the same ids and scores: of all lists to the last, of the nearest but for
    vectors that lie between two centroids."""
    queries_BD = _vectors(50)
    for nprobe, least in ((32, 1.0), (4, 0.99)):
        (scores_BK, ids_BK), (others_BK, other_ids_BK) = (
            _searched(path, queries_BD, nprobe) for path in (here, there)
        )
        same_BK = ids_BK == other_ids_BK
        assert same_BK.mean() >= least
        np.testing.assert_allclose(others_BK[same_BK], scores_BK[same_BK], atol=1e-3)


def _searched(
    path: Path, queries_BD: NDArray[np.float32], nprobe: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    index = faiss_index.faiss.read_index(str(path))
    index.nprobe = nprobe
    scores_BK, ids_BK = index.search(queries_BD, 10)
    return scores_BK, ids_BK


def _vectors(count: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(0).normal(size=(count, 24)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _data() -> TrainData:
    """Users who walk along a ring of items."""
    rng = np.random.default_rng(0)
    users_E = np.repeat(np.arange(40), 12)
    items_E = (np.tile(np.arange(12), 40) + np.repeat(rng.integers(24, size=40), 12)) % 24
    return from_columns(
        users_E=users_E,
        ordinals_E=items_E,
        texts_E=items_E,
        kinds_E=["click"] * len(users_E),
        values_E=np.full(len(users_E), np.nan, np.float32),
        held_out_E=np.zeros(len(users_E), np.bool_),
        bert_NT=_vectors(24),
        item_ordinals_I=np.arange(24),
        at_ms_E=np.tile(np.arange(12), 40),
        item_texts_I=np.arange(24),
    )
