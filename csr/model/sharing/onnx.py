"""A CSR as an ONNX graph: normalised images in, the fields of `CSROutput` out, any batch size."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from pathlib import Path

import torch
from torch import nn

from csr.model import CSR
from csr.runtime.errors import InputError
from csr.runtime.files import replaced_path

OUTPUTS = ("logits", "similarity_scores", "similarity_maps", "cams", "concept_logits")
_NEEDED = ("onnx", "onnxscript")


class _Traced(nn.Module):
    """The model with a plain tuple of outputs, which the exporter wants."""

    def __init__(self, model: CSR) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(image)
        return tuple(output[name] for name in OUTPUTS)


def check_onnx() -> None:
    """Raise InputError unless the packages of the extra are installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--onnx needs {' and '.join(missing)}: pip install -e '.[onnx]' in the clone of csr"
        )


def export_onnx(model: CSR, path: Path) -> None:
    """Write `path`, atomically. Input `image`: float32 (batch, 3, S, S), normalised as the card says.

    Args:
        model: in eval mode.
        path: of the .onnx file; it holds the weights, so a model of more than 2 GB cannot be exported.

    Raises:
        InputError: the packages are missing, or the exporter cannot express this backbone.
    """
    check_onnx()
    size = model.backbone.image_size
    example = torch.zeros(2, 3, size, size, device=next(model.parameters()).device)
    try:
        # the exporter prints its progress, and warns of its own deprecated parts
        with (
            replaced_path(path, suffix=".tmp.onnx") as beside,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Traced(model).eval(),
                (example,),
                str(beside),
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                dynamo=True,
                external_data=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"--onnx: this backbone cannot be exported ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """Return the first line of the error at the root: the exporter's own are on how to report its bugs."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or ["without a reason"]
    return f"{type(error).__name__}: {lines[0][:200]}"
