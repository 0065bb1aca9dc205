"""What multiplies: token ids and mask in, BERT's last states out; a class a runtime.

Shapes: B texts, L tokens, D hidden size.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ray_jobs.encoders.bert_settings import Precision
from ray_jobs.encoders.errors import RuntimeMissing

BF16_HINT = "bf16"


class Forward(Protocol):
    """Not safe for two threads at once."""

    def __call__(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """States (B, L, D), float32, on the device that the runtime has."""


MakeForward = Callable[[nn.Module, Precision, str], Forward]


def forward_of(bert: nn.Module, precision: Precision, device: str) -> Forward:
    """`bert` (fp32 weights; it may be changed) in this precision.

    Raises:
        RuntimeMissing: OpenVINO is not installed, or the processor has no bf16 for it.
    """
    if precision == "openvino-bf16":
        return OpenVinoForward(bert, BF16_HINT)
    return TorchForward(bert, torch.bfloat16 if precision == "bf16" else torch.float32, device)


def check_runtime(precision: Precision) -> None:
    """Raises RuntimeMissing where this machine cannot run that precision."""
    if precision == "openvino-bf16":
        _core(_openvino(), BF16_HINT)


class TorchForward:
    """By torch, weights and states in `dtype`."""

    def __init__(self, bert: nn.Module, dtype: torch.dtype, device: str) -> None:
        self._bert = bert.to(device=device, dtype=dtype).eval()
        self._device = device

    @torch.inference_mode()
    def __call__(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        states_BLD: Tensor = self._bert(
            input_ids=tokens_BL.to(self._device), attention_mask=mask_BL.to(self._device)
        ).last_hidden_state
        return states_BLD.float()


class OpenVinoForward:
    """By OpenVINO on the CPU, with as many threads as torch has here. `hint`: "bf16" or "f32"."""

    def __init__(self, bert: nn.Module, hint: str) -> None:
        openvino = _openvino()
        core = _core(openvino, hint)
        example = torch.ones((2, 8), dtype=torch.long)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's, about shapes that are inputs here
            model = openvino.convert_model(_States(bert.eval()), example_input=(example, example))
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        inputs = {0: tokens_BL.numpy(), 1: mask_BL.numpy()}
        return torch.from_numpy(self._request.infer(inputs)[0])


class _States(nn.Module):
    """Two positional tensors in, one out: what a graph can be traced of."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self._bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self._bert(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return states


def _core(openvino: ModuleType, hint: str) -> Any:
    core = openvino.Core()
    if hint == BF16_HINT and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        # It would take fp32 and say nothing: vectors of another precision than their id names.
        raise RuntimeMissing("this processor has no bf16 instructions", "fp32")
    return core


def _openvino() -> ModuleType:
    # `import openvino` reports to Google Analytics unless it is told not to; without this package
    # it takes its own stub. None in `sys.modules` is Python's way to say "not importable".
    loaded: dict[str, Any] = sys.modules
    loaded.setdefault("openvino_telemetry", None)
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        raise RuntimeMissing("OpenVINO is not installed", "fp32 or bf16") from error
