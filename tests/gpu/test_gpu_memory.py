"""Memory of a GPU: what a checkpoint takes, what an engine gives back, the largest batch, and its end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from gpu_stages import batch_of, engine_of, model_of, stage_of

from csr.engine import memory
from csr.runtime.errors import StoppedError
from csr.training import batch_size_finder

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("joined")]
MIB = 2**20


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_a_checkpoint_takes_one_copy_of_the_weights_beside_training(cuda, sharded):
    wide = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(16)))

    class Stage(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = wide

        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(loss=self.net(x).square().mean())

    engine = engine_of(Stage().to(cuda), "fp32", sharded=sharded, lr=1e-3)
    engine.micro_step(torch.randn(4, 1024, device=cuda))
    weights = sum(p.numel() for p in wide.parameters()) * 4
    for taken in (engine.state_dict, engine.training_state):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        taken()
        assert torch.cuda.max_memory_allocated() - before < 2.5 * weights
    engine.close()


def test_a_closed_engine_gives_its_memory_back(cuda):
    model = model_of("test_vit", cuda)
    stage = stage_of("concept", model)
    gc.collect()
    before = torch.cuda.memory_allocated()
    for precision in ("bf16", "fp16", "fp32"):
        engine = engine_of(stage, precision)
        engine.micro_step(batch_of(0, cuda))
        engine.close()
        del engine
        gc.collect()
        assert torch.cuda.memory_allocated() - before < 2 * MIB, precision


def test_memory_that_ends_is_one_line(cuda):
    total = torch.cuda.get_device_properties(cuda).total_memory
    with pytest.raises(StoppedError, match=r"^the GPU's memory .*GiB free\) is too small: take less$"):
        with memory.exhaustion_told("take less", device=cuda):
            torch.empty(2 * total, dtype=torch.uint8, device=cuda)


def test_the_search_for_a_batch_ends_at_the_memory_that_is_left(cuda):
    free = memory.free_gpu_bytes(cuda)
    held = torch.empty(max(0, free - 3 * 2**30), dtype=torch.uint8, device=cuda)
    kept: list[torch.Tensor] = []

    def trial(size: int) -> None:  # 64 MiB an image
        kept.append(torch.empty(size * 64 * MIB, dtype=torch.uint8, device=cuda))
        kept.clear()

    trial.device, trial.engine_bytes = cuda, 128 * MIB  # type: ignore[attr-defined]
    trial.stage = torch.nn.Linear(1, 1)  # type: ignore[attr-defined]
    size, reason = batch_size_finder._on_gpu(trial, [512, 256, 128, 64, 32, 16, 8])
    assert size in (16, 32) and "do not fit" in reason
    del held
    torch.cuda.empty_cache()
    assert memory.free_gpu_bytes(cuda) > free - 64 * MIB, "the memory is given back"


def test_memory_grows_in_place(cuda):
    code = (
        "from csr.engine.device import computes_bf16, use_growing_segments\n"
        "use_growing_segments()\n"
        "import torch\n"
        "computes_bf16()\n"
        "held = torch.empty(2**24, device='cuda')\n"
        "print({segment['is_expandable'] for segment in torch.cuda.memory_snapshot()})\n"
    )
    env = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{True}", done.stderr
