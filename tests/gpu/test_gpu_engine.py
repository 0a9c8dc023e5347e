"""The engine on a GPU beside the same steps in plain torch there; precision, statistics, masters."""

from __future__ import annotations

import copy

import pytest
import torch
from gpu_stages import batch_of, engine_of, model_of, stage_of, stops_counted

from csr.engine import device as devices
from csr.engine.precision import choose_precision

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("joined")]
STEPS = 4
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KINDS = [(precision, sharded) for precision in ("fp32", "bf16", "fp16") for sharded in (False, True)]


def plain_losses(stage, precision: str, device: torch.device) -> list[float]:
    """Take the steps with torch alone, on a copy, in the arithmetic of autocast."""
    stage = copy.deepcopy(stage)
    optimizer = torch.optim.AdamW([g for g in stage.param_groups() if g["params"]])
    trained = [p for p in stage.parameters() if p.requires_grad]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16" and device.type == "cuda")
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
            loss = stage(batch_of(step, device)).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("precision, sharded", KINDS)
def test_losses_follow_plain_torch(gpu, precision, sharded, backbone):
    if precision == "fp16" and gpu.type != "cuda":
        pytest.skip("fp16 is refused on a CPU")
    stage = stage_of("concept", model_of(backbone, gpu, half_norms=precision == "fp16"))
    expected = plain_losses(stage, precision, gpu)
    engine = engine_of(stage, precision, sharded=sharded)
    found = [float(engine.micro_step(batch_of(step, gpu)).loss.detach()) for step in range(STEPS)]
    skipped = engine.skipped_steps
    state = engine.close().state_dict()
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
    if skipped:  # the loss scale came down: the first steps moved nothing
        assert precision == "fp16" and skipped < STEPS
        assert found[0] == pytest.approx(expected[0], rel=2e-2)
        return
    assert found == pytest.approx(expected, rel=1e-3 if precision == "fp32" else 3e-2)


@pytest.mark.parametrize("name", ["concept", "prototype", "task"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_the_gpu_once(cuda, precision, name):
    """For the gradient's norm, which decides whether there is a step; clipped or not."""
    engine = engine_of(stage_of(name, model_of("test_vit", cuda)), precision, clip=1e-3)
    batches = [batch_of(step, cuda) for step in range(13)]
    if name == "prototype":  # as its cached features come: without the search for present concepts
        with torch.no_grad():
            batches = [{**b, **engine.stage.inputs(b)} for b in batches]
    for batch in batches[:3]:
        engine.micro_step(batch)
    with stops_counted() as stops:
        for batch in batches[3:]:
            engine.micro_step(batch)
    engine.close()
    assert stops.device == 0
    assert stops.stream == 10, stops.places


def test_a_step_in_fp16_under_zero_waits_no_more_than_is_known(cuda):
    stage = stage_of("concept", model_of("test_vit", cuda))
    engine = engine_of(stage, "fp16", sharded=True, clip=1e-3)
    batches = [batch_of(step, cuda) for step in range(13)]
    for batch in batches[:3]:
        engine.micro_step(batch)
    with stops_counted() as stops:
        for batch in batches[3:]:
            engine.micro_step(batch)
    engine.close()
    assert stops.device == 0, "a small stage has nothing to overlap"
    assert stops.stream <= 120, stops.places


@pytest.mark.parametrize("capability, name", [((8, 0), "bf16"), ((9, 0), "bf16"), ((7, 5), "fp16")])
def test_the_default_precision_follows_the_capability(cuda, monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    has_bf16 = devices.computes_bf16()
    assert choose_precision("auto", ds_file=None, device="cuda", has_bf16=has_bf16).name == name


def test_fp32_products_and_convolutions_are_no_tf32(cuda):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 64, 16, 16, device=cuda), torch.randn(64, 64, 3, 3, device=cuda)
    exact = torch.nn.functional.conv2d(x.double(), weight.double())
    error = (torch.nn.functional.conv2d(x, weight).double() - exact).abs().max() / exact.abs().max()
    assert error < 1e-5, "TF32 has 10 bits: about 5e-4"
    a = torch.randn(512, 512, device=cuda)
    product = a.double() @ a.double()
    assert ((a @ a).double() - product).abs().max() / product.abs().max() < 1e-5


@pytest.mark.parametrize("sharded", [False, True])
def test_statistics_of_norms_stay_finite_in_fp16(cuda, sharded):
    stage = stage_of("concept", model_of("test_resnet", cuda, half_norms=True))
    engine = engine_of(stage, "fp16", sharded=sharded)
    norms = [m for m in engine.stage.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {m.running_var.dtype for m in norms} == {torch.float32}
    batch = batch_of(0, cuda)
    engine.micro_step({**batch, "image": 3e3 * batch["image"]})
    assert norms[0].running_var.max() > 65504
    assert all(m.running_var.isfinite().all() for m in norms)
    engine.close()


@pytest.mark.parametrize("sharded", [False, True])
def test_bad_steps_in_fp16_are_skipped_to_the_lowest_scale_and_beyond(cuda, sharded):
    engine = engine_of(stage_of("concept", model_of("test_vit", cuda)), "fp16", sharded=sharded)
    bad = batch_of(0, cuda)
    bad["scale"] = {"concept": float("inf")}
    for _ in range(25):
        engine.micro_step(bad)
    assert engine.skipped_steps == 25 and engine.loss_scale == 1.0
    engine.close()


def test_an_edit_in_fp16_leaves_other_masters_their_bits(cuda):
    stage = stage_of("prototype", model_of("test_vit", cuda))
    engine = engine_of(stage, "fp16", sharded=True)
    for step in range(6):
        engine.micro_step(batch_of(step, cuda))
    assert engine.skipped_steps < 6
    before = engine.state_dict()
    with torch.no_grad():
        stage.model.prototypes.proto_KMD[0, 0] = 0.25
    engine.weights_changed()
    after = engine.state_dict()
    projector = [name for name in before if name.startswith("model.projector.")]
    assert any(not torch.equal(before[n], before[n].half().float()) for n in projector)
    assert all(torch.equal(before[n], after[n]) for n in projector)
    assert torch.equal(after["model.prototypes.proto_KMD"][0, 0], torch.full((8,), 0.25))
    engine.close()


def test_convolutions_are_kept_channels_last_and_saved_plain(cuda):
    stage = stage_of("concept", model_of("test_resnet", cuda))
    engine = engine_of(stage, "bf16")
    engine.micro_step(batch_of(0, cuda))
    kernels = [p for p in stage.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    for parameter, own in engine._deepspeed.optimizer.state.items():
        assert own["exp_avg"].stride() == parameter.stride()
    saved = engine.training_state()
    assert all(v.is_contiguous() and v.device.type == "cpu" for v in saved["weights"].values())
    engine.close()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_state_goes_on_with_the_same_bits_where_kernels_have_one_order(gpu, exact, backbone):
    def opened():
        return engine_of(stage_of("concept", model_of(backbone, gpu)), "fp32")

    engine = opened()
    for step in range(2):
        engine.micro_step(batch_of(step, gpu))
    saved = copy.deepcopy(engine.training_state())
    for step in range(2, 4):
        engine.micro_step(batch_of(step, gpu))
    expected = engine.state_dict()
    engine.close()
    stage = stage_of("concept", model_of(backbone, gpu))
    stage.load_state_dict(saved["weights"])
    engine = engine_of(stage, "fp32")
    engine.load_training_state(saved)
    for step in range(2, 4):
        engine.micro_step(batch_of(step, gpu))
    found = engine.state_dict()
    engine.close()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_compiled_step_with_recomputed_activations_learns(cuda, backbone, precision):
    model = model_of(backbone, cuda, half_norms=precision == "fp16")
    model.backbone.recompute_activations()
    model.backbone.compile_training()
    engine = engine_of(stage_of("concept", model), precision)
    losses = [float(engine.micro_step(batch_of(0, cuda)).loss.detach()) for _ in range(12)]
    assert losses[-1] < losses[0]
    engine.close()
