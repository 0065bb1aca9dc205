"""A text has one vector: alone or in a batch, whatever stands beside it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from infra.drills.made_bert import make_bert
from ray_jobs.encoders.errors import ModelNotFound, ModelUnusable, RuntimeMissing
from ray_jobs.encoders.item_bert import (
    FEW_TOKENS,
    MAX_PADDING,
    BertEncoder,
    batches,
    open_bert,
    resolve_model,
)
from ray_jobs.encoders.item_text import compose
from ray_jobs.nightly.settings import NightSettings
from serve.settings import ServeSettings

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "film", "of", "war"]
WORDS += ["三", "体", "黑", "暗", "森", "林"]
TEXTS = ["a red film", "", "blue", "a film of war of war of war of war", "red", "a red film"]


def words_bert(folder: Path, seed: int = 0, safe: bool = True) -> Path:
    """A BertModel of random weights that knows WORDS."""
    make_bert(folder, WORDS, seed)
    if not safe:
        torch.save(BertModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return words_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> BertEncoder:
    return BertEncoder(folder)


def test_a_text_alone_equals_the_text_in_a_batch(folder: Path, encoder: BertEncoder) -> None:
    together = encoder.encode(TEXTS)
    small = BertEncoder(folder, max_tokens=32, batch_tokens=32)
    np.testing.assert_allclose(small.encode(TEXTS), together, atol=1e-5)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-5)
    assert len({vector.tobytes() for vector in together.round(4)}) == len(set(TEXTS))


def test_vectors_are_unit_rows_in_the_order_given(encoder: BertEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), encoder.dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], vectors, atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_pooling_is_the_mean_over_real_tokens(folder: Path, encoder: BertEncoder) -> None:
    model = BertModel.from_pretrained(folder).eval()
    ids = torch.tensor([[2, 5, 6, 8, 3]])  # [CLS] a red film [SEP]
    with torch.inference_mode():
        mean = model(input_ids=ids).last_hidden_state[0].mean(0)
    expected = (mean / mean.norm()).numpy()
    np.testing.assert_allclose(encoder.encode(["a red film", TEXTS[3]])[0], expected, atol=1e-5)


def test_a_long_text_is_cut_and_counted_once(encoder: BertEncoder) -> None:
    assert encoder.max_tokens == 40  # the model has no more positions
    done: list[int] = []
    encoder.encode(["red " * 5000, "blue"], progress=done.append)
    assert sum(done) == 2


def test_the_encoder_id_names_what_decides_the_vector(folder: Path, tmp_path: Path) -> None:
    first = BertEncoder(folder).encoder_id
    assert first == BertEncoder(folder, batch_tokens=512).encoder_id
    assert first != BertEncoder(folder, max_tokens=8).encoder_id
    assert first != BertEncoder(words_bert(tmp_path / "other", seed=1)).encoder_id


def test_the_encoder_id_is_the_same_before_and_after_encoding(folder: Path) -> None:
    used = BertEncoder(folder)
    used.encode(["a text", "another, longer text"])
    assert used.encoder_id == BertEncoder(folder).encoder_id


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="safetensors"):
        BertEncoder(words_bert(tmp_path / "pickled", safe=False))


def test_a_setting_is_a_folder_or_a_hub_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_model(str(folder)) == folder
    assert resolve_model("intfloat/e5-small-v2") == "intfloat/e5-small-v2"
    for setting in (None, "./nowhere", "/no/such/folder"):
        with pytest.raises(ModelNotFound, match=r"infra\.datasets"):
            resolve_model(setting)


def test_chinese_titles_are_read_character_by_character_after_cleaning(
    encoder: BertEncoder,
) -> None:
    titles = [
        compose("三体&nbsp;II：<b>黑暗森林</b>", "", "科幻"),
        compose("三体", "", None),
        "黑暗",
    ]
    assert titles[0] == "三体 II： 黑暗森林. 科幻"
    vectors = encoder.encode(titles)
    assert len({vector.tobytes() for vector in vectors.round(4)}) == 3
    # BERT parts Han characters by itself, so spaces between them change nothing.
    np.testing.assert_allclose(encoder.encode(["三 体"])[0], vectors[1], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(["森林"]), encoder.encode(["森 林"]), atol=1e-5)
    assert float(vectors[1] @ encoder.encode(["体三"])[0]) < 0.9999  # and their order counts


def test_a_precision_is_another_encoder_and_keeps_the_vectors(
    folder: Path, encoder: BertEncoder
) -> None:
    half = BertEncoder(folder, precision="bf16")
    assert half.encoder_id != encoder.encoder_id
    vectors = half.encode(TEXTS)
    assert np.sum(vectors * encoder.encode(TEXTS), axis=1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_openvino_is_another_encoder_again_and_tells_nobody(
    folder: Path, encoder: BertEncoder
) -> None:
    pytest.importorskip("openvino", reason="pip install 'moonlark[openvino]'")
    try:
        by_openvino = BertEncoder(folder, precision="openvino-bf16")
    except RuntimeMissing as error:
        pytest.skip(str(error))
    half = BertEncoder(folder, precision="bf16")
    assert len({by_openvino.encoder_id, half.encoder_id, encoder.encoder_id}) == 3
    together = by_openvino.encode(TEXTS)
    assert np.sum(together * encoder.encode(TEXTS), axis=1).min() > 0.999
    alone = np.concatenate([by_openvino.encode([text]) for text in TEXTS])
    assert np.sum(together * alone, axis=1).min() > 0.999


def test_openvino_loads_without_its_telemetry(folder: Path) -> None:
    pytest.importorskip("openvino", reason="pip install 'moonlark[openvino]'")
    code = (
        "import sys; from ray_jobs.encoders.bert_forward import _openvino; _openvino(); "
        "assert not any(name.startswith('openvino_telemetry.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_openvino_that_is_not_installed_is_told_with_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissing, match=r"not installed.*pip install 'moonlark\[openvino\]'"):
        BertEncoder(folder, precision="openvino-bf16")


def test_night_and_day_read_one_setting(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("MOONLARK_BERT_MODEL", str(folder))
    monkeypatch.setenv("MOONLARK_BERT_PRECISION", "bf16")
    night, day = NightSettings(), ServeSettings()
    assert (night.bert_precision, day.bert_precision) == ("bf16", "bf16")
    assert open_bert(night).encoder_id == open_bert(day).encoder_id


@pytest.mark.parametrize("lengths", [[7] * 50, [*range(3, 60)] * 4, [256, 3], []])
def test_little_of_a_batch_is_padding(lengths: list[int]) -> None:
    cut = list(batches(lengths, batch_tokens=2048))
    assert sorted(row for rows in cut for row in rows) == list(range(len(lengths)))
    for rows in cut:
        padded = len(rows) * max(lengths[row] for row in rows)
        assert padded <= 2048
        assert padded <= max(FEW_TOKENS, MAX_PADDING * sum(lengths[row] for row in rows))
