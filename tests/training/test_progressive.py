"""`--progressive`: sides over the steps, what a step is given, whole runs, networks that take one size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ended_run import STEP, ended, finished
from PIL import Image
from train_command import flags, train
from train_options import train_options

from csr.config.flags import parse_train_flags
from csr.config.progressive import Progressive, progressive
from csr.data.prefetch import Clock
from csr.data.transforms import TrainTransform
from csr.model import CSR
from csr.runtime.errors import InputError
from csr.stages.concept import ConceptStage
from csr.training import build
from csr.training.checkpoints.state import TrainState
from csr.training.data import Splits
from csr.training.feeder import Feeder
from csr.training.schedule import SideSchedule, growing_sides

CPU = torch.device("cpu")
FEW = {"epochs_stage1": "4", "epochs_stage2": "1", "epochs_stage3": "1"}  # 3 steps an epoch
GROWING = ("--progressive", "0.5:0.7")


@pytest.mark.parametrize(
    "text", ["0.5", "0.5:", ":", "0:0.5", "0.5:1", "1:0.5", "nan:0.5", "0.5:0.7:1", "half:0.7", ""]
)
def test_words_that_are_no_shares_are_refused(text):
    with pytest.raises(InputError, match="--progressive .*give START:FULL"):
        parse_train_flags(["--progressive", text])


def test_words():
    assert progressive("0.5:0.7") == Progressive(0.5, 0.7) and progressive("none") is None
    assert parse_train_flags([]).optim.progressive == "none"


@pytest.mark.parametrize(
    "size, start, stride, sides",
    [
        (224, 0.5, 16, (112, 128, 144, 160, 176, 192, 208, 224)),
        (224, 0.5, 32, (128, 160, 192, 224)),
        (224, 0.5, 14, (112, 126, 140, 154, 168, 182, 196, 210, 224)),
        (224, 0.9, 8, (208, 224)),
        (64, 0.5, 16, (32, 48, 64)),
        (64, 0.75, 32, (64,)),
    ],
)
def test_sides_are_multiples_of_the_stride_from_the_full_one_down(size, start, stride, sides):
    assert growing_sides(size, start=start, stride=stride) == sides


@pytest.mark.parametrize("total", [1, 3, 10, 77, 100, 1000])
@pytest.mark.parametrize("full", [0.07, 0.29, 0.7, 0.99])
def test_each_smaller_side_has_its_share_of_the_growing_steps(total, full):
    sides = (112, 144, 176, 208, 224)
    schedule = SideSchedule(full, {side: (side // 16, side // 16) for side in sides})
    growing = round(full * 100) * total // 100
    got = [schedule.at(step, total) for step in range(total)]
    expected = [sides[math.floor(4 * step / growing)] if step < growing else 224 for step in range(total)]
    assert got == expected and got[-1] == 224
    counts = [got.count(side) for side in sides[:-1]]
    assert sum(counts) == growing and max(counts) - min(counts) <= 1


class FewImages:
    """Four stored images of 72 px with boxes, for inputs of 64 px."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randint(0, 256, (4, 1, 72, 72), dtype=torch.uint8, generator=generator)
        label_NK = np.array([[1, 0], [0, 1], [1, 1], [1, 0]], dtype=np.float32)
        self.table = SimpleNamespace(concept_NK=label_NK, target_NT=label_NK[:, :1])
        self.indices, self.boxes = np.arange(4), None
        # in a quarter of the image that holds cells of every map, then a box of a hundredth of the side
        self.box = torch.tensor([[0.5, 0.0, 1.0, 0.5], [0.3, 0.7, 0.31, 0.71]])

    def __len__(self) -> int:
        return 4

    def load(self, positions_B: np.ndarray, valid_B: np.ndarray) -> dict[str, Any]:
        at = torch.from_numpy(positions_B)
        rows = [int((at == image).nonzero()) for image in (0, 1)]
        return {
            "image": self.image[at],
            "index": at,
            "valid": torch.from_numpy(valid_B),
            "concept": torch.from_numpy(self.table.concept_NK)[at],
            "target": torch.from_numpy(self.table.target_NT)[at],
            "box": self.box,
            "box_class": torch.tensor([0, 1]),
            "box_row": torch.tensor(rows),
        }


def concept_stage(**changed: Any) -> ConceptStage:
    torch.manual_seed(0)
    model = CSR(2, 1, 2, backbone_type="timm", model_name="test_vit", image_size=64, embedding_dim=8)
    build.measure_sides(model, train_options(**{"progressive": "0.5:0.7", **changed}), lambda _: None)
    return ConceptStage(model, pos_weight_K=torch.ones(2), lr=1.0, backbone_lr_scale=1.0, weight_decay=0.0)


def feeder(stage: ConceptStage, *, strength: str, epochs: int = 10, max_windows: int | None = None) -> Feeder:
    data: Any = FewImages()
    transform: Any = TrainTransform(64, strength=strength)
    sides = build.side_schedule(stage.model, train_options(progressive="0.5:0.7"))
    splits = Splits(data, data, transform, None, names={}, map_size=(4, 4), sides=sides)  # type: ignore[arg-type]
    return Feeder(
        splits,
        batch_size=4,
        accumulation=1,
        seed=3,
        max_windows=max_windows,
        device=CPU,
        epochs_stage1=epochs,
    )


def step_of(stage: Any, given: Feeder, *, epoch: int) -> dict[str, Any]:
    (batch,) = given.batches(stage, None, TrainState(stage=stage.name, epoch=epoch), clock=Clock())
    return dict(batch)


def by_pillow(image_BCSS: torch.Tensor, side: int) -> torch.Tensor:
    """Antialiased bilinear resize of one channel each, in floating point."""
    images = [Image.fromarray(image[0].float().numpy(), mode="F") for image in image_BCSS]
    small = [np.array(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images]
    return torch.from_numpy(np.stack(small))[:, None]


@pytest.mark.parametrize("epoch, side", [(1, 32), (4, 32), (5, 48), (7, 48), (8, 64), (10, 64)])
@pytest.mark.parametrize("strength", ["none", "light"])
def test_a_step_equals_that_on_images_resized_by_hand(epoch, side, strength):
    stage = concept_stage().eval()
    given = feeder(stage, strength=strength)
    batch = step_of(stage, given, epoch=epoch)
    assert batch["side"] == side and batch["image"].shape == (4, 3, side, side)
    stored = given.data.train.image[batch["position"]]
    small = stored.float() if side == stored.shape[-1] else by_pillow(stored, side)
    by_hand, _ = TrainTransform(side, strength=strength)(
        small, index_B=batch["index"], epoch=10_000 + epoch, seed=3
    )
    torch.testing.assert_close(batch["image"], by_hand, rtol=1e-4, atol=1e-4)
    losses = [stage({**batch, "image": image}).loss for image in (batch["image"], by_hand)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("epoch, cells", [(1, 2), (5, 3), (10, 4)])
def test_boxes_cover_the_cells_whose_centres_they_hold_at_every_size(epoch, cells):
    stage = concept_stage()
    batch = step_of(stage, feeder(stage, strength="none"), epoch=epoch)
    mask = batch["box_mask"]
    assert mask.shape == (4, 2, cells, cells) and stage.model.cams(stage.maps(batch)).shape == mask.shape
    centre = (np.arange(cells) + 0.5) / cells
    large, small = (int((batch["position"] == image).nonzero()) for image in (0, 1))
    expected = (centre[:, None] <= 0.5) & (centre[None, :] >= 0.5)
    assert np.array_equal(mask[large, 0].numpy(), expected)
    assert mask[small, 1].nonzero().tolist() == [[math.floor(0.705 * cells), math.floor(0.305 * cells)]]
    assert mask.sum() == expected.sum() + 1


def test_only_stage_1_grows_and_examples_have_the_full_size():
    stage = concept_stage()
    given = feeder(stage, strength="light")
    for name in ("prototype", "task"):
        other: Any = SimpleNamespace(name=name, counts=stage.counts, frozen_inputs=True)
        batch = step_of(other, given, epoch=1)
        assert "side" not in batch and batch["image"].shape[-1] == 64 and batch["box_mask"].shape[-1] == 4
    assert given.example(stage, None, num_images=4)["image"].shape[-1] == 64


def test_the_work_of_an_epoch_is_that_of_its_images_areas():
    stage = concept_stage()
    given = feeder(stage, strength="light")  # one step an epoch: 32 px for 3 and 48 px for 4 of 10, then 64
    sides = [step_of(stage, given, epoch=n).get("side") for n in range(1, 11)]
    work = [given.work(stage, epoch=n) for n in range(1, 11)]
    assert work == pytest.approx([(side / 64) ** 2 for side in sides]) and min(work) == 0.25 and work[-1] == 1
    other: Any = SimpleNamespace(name="task", counts=stage.counts, frozen_inputs=True)
    assert given.work(other, epoch=1) == 1


def test_a_rehearsal_trains_on_the_smallest_images():
    stage = concept_stage()
    batch = step_of(stage, feeder(stage, strength="light", max_windows=1), epoch=1)
    assert batch["side"] == 32 and batch["image"].shape[-1] == 32


def test_a_network_of_one_size_or_without_a_smaller_one_is_refused_before_training():
    def refused(model_name: str, words: str, image_size: int = 64) -> str:
        model = CSR(
            2, 1, 2, backbone_type="timm", model_name=model_name, image_size=image_size, embedding_dim=8
        )
        with pytest.raises(InputError) as error:
            build.measure_sides(model, train_options(progressive=words), lambda _: None)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "--progressive: timm 'levit_128s'" in refused("levit_128s", "0.5:0.7", 224)
    assert "does not take images of 112 px" in refused("levit_128s", "0.5:0.7", 224)
    assert "1x1 map of 32 px: give a larger START" in refused("test_resnet", "0.5:0.7")
    assert "no smaller size fits" in refused("test_resnet", "0.9:0.7")


def test_a_frozen_backbone_passes_no_image_so_that_nothing_grows():
    stage, lines = concept_stage(train_backbone=("none",)), []
    frozen = train_options(progressive="0.5:0.7", train_backbone=("none",))
    build.measure_sides(stage.model, frozen, lines.append)
    assert lines == ["Images of stage 1: full size (--train_backbone none: its maps are computed once)"]
    assert build.side_schedule(stage.model, train_options(progressive="0.5:0.7")) is None
    with pytest.raises(InputError, match="--progressive does nothing with --train_backbone none"):
        parse_train_flags([*GROWING, "--train_backbone", "none"])
    parse_train_flags(["--progressive", "none", "--train_backbone", "none"])


def test_compiling_is_refused():
    with pytest.raises(InputError, match="--progressive 0.5:0.7: --compile would compile every size anew"):
        parse_train_flags([*GROWING, "--compile"])
    parse_train_flags(["--recipe", "fast", "--progressive", "none", "--compile"])


def records(folder: Path) -> list[dict[str, Any]]:
    clocks = ("seconds", "data_wait_s", "images_per_s", "features_s", "telemetry")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]


def run(phantom: Path, out: Path, name: str, *more: str, launcher: str = "none", **changed: str) -> Path:
    done = train(*flags(phantom, out, *more, exp_name=name, **{**FEW, **changed}), launcher=launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / name


@pytest.mark.slow
@pytest.mark.dist
def test_a_run_stopped_while_images_grow_ends_with_the_same_bits(phantom_folder, tmp_path):
    out = tmp_path / "out"
    more = (*GROWING, "--save_every", "2", "--boxes_csv", str(phantom_folder / "boxes_train.csv"))
    changed = {**FEW, "image_size": "128"}  # BatchNorm; 64, 96, 128 px over 8 of 12 steps
    finished(*flags(phantom_folder, out, *more, exp_name="whole", **changed))
    arguments = flags(phantom_folder, out, *more, exp_name="stopped", **changed)
    for what, number in (("TERM", 2), ("KILL", 5)):
        assert ended(what, STEP, number, *arguments).returncode == (75 if what == "TERM" else -9)
    finished(*arguments)
    one, other = (
        torch.load(out / name / "final_model.pth", weights_only=True) for name in ("stopped", "whole")
    )
    assert [key for key, value in other.items() if not torch.equal(one[key], value)] == []
    assert records(out / "stopped") == records(out / "whole")


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("network", [{"image_size": "128"}, {"model_name": "test_vit"}])
def test_two_ranks_give_the_losses_of_one(network, phantom_folder, tmp_path):
    out = tmp_path / "out"
    steps = {**network, "lr": "1e-4", "prototype_lr_scale": "1", "task_lr_scale": "0.1", "epochs_stage1": "2"}
    one = records(run(phantom_folder, out, "one", *GROWING, **steps))
    two = records(
        run(phantom_folder, out, "two", *GROWING, launcher="torchrun", **{**steps, "batch_size": "8"})
    )
    plain = records(run(phantom_folder, out, "plain", **steps))
    for got, expected in zip(two, one, strict=True):
        assert got["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    assert abs(one[0]["train_loss"] - plain[0]["train_loss"]) > 1e-4, "the images were small"


@pytest.mark.slow
@pytest.mark.dist
def test_an_encoder_of_transformers_and_a_rehearsal(phantom_folder, tmp_path):
    from hf_encoders import saved

    saved("dinov2", tmp_path / "encoder")
    hf = {"backbone_type": "hf", "model_name": str(tmp_path / "encoder"), "image_size": "56"}
    folder = run(phantom_folder, tmp_path / "out", "hf", *GROWING, **hf)
    options = json.loads((folder / "config.json").read_text())["options"]
    assert options["optim"]["progressive"] == "0.5:0.7"
    done = train(
        *flags(phantom_folder, tmp_path / "out", *GROWING, "--dry_run", exp_name="dry", **{**FEW, **hf})
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Images of stage 1: 28 to 56 px, 14 at a time over the first 70 % of its steps" in done.stdout
