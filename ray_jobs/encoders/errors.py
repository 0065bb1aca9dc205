"""What can go wrong in the encoders; every error carries its coordinates and a `hint`.

EncoderError
├── ModelNotFound     no BERT where the setting points
├── ModelUnusable     a BERT that cannot be loaded safely (no safetensors, no tokenizer)
├── RuntimeMissing    a precision whose runtime or instructions are not on this machine
├── NoGpu             a GPU is asked for where there is none
├── WeightsError      a weights file that is damaged, foreign or of another shape
└── SessionError      the bytes of a session that are damaged or of another encoder's size
"""

import sys
from pathlib import Path


class EncoderError(Exception):
    """Root of the tree. `hint` names the command or the page to use next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (hint: {hint})")
        self.hint = hint


class ModelNotFound(EncoderError):
    """No folder with a BERT at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"no BERT model in {path}",
            hint=f"run `{sys.executable} -m infra.datasets`, or name a folder in "
            "MOONLARK_BERT_MODEL",
        )
        self.path = path


class ModelUnusable(EncoderError):
    """A model at `model` that we refuse or fail to load."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"cannot use the BERT model {model}: {reason}",
            hint="use a BertModel-family encoder with model.safetensors and a tokenizer",
        )
        self.model = model


class RuntimeMissing(EncoderError):
    """MOONLARK_BERT_PRECISION names what this machine cannot run."""

    def __init__(self, reason: str, instead: str) -> None:
        super().__init__(
            f"MOONLARK_BERT_PRECISION=openvino-bf16: {reason}",
            hint=f"`{sys.executable} -m pip install 'moonlark[openvino]'` on each node, or "
            f"MOONLARK_BERT_PRECISION={instead} for night and day alike",
        )


class NoGpu(EncoderError):
    """MOONLARK_DEVICE asks for a GPU; `where` says where there is none."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"MOONLARK_DEVICE=cuda, but there is no GPU {where}",
            hint="set MOONLARK_DEVICE=cpu or auto; with a GPU there, install torch for CUDA "
            "(`nvidia-smi` and `torch.cuda.is_available()` must both see it)",
        )


class WeightsError(EncoderError):
    """A weights file at `path` that must not be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"unusable weights {path}: {reason}",
            hint="stage the generation again (`moonlark generations`), or roll back",
        )
        self.path = path


class SessionError(EncoderError):
    """Bytes that are no session of this encoder; the session is a cache, so fold again."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"unusable session: {reason}",
            hint="drop the row: the session is a cache and is folded again from the event log",
        )
