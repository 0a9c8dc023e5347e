"""The benchmarks: the reference computes what csr computes, and every script runs from end to end."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from csr.data.images.decode import read_image
from csr.data.transforms import STRENGTHS, draw_theta, stored_size
from csr.model.layers.projector import Projector
from csr.stages.losses import contrastive, prototype_similarity

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "scripts" / "bench"
GIVEN = {"gpu.py": ("--device", "cpu")}


@pytest.fixture
def bench(monkeypatch):
    """The folder of the scripts as a place to import from."""
    monkeypatch.syspath_prepend(str(BENCH))


def test_the_loops_of_the_reference_compute_the_loss_of_csr(bench):
    import reference

    torch.manual_seed(0)
    projector = Projector(6, 4, 1)
    proto_KMD = F.normalize(torch.randn(3, 2, 4), dim=2)
    label_BK = torch.tensor([[1.0, 0, 1], [0, 0, 0], [float("nan"), 1, 0], [1, 1, 1]])
    local_BKC = torch.randn(4, 3, 6)
    row_R, concept_R = torch.nonzero(label_BK >= 0.5, as_tuple=True)
    similarity = prototype_similarity(projector(local_BKC[row_R, concept_R]), proto_KMD)
    expected = contrastive(similarity, concept_R, (label_BK >= 0.5)[row_R]) / len(row_R)
    torch.testing.assert_close(reference.prototype_loss(local_BKC, label_BK, projector, proto_KMD), expected)
    assert reference.prototype_loss(local_BKC, 0 * label_BK, projector, proto_KMD) == 0


@pytest.mark.parametrize("kind", ["png", "jpg", "dcm", "16-bit"])
def test_both_loaders_see_the_same_pixels(kind, bench, tmp_path):
    import loaders
    import reference

    value_HW = loaders.radiograph(40, np.random.default_rng(0))
    path = tmp_path / f"image.{'png' if kind == '16-bit' else kind}"
    if kind == "16-bit":
        Image.fromarray(value_HW * 16).save(path)
    else:
        loaders.write_image(path, value_HW)
    ours, theirs = read_image(path), np.asarray(reference.decode(path))
    assert ours.shape == (40, 40) and theirs.shape == (40, 40, 3) and ours.std() > 10
    np.testing.assert_allclose(theirs, np.repeat(ours[:, :, None], 3, axis=2), atol=1)


def test_macro_auc_leaves_out_what_has_one_class_or_is_not_annotated(bench):
    import reference

    label = np.array([[1, 1, np.nan], [0, 1, np.nan], [0, 1, 1], [np.nan, 1, 0]])
    score = np.array([[0.9, 0, 0], [0.1, 0, 0], [0.95, 0, 0.1], [0, 0, 0.2]])
    assert reference.macro_auc(score, label) == pytest.approx((0.5 + 0.0) / 2)


def test_ratios_are_taken_round_by_round(bench, tmp_path, capsys):
    import compare
    import measuring

    def ran(seconds: float, auc: float, **more: dict) -> dict:
        epochs = {stage: [seconds, 9 * seconds, seconds] for stage in compare.STAGES}
        return {
            "seconds": seconds,
            "total_mib": 100.0,
            "private_mib": 50.0,
            "epochs": epochs,
            "features": {},
            "concept_auc": auc,
            "target_auc": auc,
            **more,
        }

    report = measuring.Report("name", tmp_path)
    usual = [ran(s, 0.8) for s in (4.0, 9.0, 6.0)]
    ours = [ran(s, 0.85, features={"task": 3.0}) for s in (2.0, 3.0, 1.0)]
    compare.table(report, {"reference": usual, "csr": ours})
    report.write()
    text = (tmp_path / "name.txt").read_text()
    rows = {line[:46].strip(): line.split() for line in text.splitlines()}
    assert rows["whole run, s"][-1] == "3.00x" and rows["task epoch, s"][-1] == "3.00x"
    assert rows["task epoch with its share of the cache, s"][-1] == "2.25x"
    assert rows["test target_auc"][-1] == "+0.0500"
    assert "torch" in json.loads((tmp_path / "name.json").read_text())["machine"]["versions"]


def test_the_cluster_model_is_the_sum_of_its_parts(bench):
    import cluster_model as model

    net = model.Network("made up", 224, flops=1e9, parameters=10**8, norms=3)
    cluster = model.Cluster(
        peak=1e13, mfu=0.5, gpus_per_node=8, node=1e11, network=1e10, latency=1e-5, read=1e12, bucket=1e8
    )
    alone = model.step(net, cluster, gpus=1, batch=10, precision="fp16")
    assert alone["step"] == alone["compute"] == pytest.approx(10 * 3 * 1e9 / 5e12)
    assert alone["zero"] == alone["norm"] == 0
    near, far = (model.step(net, cluster, gpus=g, batch=10, precision="fp16") for g in (8, 16))
    assert near["zero"] == pytest.approx(4e8 * 7 / 8 / 1e11 + 2 * 7 * 1e-5)
    assert far["zero"] == pytest.approx(4e8 * 15 / 16 / 1e10 + 2 * 15 * 1e-5)
    assert far["norm"] == pytest.approx(2 * 3 * 2 * 4 * 1e-5)
    starved = dataclasses.replace(cluster, read=1e6)
    assert model.step(net, starved, gpus=8, batch=10, precision="fp16")["step"] == pytest.approx(
        10 * 3 * stored_size(224) ** 2 / 1e6
    )
    resnet = model.count("resnet18", 224)
    assert resnet.flops == pytest.approx(2 * 1.82e9, rel=0.01) and resnet.norms == 20
    assert resnet.parameters == 11_176_512


def test_memory_counts_a_process_and_those_below_it(bench):
    import measuring

    total, private = measuring.memory_of_tree(os.getpid())
    assert 0 < private <= total < 2**20
    assert measuring.memory_of_tree(2**30) == (0.0, 0.0)
    hold = "import sys; held = bytearray(b'x' * 2**26); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert measuring.memory_of_tree(os.getpid())[0] > total + 60


def test_a_command_that_fails_is_an_error_with_its_last_lines(bench):
    import measuring

    with pytest.raises(RuntimeError, match="ended with 3:\nsaid"):
        measuring.run([sys.executable, "-c", "print('said'); raise SystemExit(3)"])
    assert measuring.run([sys.executable, "-c", "pass"]).seconds > 0


def test_a_shorter_stage_1_is_compared_round_by_round(bench, tmp_path, capsys):
    import measuring
    import progressive

    def ran(seconds: float, auc: float) -> dict:
        epochs = {"concept": [seconds / 4, seconds / 4], "prototype": [], "task": []}
        used = {"seconds": seconds, "cpu_seconds": 2 * seconds}
        return {**used, "epochs": epochs, "concept_auc": auc, "target_auc": auc}

    plain, growing = (
        [ran(s, a) for s, a in pairs] for pairs in (((8, 0.9), (9, 0.8)), ((4, 0.85), (6, 0.8)))
    )
    progressive.table(measuring.Report("name", tmp_path), {"plain": plain, "progressive": growing})
    text = capsys.readouterr().out
    rows = {line[:30].strip(): line.split() for line in text.splitlines()}
    assert rows["whole run, s"][-1] == rows["training steps of stage 1, s"][-1] == "1.75x"
    assert rows["training steps of stage 1, s"][6:8] == ["4.2", "(4.0"]
    assert rows["test concept_auc"][-1] == "-0.0250"


def test_the_variants_name_what_csr_does_now(bench):
    import defaults

    draw_B7 = torch.rand(20, 7, generator=torch.Generator().manual_seed(0))
    light = draw_theta(draw_B7[:, :5], STRENGTHS["light"])
    torch.testing.assert_close(defaults.theta_of(defaults.VARIANTS["mild"], draw_B7), light)
    assert STRENGTHS["light"].contrast == defaults.VARIANTS["mild"].contrast == 0


STORED = """
import json, sys
import csr.training.prepare  # as a process has it that is forked to train
import defaults
from csr.training import inputs, quarantine
from csr.training.logs import run_config
for variant in ("mild", "before"):
    defaults.change_augmentation(defaults.VARIANTS[variant])
    from csr.model.sharing.card import plain_card
    sizes = [module.stored_size(64) for module in (inputs, quarantine, run_config)]
    print(json.dumps([*sizes, plain_card(1, 1, image_size=64).preprocessing.stored_size]))
"""


@pytest.mark.slow
def test_a_variant_has_images_stored_at_its_own_side_everywhere(bench):
    env = {**os.environ, "PYTHONPATH": f"{BENCH}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", STORED], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[64, 64, 64, 64]", "[72, 72, 72, 72]"]


def test_runs_of_the_augmentation_are_counted_by_setting_size_and_variant(bench, tmp_path):
    import defaults

    given = {"setting": "small-12", "images": 400, "when": "", "target_auc": 0.5}
    runs = [
        defaults.Outcome(**given, variant="none", seed=s, concept_auc=auc, image_size=size)
        for s, auc, size in ((0, 0.7, 64), (1, 0.9, 64), (2, 0.8, 64), (0, 0.1, 96))
    ]
    report = defaults.Report("defaults", tmp_path)
    defaults.table(report, runs)
    rows = [line.split() for line in report.lines if line.startswith("  none")]
    assert [row[1:3] + row[-1:] for row in rows] == [
        ["0.800", "(0.700-0.900)", "3"],
        ["0.100", "(0.100-0.100)", "1"],
    ]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(
    "script",
    [
        "beside.py",
        "compare.py",
        "data_scale.py",
        "defaults.py",
        "phases.py",
        "progressive.py",
        "scaling.py",
        "startup.py",
        "tables.py",
        "gpu.py",
    ],
)
def test_a_quick_run_writes_its_results(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(BENCH / script), "--quick", "--results", str(tmp_path), *GIVEN.get(script, ())],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / script.replace(".py", ".json")).read_text())
    wanted = {
        "beside.py": {"steps"},
        "compare.py": {"runs", "loader", "overhead"},
        "data_scale.py": {"seconds", "cpu_seconds", "peak_mib"},
        "defaults.py": {"machine", "runs"},
        "phases.py": {"machine", "phases"},
        "progressive.py": {"machine", "runs"},
        "scaling.py": {"ranks", "growth", "loss"},
        "startup.py": {"imports", "first_step"},
        "tables.py": {"0 and 1", "ids quoted", "0.0 and 1.0"},
        "gpu.py": {
            *("device", "steps", "overhead", "later_stages", "feature_pass", "feeding", "norms"),
            *("checkpoints", "compile", "start_up"),
        },
    }
    assert wanted[script] <= set(found)
    assert (tmp_path / script.replace(".py", ".txt")).read_text()


def test_the_gpu_benchmark_ends_with_a_line_where_there_is_no_gpu(bench, capsys, monkeypatch):
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.resolved([])
    assert ended.value.code == 2 and "torch finds no GPU" in capsys.readouterr().err


def test_a_part_without_time_is_left_out_and_said_so(bench, monkeypatch, tmp_path):
    import gpu

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    done: list[str] = []
    listed = [
        ("short", 5.0, lambda *_: done.append("short")),
        ("long", 500.0, lambda *_: done.append("long")),
    ]
    monkeypatch.setattr(gpu, "parts", lambda _: listed)
    monkeypatch.setattr("csr.engine.process_group.start", lambda _: None)
    monkeypatch.setattr("csr.runtime.distributed.shut_down", lambda: None)
    gpu.main(["--device", "cpu", "--seconds", "100", "--results", str(tmp_path)])
    assert done == ["short"]
    assert json.loads((tmp_path / "gpu.json").read_text())["left_out"] == ["long"]
    assert "left out: no time is left" in (tmp_path / "gpu.txt").read_text()


def test_rates_of_a_step_are_those_by_hand(bench):
    import gpu_steps

    row = gpu_steps.Timed(ms=20.0, launch_ms=5.0, stops=1.0, step_mib=64.0).record(
        images=10, flops_per_image=2e9, peak=4e12
    )
    assert row["images_per_s"] == 500.0 and row["mfu_percent"] == pytest.approx(25.0)
