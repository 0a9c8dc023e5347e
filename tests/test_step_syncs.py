"""A training step reads nothing from the device: numbers come at log intervals; attention is fused everywhere."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from train_command import flags

from csr import train
from csr.batches import to_device
from csr.model.backbones import build_backbone
from csr.trainer import Trainer

ROOT = Path(train.__file__).resolve().parent
EPOCHS = {"epochs_stage1": "1", "epochs_stage2": "1", "epochs_stage3": "1", "batch_size": "4"}
# a device waits for the host to hear these: a number is read, or the shape of the answer is one
READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


class Reads(TorchDispatchMode):
    """Counts what a GPU would have to stop for, by the innermost line of csr that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.by_line: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        boolean_index = func.overloadpacket.__name__ in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func.overloadpacket.__name__ in READS or boolean_index:
            frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT)]
            self.by_line[f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"] += 1
        return func(*args, **(kwargs or {}))


def reads_of_a_run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[dict[str, Counter[str]], int]:
    """Reads in the training epoch of each stage, and the number of steps of an epoch."""
    seen: dict[str, Counter[str]] = {}
    original = Trainer._train_epoch
    steps = []

    def counted(self: Trainer, engine: Any, stage: Any, features: Any) -> Any:
        steps.append(self.windows_per_epoch)
        with Reads() as reads:
            result = original(self, engine, stage, features)
        seen[stage.name] = reads.by_line
        return result

    monkeypatch.setattr(Trainer, "_train_epoch", counted)
    assert train.main(list(arguments)) == 0
    return seen, steps[0]


def test_no_step_reads_a_number_between_log_intervals(phantom_folder, tmp_path, monkeypatch):
    boxes = str(phantom_folder / "boxes_train.csv")
    given = flags(
        phantom_folder, tmp_path / "out", "--log_every", "1000000", "--boxes_csv", boxes, "--accumulation", "2",
        **EPOCHS,
    )  # fmt: skip
    seen, steps = reads_of_a_run(monkeypatch, *given)
    assert steps >= 5 and set(seen) == {"concept", "prototype", "task"}
    for stage, reads in seen.items():
        # DeepSpeed asks once per optimizer step, and once per group of parameters when it clips, whether the
        # gradient is finite: that decides on the step. Nothing is asked in the micro steps between
        asked = reads.pop("engine.py:micro_step", 0)
        assert asked <= 4 * steps, stage
        assert {line: n for line, n in reads.items() if n >= steps} == {}, stage


def test_batches_go_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch):
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: asked.append(kwargs) or self)
    batch = {"image": torch.zeros(2), "concept": torch.zeros(2), "scale": {"concept": 1.0}}
    to_device(batch, torch.device("cuda", 0))
    assert asked == [{"non_blocking": True}] * 2


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 16,
    "layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True,
}  # fmt: skip


@pytest.mark.parametrize("kind, name, blocks", [("medmae", "tiny", 3), ("timm", "test_vit", 6)])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_fused_in_every_vit_path(kind, name, blocks, training, monkeypatch):
    backbone = build_backbone(
        kind, name, image_size=64, architecture=SIZES if kind == "medmae" else None
    ).train(training)
    blocks = len(backbone.net.blocks) if kind == "timm" else blocks
    calls: list[tuple[int, ...]] = []
    original = F.scaled_dot_product_attention

    def counted(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(tuple(query.shape))
        return original(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    with torch.set_grad_enabled(training):
        backbone(torch.randn(2, 3, 64, 64))
    assert len(calls) == blocks


def test_the_vit_family_of_timm_that_users_name_is_fused():
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, global_pool="")
    attention = [m for m in net.modules() if type(m).__name__ == "Attention"]
    assert len(attention) == 12 and all(m.fused_attn for m in attention)
