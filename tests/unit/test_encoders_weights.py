"""A weights file or a session is read back as written, or refused with a reason."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.numpy import save_file

from ray_jobs.encoders.config import UserLSTMConfig, rating_edges_of
from ray_jobs.encoders.errors import SessionError, WeightsError
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import encoder_of, load_weights, save_weights


@dataclass(frozen=True)
class Fitted:
    model: UserLSTM
    residual_ordinals: NDArray[np.int64]


@pytest.fixture
def fitted() -> Fitted:
    torch.manual_seed(0)
    config = UserLSTMConfig(text_dim=6, dim=4, hidden=5, pooling="mean", residual_count=2)
    model = UserLSTM(config)
    with torch.no_grad():
        model.residual.weight[1:].normal_()
    return Fitted(model, np.array([2, 9], np.int64))


def parts(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()


def test_what_was_saved_is_loaded(tmp_path: Path, fitted: Fitted) -> None:
    path = tmp_path / "new" / "weights.safetensors"
    digest = save_weights(path, fitted)
    loaded, twin = load_weights(path), encoder_of(fitted)
    assert loaded.config == fitted.model.config
    assert loaded.digest == twin.digest == digest
    texts = np.eye(6, dtype=np.float32)
    ordinals = np.arange(6)
    np.testing.assert_array_equal(
        loaded.item_vectors(texts, ordinals), twin.item_vectors(texts, ordinals)
    )
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, fitted: Fitted) -> None:
    save_weights(tmp_path / "a", fitted)
    save_weights(tmp_path / "b", fitted)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_flipped_byte_is_noticed(tmp_path: Path, fitted: Fitted) -> None:
    path = tmp_path / "weights"
    save_weights(path, fitted)
    good = path.read_bytes()
    for place in range(0, len(good), 37):
        bad = bytearray(good)
        bad[place] ^= 0x10
        path.write_bytes(bytes(bad))
        with pytest.raises(WeightsError, match="weights"):
            load_weights(path)


@pytest.mark.parametrize("change", ["extra", "missing", "shape", "dtype", "config", "metadata"])
def test_foreign_weights_are_refused(tmp_path: Path, fitted: Fitted, change: str) -> None:
    path = tmp_path / "weights"
    save_weights(path, fitted)
    tensors, metadata = parts(path)
    if change == "extra":
        tensors["surprise"] = np.zeros(1, np.float32)
    elif change == "missing":
        del tensors["unknown"]
    elif change == "shape":
        tensors["kind"] = tensors["kind"][:-1].copy()
    elif change == "dtype":
        tensors["kind"] = tensors["kind"].astype(np.float64)
    elif change == "config":
        metadata["moonlark"] = metadata["moonlark"].replace('"dim"', '"dims"')
    else:
        metadata["author"] = "someone"
    save_file(tensors, path, metadata)
    with pytest.raises(WeightsError, match="hint"):
        load_weights(path)


def test_absent_weights_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "none")
    assert caught.value.path == tmp_path / "none"


def test_a_diverged_training_is_not_saved(tmp_path: Path, fitted: Fitted) -> None:
    with torch.no_grad():
        fitted.model.out.bias[0] = float("nan")
    with pytest.raises(WeightsError, match="not finite"):
        save_weights(tmp_path / "weights", fitted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ordinals", [[1], [9, 2], [2, 2]])
def test_residual_ordinals_must_fit(tmp_path: Path, fitted: Fitted, ordinals: list[int]) -> None:
    with pytest.raises(ValueError, match="ordinals"):
        save_weights(tmp_path / "weights", Fitted(fitted.model, np.array(ordinals)))


def test_a_config_refuses_unknown_keys_and_unsorted_edges() -> None:
    with pytest.raises(ValidationError, match="extra"):
        UserLSTMConfig.model_validate({"text_dim": 3, "depth": 2})
    with pytest.raises(ValidationError, match="ascend"):
        UserLSTMConfig(text_dim=3, rating_edges=(2.0, 1.0))


def test_rating_edges_suit_stars_and_wide_scales() -> None:
    assert rating_edges_of([1, 2, 3, 4, 5, 5, float("nan")]) == (1.5, 2.5, 3.5, 4.5)
    assert rating_edges_of([]) == rating_edges_of([4.0]) == ()
    wide = rating_edges_of(np.arange(1000.0))
    assert len(wide) == 9
    config = UserLSTMConfig(text_dim=3, rating_edges=wide)
    assert [config.rating_bucket("rating", v) for v in (-5.0, 0.0, 999.0, 1e9)] == [1, 1, 10, 10]
    assert config.rating_bucket("rating", None) == config.rating_bucket("purchase", 3.0) == 0


def session(pooled: int = 3) -> Session:
    rng = np.random.default_rng(0)
    return Session(
        user_seq=2**40,
        h=rng.normal(size=3).astype(np.float32),
        c=rng.normal(size=3).astype(np.float32),
        pooled=rng.normal(size=pooled).astype(np.float32),
        steps=12,
        seen=np.array([1, 2**60], np.int64),
        seen_kinds=np.array([17, 3], np.uint8),
        bought_ms=np.array([2**41, 0], np.int64),
        excluded=np.array([5], np.int64),
        recent=np.array([2**60, 1], np.int64),
    )


@pytest.mark.parametrize("pooled", [0, 3])
def test_a_session_survives_its_bytes(pooled: int) -> None:
    before = session(pooled)
    after = Session.from_bytes(before.to_bytes())
    assert (after.user_seq, after.steps) == (before.user_seq, before.steps)
    for name in ("h", "c", "pooled", "seen", "seen_kinds", "bought_ms", "excluded", "recent"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_session_bytes_are_the_documented_ones() -> None:
    data = session().to_bytes()
    assert data[:8] == b"MLSN\x03\x00\x01\x00"
    assert int.from_bytes(data[24:28], "little") == 2
    assert int.from_bytes(data[28:36], "little") == 2**40
    assert np.frombuffer(data, "<f4", 3, 44).tolist() == session().h.tolist()
    assert np.frombuffer(data, "<i8", 6, 80).tolist() == [1, 2**60, 5, 2**60, 1, 2**41]
    assert data[128:] == bytes([17, 3])
    assert len(data) == 44 + 4 * 9 + 8 * (2 + 1 + 2 + 1) + 2


def test_bytes_of_version_2_are_refused() -> None:
    header = struct.pack("<4sHHIIIIqq", b"MLSN", 2, 0, 2, 0, 0, 0, 5, 5)
    with pytest.raises(SessionError, match="version 2"):
        Session.from_bytes(header + bytes(16))


def test_purchases_without_a_bought_item_are_refused() -> None:
    data = session().to_bytes()
    with pytest.raises(SessionError, match="1 purchases, 0 bought"):
        Session.from_bytes(data[:-2] + bytes([1, 3]))


@given(st.binary(max_size=120))
def test_bytes_that_are_no_session_are_refused(data: bytes) -> None:
    with pytest.raises(SessionError):
        Session.from_bytes(data)


@given(st.integers(0, 129))
def test_a_truncated_session_is_refused(length: int) -> None:
    with pytest.raises(SessionError):
        Session.from_bytes(session().to_bytes()[:length])
