"""The weights file of a generation: safetensors, with config, residual ordinals and a digest.

Read without torch (`load_weights`), so that a replica answers without it. Written to a temporary
file, synced, renamed: a crash leaves the old file or the new one.

    tensor            shape           what
    text.weight/bias  (D, E), (D,)    projection of BERT vectors
    unknown           (D,)            stands in where an item has no text
    kind, rating      (K, D), (Q, D)  embeddings of kind and of rating bucket (row 0: no rating)
    lstm.weight_ih    (4H, D)         gates in torch's order i, f, g, o
    lstm.weight_hh    (4H, H)
    lstm.bias         (4H,)           torch's two biases, added
    out.weight/bias   (D, H), (D,)    state -> user vector
    residual          (R, D)          by item
    residual_ordinals (R,) int64      ascending; whose residual row r is
    logit_scale       (1,)            log of the learned inverse temperature

Metadata: one key `moonlark` (several would be written in random order) with JSON: `format`,
`config` (UserLSTMConfig), `digest` (BLAKE2b-128 of config and tensors).
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from ray_jobs.encoders.config import UserLSTMConfig
from ray_jobs.encoders.errors import WeightsError
from ray_jobs.encoders.user_encoder import UserEncoder

if TYPE_CHECKING:  # torch stays out of the replica's process
    from ray_jobs.encoders.user_lstm import UserLSTM

FORMAT: Literal["moonlark-user-lstm-1"] = "moonlark-user-lstm-1"
METADATA_KEY = "moonlark"
Tensors = dict[str, NDArray[Any]]


class _Header(BaseModel):
    """The metadata of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["moonlark-user-lstm-1"]
    config: UserLSTMConfig
    digest: str


class Fitted(Protocol):
    """A trained model and whose residuals it holds; `fit.FitResult` is one.

    `residual_ordinals` (R,) ascending: whose residual is row r + 1 of `model.residual`.
    """

    @property
    def model(self) -> "UserLSTM": ...
    @property
    def residual_ordinals(self) -> NDArray[np.int64]: ...


def save_weights(path: Path, fitted: Fitted) -> str:
    """Write the weights to `path`; returns the digest.

    Raises:
        ValueError: the ordinals do not fit the model or do not ascend.
        WeightsError: the model holds a NaN or an infinity.
    """
    return write_weights(
        path, fitted.model.config, _tensors_of(fitted.model), np.asarray(fitted.residual_ordinals)
    )


def write_weights(
    path: Path,
    config: UserLSTMConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    residual_ordinals_R: NDArray[np.int64],
) -> str:
    """`save_weights` of tensors by name (see the module), without torch."""
    ordinals_R = np.ascontiguousarray(residual_ordinals_R, np.int64)
    if len(ordinals_R) != config.residual_count or bool(np.any(np.diff(ordinals_R) <= 0)):
        raise ValueError(f"need {config.residual_count} ascending ordinals, got {len(ordinals_R)}")
    # Contiguous: safetensors writes the memory of a strided view as it lies, in silence.
    stored: Tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    stored["residual_ordinals"] = ordinals_R
    for name, tensor in stored.items():
        if not bool(np.isfinite(tensor).all()):
            raise WeightsError(path, f"{name} is not finite: the training diverged")
    _check_shapes(path, config, stored)
    digest = _digest(config.model_dump_json(), stored)
    header = _Header(format=FORMAT, config=config, digest=digest)
    _write_atomically(path, safetensors_bytes(stored, {METADATA_KEY: header.model_dump_json()}))
    return digest


def load_weights(path: Path) -> UserEncoder:
    """The user encoder in `path`.

    Raises:
        WeightsError: no such plain file, another format, unknown or missing tensors, another shape
            or type than the config says, or a digest that does not match.
    """
    if path.is_symlink() or not path.is_file():  # a FIFO would be waited for
        raise WeightsError(path, "absent, or not a plain file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(path, str(error)) from error
    if set(metadata) != {METADATA_KEY}:
        raise WeightsError(path, f"metadata keys {sorted(metadata)}, expected {METADATA_KEY}")
    try:
        header = _Header.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        raise WeightsError(path, f"metadata: {error}") from error
    config = header.config
    _check_shapes(path, config, tensors)
    digest = _digest(config.model_dump_json(), tensors)
    if digest != header.digest:
        raise WeightsError(path, f"digest {digest}, the file says {header.digest}")
    ordinals = tensors.pop("residual_ordinals")
    if bool(np.any(np.diff(ordinals) <= 0)):
        raise WeightsError(path, "residual_ordinals do not ascend")
    return UserEncoder(config, tensors, ordinals, digest)


def load_model(path: Path) -> tuple["UserLSTM", NDArray[np.int64]]:
    """The model in `path` as torch has it, and the ordinals of its residuals. Loads torch.

    Raises:
        WeightsError: as `load_weights`.
    """
    import torch  # noqa: PLC0415 - a replica reads this module without torch

    from ray_jobs.encoders.user_lstm import UserLSTM  # noqa: PLC0415

    encoder = load_weights(path)
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    no_residual_1D = torch.zeros(1, encoder.dim)
    model = UserLSTM(encoder.config)
    model.load_state_dict(
        {
            "text.weight": stored["text.weight"],
            "text.bias": stored["text.bias"],
            "unknown": stored["unknown"],
            "kind.weight": stored["kind"],
            "rating.weight": stored["rating"],
            "lstm.weight_ih_l0": stored["lstm.weight_ih"],
            "lstm.weight_hh_l0": stored["lstm.weight_hh"],
            "lstm.bias_ih_l0": stored["lstm.bias"],  # torch adds its two; the file has the sum
            "lstm.bias_hh_l0": torch.zeros_like(stored["lstm.bias"]),
            "out.weight": stored["out.weight"],
            "out.bias": stored["out.bias"],
            "residual.weight": torch.cat([no_residual_1D, stored["residual"]]),
            "logit_scale": stored["logit_scale"].reshape(()),
        }
    )
    return model.eval(), encoder.residual_ordinals_R


def encoder_of(fitted: Fitted) -> UserEncoder:
    """The twin of a model in memory, as if it had been saved and loaded."""
    tensors: Tensors = _tensors_of(fitted.model)
    ordinals = np.asarray(fitted.residual_ordinals, dtype=np.int64)
    config = fitted.model.config
    digest = _digest(config.model_dump_json(), tensors | {"residual_ordinals": ordinals})
    return UserEncoder(config, tensors, ordinals, digest)


def _tensors_of(model: "UserLSTM") -> Tensors:
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    named = {
        "text.weight": state["text.weight"],
        "text.bias": state["text.bias"],
        "unknown": state["unknown"],
        "kind": state["kind.weight"],
        "rating": state["rating.weight"],
        "lstm.weight_ih": state["lstm.weight_ih_l0"],
        "lstm.weight_hh": state["lstm.weight_hh_l0"],
        "lstm.bias": state["lstm.bias_ih_l0"] + state["lstm.bias_hh_l0"],
        "out.weight": state["out.weight"],
        "out.bias": state["out.bias"],
        "residual": state["residual.weight"][1:],
        "logit_scale": state["logit_scale"].reshape(1),
    }
    return {name: np.array(array, np.float32, order="C") for name, array in named.items()}


def _expected_shapes(config: UserLSTMConfig) -> dict[str, tuple[int, ...]]:
    dim, hidden = config.dim, config.hidden
    return {
        "text.weight": (dim, config.text_dim),
        "text.bias": (dim,),
        "unknown": (dim,),
        "kind": (len(config.kinds), dim),
        "rating": (config.rating_rows, dim),
        "lstm.weight_ih": (4 * hidden, dim),
        "lstm.weight_hh": (4 * hidden, hidden),
        "lstm.bias": (4 * hidden,),
        "out.weight": (dim, hidden),
        "out.bias": (dim,),
        "residual": (config.residual_count, dim),
        "residual_ordinals": (config.residual_count,),
        "logit_scale": (1,),
    }


def _check_shapes(path: Path, config: UserLSTMConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
    expected = _expected_shapes(config)
    if set(tensors) != set(expected):
        difference = sorted(set(tensors) ^ set(expected))
        raise WeightsError(path, f"tensors missing or unknown: {', '.join(difference)}")
    for name, shape in expected.items():
        dtype = np.int64 if name == "residual_ordinals" else np.float32
        found = tensors[name]
        if found.shape != shape or found.dtype != dtype:
            wanted = f"{np.dtype(dtype)} {shape}"
            raise WeightsError(path, f"{name} is {found.dtype} {found.shape}, expected {wanted}")


def _digest(config: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(config.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
