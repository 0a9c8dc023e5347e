"""DeepSpeed around a stage: the numbers of plain torch AdamW, states that resume, nothing left behind."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from csr.engine import config_check, process_group
from csr.engine import engine as engines
from csr.engine.device import local_device
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine
from csr.model import CSR
from csr.runtime.errors import InputError
from csr.stages.base import Stage
from csr.stages.concept import ConceptStage
from csr.stages.prototype import PrototypeStage
from csr.stages.runner import ORDER, StageRunner
from csr.stages.task import TaskStage
from csr.training.features.table import build_feature_table

K, T, M, B, STEPS, CLIP = 3, 2, 4, 4, 4, 0.02
BACKBONES = ("test_resnet", "test_vit")


@pytest.fixture(scope="module", autouse=True)
def started(device: torch.device) -> Iterator[None]:
    if not process_group.started():
        from csr.runtime.distributed import adopt_launcher_environment

        adopt_launcher_environment()
        process_group.start(1.0)
    torch.backends.cudnn.benchmark = False  # the kernel that wins may be another one each time
    yield


@pytest.fixture(params=[False, True], ids=["whole", "sharded"])
def sharded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether ZeRO is used, as several ranks do, or omitted, as one rank does."""
    monkeypatch.setattr(engines, "Engine", partial(Engine, always_shards=request.param))
    return request.param


def ds_config(precision: str = "fp32", accumulation: int = 1) -> dict[str, Any]:
    parsed, name = load_ds_config(None, precision)
    return merge_ds_config(
        parsed, name=name, batch_size=B, accumulation=accumulation, clip=CLIP, world_size=1
    )


def model_of(name: str) -> CSR:
    torch.manual_seed(0)
    return CSR(K, T, M, backbone_type="timm", model_name=name, image_size=64, embedding_dim=8)


def build(name: str, model: CSR) -> Stage:
    if name == "concept":
        return ConceptStage(
            model, pos_weight_K=torch.ones(K), lr=1e-3, backbone_lr_scale=0.1, weight_decay=0.1
        )
    if name == "prototype":
        return PrototypeStage(
            model,
            gamma=10.0,
            lam=5.0,
            delta=0.1,
            margin_mode="softtriple",
            mask_present=True,
            restart=False,
            lr=1e-3,
            weight_decay=0.1,
            seed=0,
        )
    return TaskStage(model, loss="bce", pos_weight_T=torch.ones(T), lr=1e-3, weight_decay=0.1)


def batch_of(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    concept = torch.zeros(B, K)
    concept[torch.arange(B), (torch.arange(B) + step) % K] = 1.0  # every image has negatives
    return {
        "image": torch.randn(B, 3, 64, 64, generator=generator).to(local_device()),
        "concept": concept.to(local_device()),
        "target": (torch.rand(B, T, generator=generator) > 0.5).float().to(local_device()),
        "scale": {"concept": 1 / (B * K), "vector": 1 / (B * K), "target": 1 / (B * T)},
    }


def near() -> float:
    """Return how far a weight may be from plain torch's: on a GPU sums have no fixed order."""
    return 1e-6 if local_device().type == "cpu" else 1e-4


def factor(step: int) -> float:
    return 1.0 / (1 + step)


def opened(stage: Stage, **options: Any) -> Engine:
    return engines.Engine(
        stage, param_groups=stage.param_groups(), ds_config=ds_config(**options), lr_factor=factor
    )


def plain_torch(stage: Stage, first: int) -> dict[str, torch.Tensor]:
    """Take the same steps with torch alone, on a copy."""
    stage = copy.deepcopy(stage)
    optimizer = torch.optim.AdamW(stage.param_groups())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    trained = [p for p in stage.parameters() if p.requires_grad]
    for step in range(first, first + STEPS):
        optimizer.zero_grad()
        stage(batch_of(step)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        schedule.step()
    return stage.state_dict()


def begun(stage: Stage) -> Stage:
    """Return the stage on the device, with the starting values that its features give."""
    stage.to(local_device())
    if stage.frozen_inputs:
        with torch.no_grad():
            stage.eval()
            rows = {k: v.cpu().numpy() for k, v in stage.inputs(batch_of(99)).items()}
            stage.train()
        rows["image"] = rows.pop("row")
        stage.begin(build_feature_table([rows], B))
    return stage


@pytest.mark.parametrize("backbone", BACKBONES)
def test_three_stages_on_one_model_follow_plain_adamw_and_leave_nothing(backbone, sharded):
    model = model_of(backbone)
    runner = StageRunner(model, lambda name: build(name, model))
    gone = []
    for number, name in enumerate(ORDER):
        stage = begun(runner.open(name))
        expected = plain_torch(stage, 10 * number)
        engine = opened(stage)
        assert engine._deepspeed.zero_optimization() is sharded
        for step in range(10 * number, 10 * number + STEPS):
            engine.micro_step(batch_of(step))
        assert engine.steps == STEPS and engine.skipped_steps == 0 and 0 < engine.gradient_norm < 1e3
        gone.append(weakref.ref(engine._deepspeed))
        assert engine.close() is stage
        del engine
        state = stage.state_dict()
        assert set(state) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(
                state[key], value, rtol=0, atol=near(), msg=lambda m, k=key: f"{k}: {m}"
            )
        runner.hand_over(stage, stage.model_weights(state))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in stage.modules())
        assert not any(p._backward_hooks or p.grad is not None for p in stage.parameters())
        storages = [p.untyped_storage() for p in stage.parameters()]
        assert all(s.nbytes() == p.nbytes for s, p in zip(storages, stage.parameters(), strict=True))
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3, "a closed engine is pinned by something"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ORDER)
def test_a_training_state_goes_on_with_the_same_bits(name, backbone, precision, sharded):
    def fresh() -> Stage:
        model = model_of(backbone)
        runner = StageRunner(model, lambda n: build(n, model))
        runner._done = build(name, model).requires
        return begun(runner.open(name))

    engine = opened(fresh(), precision=precision)
    for step in range(STEPS):
        engine.micro_step(batch_of(step))
    saved = copy.deepcopy(engine.training_state())
    for step in range(STEPS, 2 * STEPS):
        engine.micro_step(batch_of(step))
    rates, steps, expected = engine.learning_rates, engine.steps, engine.state_dict()
    engine.close()

    stage = fresh()
    stage.load_state_dict(saved["weights"])
    engine = opened(stage, precision=precision)
    engine.load_training_state(saved)
    for step in range(STEPS, 2 * STEPS):
        engine.micro_step(batch_of(step))
    got = engine.state_dict()
    assert (engine.learning_rates, engine.steps) == (rates, steps)
    engine.close()
    assert [k for k in expected if not torch.equal(got[k], expected[k])] == []
    assert all(value.dtype == torch.float32 for value in got.values() if value.is_floating_point())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("first", ["whole", "sharded"])
def test_a_state_of_one_rank_goes_on_in_shards_and_back(first, precision, monkeypatch):
    def steps(stage: Stage, kind: str, numbers: range, saved: dict | None = None) -> tuple[dict, dict]:
        monkeypatch.setattr(engines, "Engine", partial(Engine, always_shards=kind == "sharded"))
        engine = opened(stage, precision=precision)
        if saved is not None:
            engine.load_training_state(saved)
        for step in numbers:
            engine.micro_step(batch_of(step))
        states = engine.state_dict(), copy.deepcopy(engine.training_state())
        engine.close()
        return states

    expected, _ = steps(begun(build_open("concept")), first, range(2 * STEPS))
    _, saved = steps(begun(build_open("concept")), first, range(STEPS))
    stage = begun(build_open("concept"))
    stage.load_state_dict(saved["weights"])
    other = {"whole": "sharded", "sharded": "whole"}[first]
    got, _ = steps(stage, other, range(STEPS, 2 * STEPS), saved)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=near(), msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_skips_the_step_and_its_learning_rate(precision, sharded):
    engine = opened(begun(build_open("concept")), precision=precision)
    engine.micro_step(batch_of(0))
    before, rates = engine.state_dict(), engine.learning_rates
    bad = batch_of(1)
    bad["scale"] = {"concept": float("inf")}
    engine.micro_step(bad)
    after = engine.state_dict()
    assert (engine.steps, engine.skipped_steps, engine.learning_rates) == (2, 1, rates)
    assert engine.gradient_norm == float("inf")
    assert all(torch.equal(before[key], after[key]) for key in before)
    engine.micro_step(batch_of(2))
    assert (engine.steps, engine.skipped_steps) == (3, 1) and engine.learning_rates != rates
    engine.close()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_window_is_one_step_on_the_mean_of_its_micro_steps(accumulation, sharded):
    stage = begun(build_open("concept"))
    plain = copy.deepcopy(stage)
    for step in range(accumulation):
        (plain(batch_of(step)).loss / accumulation).backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in plain.parameters() if p.requires_grad], CLIP)
    optimizer = torch.optim.AdamW(plain.param_groups())
    assert norm > 2 * CLIP, "it is clipped"
    optimizer.step()
    engine = opened(stage, accumulation=accumulation)
    for step in range(accumulation):
        engine.micro_step(batch_of(step))
    assert engine.steps == 1 and engine.gradient_norm == pytest.approx(float(norm), rel=1e-4)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(
            engine.state_dict()[key], value.cpu(), rtol=0, atol=near(), msg=lambda m, k=key: f"{k}: {m}"
        )
    engine.close()


def test_what_is_kept_of_an_engine_does_not_move_with_it(sharded):
    engine = opened(begun(build_open("concept")))
    engine.micro_step(batch_of(0))
    kept = engine.state_dict()
    copies = {key: value.clone() for key, value in kept.items()}
    engine.micro_step(batch_of(1))
    assert all(torch.equal(kept[key], copies[key]) for key in kept)
    engine.close()


def test_with_another_accumulation_the_windows_stay_whole(sharded):
    """Three windows of one micro step are no whole number of windows of two."""
    stage = begun(build_open("concept"))
    engine = opened(stage)
    for step in range(3):
        engine.micro_step(batch_of(step))
    saved = copy.deepcopy(engine.training_state())
    engine.close()
    engine = opened(stage, accumulation=2)
    engine.load_training_state(saved)
    engine.micro_step(batch_of(3))
    assert engine.steps == 3
    engine.micro_step(batch_of(4))
    assert engine.steps == 4
    engine.close()


def build_open(name: str) -> Stage:
    model = model_of("test_vit")
    runner = StageRunner(model, lambda n: build(n, model))
    runner._done = build(name, model).requires
    return runner.open(name)


def test_a_state_of_another_stage_is_refused(sharded):
    engine = opened(begun(build_open("prototype")))
    engine.micro_step(batch_of(0))
    saved = engine.training_state()
    engine.close()
    engine = opened(begun(build_open("task")))
    with pytest.raises((ValueError, KeyError)):
        engine.load_training_state(saved)
    engine.close()


@pytest.mark.parametrize(
    "content",
    [
        {"prescale_gradients": "x"},
        {"prescale_gradients": True, "gradient_predivide_factor": 0},
        {"zero_optimization": {"stage": 2, "zenflow": {"overlap_step": True}}},
        {"steps_per_print": 0},
        {"zero_optimization": {"stage": 2, "reduce_bucket_size": "x"}},
    ],
)
def test_what_zero_refuses_in_a_json_is_told_on_one_rank_too(content):
    with pytest.raises(InputError, match="^own.json: DeepSpeed refuses it: "):
        config_check.check_config({**ds_config(), **content}, "own.json")


@pytest.mark.parametrize(
    "content",
    [
        {"data_types": {"grad_accum_dtype": "bf16"}},
        {"zero_optimization": {"stage": 2, "cpu_offload": True}},
        {"zero_optimization": {"stage": 1, "overlap_comm": True}},
        {"steps_per_print": 5},
    ],
)
def test_what_a_json_may_ask_for_trains_on_one_rank(content):
    config = {**ds_config(), **content}
    config_check.check_config(config, "own.json")
    stage = begun(build_open("concept"))
    engine = Engine(stage, param_groups=stage.param_groups(), ds_config=config, lr_factor=factor)
    before = engine.state_dict()
    engine.micro_step(batch_of(0))
    after = engine.state_dict()
    assert engine.steps == 1 and any(not torch.equal(before[key], after[key]) for key in before)
    engine.close()


def test_weights_edited_in_place_stay_edited(sharded):
    stage = begun(build_open("prototype"))
    engine = opened(stage)
    engine.micro_step(batch_of(0))
    wanted = torch.randn(K, M, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        stage.model.prototypes.proto_KMD.copy_(wanted)
    engine.weights_changed()
    edited = engine.state_dict()["model.prototypes.proto_KMD"]
    assert torch.equal(edited, wanted)
    engine.micro_step(batch_of(1))
    moved = engine.state_dict()["model.prototypes.proto_KMD"]
    assert 0 < (moved - wanted).abs().max() < 0.01, "the next step starts from the edit"
    engine.close()
