"""--deterministic sets what torch has for it before CUDA begins; what torch refuses is one line."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from train_command import flags

from csr.config.flags import parse_train_flags
from csr.engine import device
from csr.engine.deterministic import refusals_told, use_deterministic_kernels
from csr.runtime.errors import InputError, StoppedError
from csr.training import prepare


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that these tests set is set back."""
    cudnn, filling = torch.backends.cudnn, torch.utils.deterministic
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "unset below")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(cudnn, "benchmark", cudnn.benchmark)
    monkeypatch.setattr(cudnn, "deterministic", cudnn.deterministic)
    fills, sdp = filling.fill_uninitialized_memory, torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.use_deterministic_algorithms(False)
    filling.fill_uninitialized_memory = fills
    torch.backends.cuda.enable_cudnn_sdp(sdp)


def test_all_that_torch_has_is_set_and_no_trial_of_kernels_afterwards():
    torch.backends.cudnn.benchmark = True
    use_deterministic_kernels()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    device.try_kernels()
    assert not torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(False)
    device.try_kernels()
    assert torch.backends.cudnn.benchmark


def test_a_workspace_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    use_deterministic_kernels()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operation_without_such_a_kernel_is_named_in_one_line():
    use_deterministic_kernels()
    with pytest.raises(StoppedError, match=r"^--deterministic: torch has no deterministic put_ for .*omit"):
        with refusals_told():
            torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="^a bug$"):
        with refusals_told():
            raise RuntimeError("a bug")


@pytest.mark.parametrize("asked", [False, True])
def test_the_flag_is_obeyed_before_ranks_join(tmp_path, asked):
    words = flags(tmp_path, tmp_path / "out", *(["--deterministic"] if asked else []))
    prepare.check_command_line(parse_train_flags(words))
    assert torch.are_deterministic_algorithms_enabled() is asked


def test_compiled_kernels_are_chosen_by_trial_and_so_refused(tmp_path):
    with pytest.raises(InputError, match="--deterministic contradicts --compile"):
        parse_train_flags(flags(tmp_path, tmp_path / "out", "--deterministic", "--compile"))
