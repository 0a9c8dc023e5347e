"""Numbers of a GPU beside those of the CPU: draws, transforms, masks, tables, models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu_stages import SIDE, batch_of, model_of, stage_of, stops_counted

from csr.data.box_masks import box_masks
from csr.data.random_draws import uniform_draws
from csr.data.transforms import EvalTransform, TrainTransform
from csr.engine.device import inference_precision, use_true_fp32
from csr.runtime.collective_time import CollectiveClock
from csr.stages.clustering import restart_dead
from csr.training.features.table import FeatureTable

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def images(num: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 1, 72, 72), dtype=torch.uint8, generator=generator)


def boxes(device: torch.device, theta_B23: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    low_R2 = torch.rand(40, 2, generator=generator) * 0.8
    box_R4 = torch.cat([low_R2, low_R2 + 0.01 + 0.15 * torch.rand(40, 2, generator=generator)], dim=1)
    return box_masks(
        box_R4.to(device),
        class_R=(torch.arange(40) % 3).to(device),
        row_R=(torch.arange(40) % 6).to(device),
        theta_B23=theta_B23,
        num_concepts=3,
        height=7,
        width=9,
    )


def test_draws_have_the_cpus_bits(gpu):
    index = torch.tensor([0, 1, 7, 10**6, 2**40])
    expected = uniform_draws(index, num=7, epoch=3, seed=2**63 + 5)
    assert torch.equal(uniform_draws(index.to(gpu), num=7, epoch=3, seed=2**63 + 5).cpu(), expected)


def test_views_are_the_cpus_and_the_same_within_half_precision(gpu):
    use_true_fp32()
    transform, index = TrainTransform(SIDE), torch.arange(6)
    expected, theta = transform(images(), index_B=index, epoch=1, seed=0)
    found, own_theta = transform(images().to(gpu), index_B=index.to(gpu), epoch=1, seed=0)
    torch.testing.assert_close(own_theta.cpu(), theta, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.cpu(), expected, atol=2e-3, rtol=0)
    for precision in ("bf16", "fp16"):
        with inference_precision(precision, gpu):
            half, _ = transform(images().to(gpu), index_B=index.to(gpu), epoch=1, seed=0)
        assert torch.equal(half, found)


def test_masks_of_boxes_are_the_cpus(gpu):
    _, theta = TrainTransform(SIDE)(images(), index_B=torch.arange(6), epoch=1, seed=0)
    assert torch.equal(boxes(gpu, theta.to(gpu)).cpu(), boxes(CPU, theta))


def test_augmentation_and_masks_wait_for_nothing(cuda):
    transform, index = TrainTransform(SIDE), torch.arange(6, device=cuda)
    stored = images().to(cuda)
    for counted in (False, True):
        inputs = torch.arange(6, device=cuda) if counted else index
        if counted:
            with stops_counted() as stops:
                view, theta = transform(stored, index_B=inputs, epoch=2, seed=0)
                EvalTransform(SIDE)(stored)
        else:
            view, theta = transform(stored, index_B=inputs, epoch=1, seed=0)
            EvalTransform(SIDE)(stored)
    assert (stops.device, stops.stream) == (0, 0), stops.places
    rows = torch.arange(6, device=cuda)
    given = {"class_R": rows % 3, "row_R": rows, "theta_B23": theta}
    with stops_counted() as stops:
        box_masks(torch.rand(6, 4, device=cuda), num_concepts=3, height=7, width=9, **given)
    assert (stops.device, stops.stream) == (0, 0), stops.places


def test_rows_of_a_table_on_the_gpu_are_the_cpus_and_come_without_waiting(gpu):
    generator = np.random.default_rng(0)
    count_N = generator.integers(0, 4, 50)
    rows = {
        "local": torch.from_numpy(generator.normal(size=(count_N.sum(), 16)).astype(np.float32)),
        "concept_row": torch.arange(int(count_N.sum())),
    }
    table = FeatureTable(rows, count_N)
    there = table.to(gpu)
    positions, valid = generator.permutation(50)[:20], np.arange(20) < 18
    expected = table.gather(positions, valid)
    found = there.gather(positions, valid)
    assert all(torch.equal(found[name].cpu(), expected[name]) for name in expected)
    if gpu.type == "cuda":
        with stops_counted() as stops:
            there.gather(positions, valid)
        assert (stops.device, stops.stream) == (0, 0), stops.places


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_model_predicts_what_it_predicts_on_a_cpu(gpu, backbone):
    use_true_fp32()
    model = model_of(backbone, CPU).eval()
    image = batch_of(0, CPU)["image"]
    with torch.no_grad():
        expected = model(image)
        found = model.to(gpu)(image.to(gpu))
    for name, value in (
        vars(expected).items() if hasattr(expected, "__dict__") else expected._asdict().items()
    ):
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(found, name).cpu(), value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["concept", "prototype", "task"])
def test_losses_and_gradients_of_stages_are_the_cpus(gpu, exact, name):
    use_true_fp32()
    found = {}
    for device in (CPU, gpu):
        stage = stage_of(name, model_of("test_vit", device))
        loss = stage(batch_of(1, device)).loss
        loss.backward()
        gradients = [p.grad.cpu().flatten() for p in stage.parameters() if p.grad is not None]
        found[device.type] = (loss.detach().cpu(), torch.cat(gradients))
    (loss, gradient), (own_loss, own_gradient) = found["cpu"], found[gpu.type]
    torch.testing.assert_close(own_loss, loss, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own_gradient, gradient, atol=1e-3 * float(gradient.abs().max()), rtol=0)


def test_dead_prototypes_move_to_the_same_vectors(gpu):
    generator = torch.Generator().manual_seed(0)
    vec_ND = torch.nn.functional.normalize(torch.randn(200, 8, generator=generator), dim=1)
    proto_KMD = torch.nn.functional.normalize(torch.randn(3, 20, 8, generator=generator), dim=2)
    concept_N = torch.arange(200) % 3
    use_true_fp32()
    expected = restart_dead(proto_KMD, vec_ND, concept_N)
    found = restart_dead(proto_KMD.to(gpu), vec_ND.to(gpu), concept_N.to(gpu))
    torch.testing.assert_close(found[0].cpu(), expected[0], atol=0, rtol=0)
    assert found[1:] == expected[1:] and expected[2] > 0


def test_a_wait_for_a_kernel_looks_like_computing_to_the_watchdog(cuda, capsys):
    """For the record: a rank that hangs in a kernel spins, and so is idle to the watchdog, not still."""
    import time

    began, computed = time.perf_counter(), time.process_time()
    torch.cuda._sleep(2_000_000_000)
    torch.cuda.synchronize()
    waited, spun = time.perf_counter() - began, time.process_time() - computed
    with capsys.disabled():
        print(f"\na wait of {waited:.2f} s took {spun:.2f} s of a core")
    assert waited > 0.2


def test_a_collective_that_the_gpu_has_not_ended_is_known_to_the_watchdog(cuda):
    torch.zeros(1, device=cuda)
    clock = CollectiveClock()
    with clock:
        torch.cuda._sleep(2_000_000_000)
    assert clock.is_pending()
    torch.cuda.synchronize()
    assert not clock.is_pending() and clock.take() > 0.1
