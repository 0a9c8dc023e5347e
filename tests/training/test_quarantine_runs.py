"""`--on_bad_image quarantine` in whole runs: one and two ranks, a dry run, killed and resumed runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from damaged_images import damage, draw
from ended_run import STEP, ended, finished
from train_command import contents, flags, train


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("quarantine") / "data")


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))


QUARANTINE = ("--on_bad_image", "quarantine")
FEW = {"epochs_stage1": "2", "epochs_stage2": "1", "epochs_stage3": "1", "batch_size": "64"}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "on"])
def test_one_and_two_ranks_train_on_the_same_kept_images(data, tmp_path, cache):
    reasons = damage(data)
    caches = {"image_cache": "off"} if cache == "off" else {}
    lists = []
    for launcher, size in (("none", "64"), ("torchrun", "32")):
        out = tmp_path / launcher
        done = train(
            *flags(data, out, *QUARANTINE, **{**FEW, **caches, "batch_size": size}), launcher=launcher
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Quarantine: ") == 1
        assert "2 of 210 training and 1 of 100 test images" in done.stdout
        counts = re.search(r"Data: (\d+) training, (\d+) validation, (\d+) test images", done.stdout)
        assert counts and (int(counts[1]) + int(counts[2]), int(counts[3])) == (208, 99)
        lists.append((out / "csr_exp" / "quarantine.csv").read_bytes())
        assert not list((out / "csr_exp").glob(".*tmp"))
    assert lists[0] == lists[1] and all(name.encode() in lists[0] for name in reasons)


@pytest.mark.dist
@pytest.mark.slow
def test_a_dry_run_names_what_it_would_leave_out_and_writes_nothing(data, tmp_path):
    reasons = damage(data)
    done = train(*flags(data, tmp_path / "out", "--dry_run", *QUARANTINE))
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("Quarantine: "))
    assert all(name in line for name in reasons)
    assert contents(tmp_path / "out") == {}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_resumes_with_the_recorded_list_when_an_image_has_come_back(data, tmp_path, ranks):
    damage(data)
    changed = {**FEW, "batch_size": str(64 // ranks)}
    whole = flags(data, tmp_path / "out", *QUARANTINE, exp_name="whole", **changed)
    finished(*whole, ranks=ranks)
    killed = flags(data, tmp_path / "out", *QUARANTINE, exp_name="killed", **changed)
    assert ended("TERM", STEP, 5, *killed, ranks=ranks).returncode != 0
    shutil.copy(data / "train" / "train008.png", data / "train" / "train007.png")
    done = finished(*killed, ranks=ranks)
    assert "resumes" in done.stdout and done.stdout.count("Quarantine: ") == 1
    one, other = (
        torch.load(tmp_path / "out" / name / "final_model.pth", weights_only=True)
        for name in ("whole", "killed")
    )
    assert [n for n in other if not torch.equal(one[n], other[n])] == []
    lists = [(tmp_path / "out" / name / "quarantine.csv").read_bytes() for name in ("whole", "killed")]
    assert lists[0] == lists[1]


@pytest.mark.dist
@pytest.mark.slow
def test_a_killed_run_refuses_to_resume_without_further_images_or_under_error(data, tmp_path):
    damage(data)
    arguments = flags(data, tmp_path / "out", exp_name="killed", **FEW)
    assert ended("TERM", STEP, 5, *arguments, *QUARANTINE).returncode == 75
    before = contents(tmp_path / "out")
    done = train(*arguments)
    assert done.returncode == 2 and "--on_bad_image was quarantine, now error" in done.stderr
    (data / "test" / "test005.png").unlink()
    done = train(*arguments, *QUARANTINE)
    assert done.returncode == 2 and "test005" in done.stderr and len(done.stderr.splitlines()) == 1
    after = contents(tmp_path / "out")
    assert {n: h for n, h in after.items() if n in before} == before


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["none", "torchrun"])
def test_too_many_bad_images_end_the_command_with_one_line(data, tmp_path, launcher):
    for n in range(6):
        (data / "train" / f"train{n:03d}.png").write_bytes(b"no image")
    done = train(*flags(data, tmp_path / "out", *QUARANTINE), launcher=launcher)
    counts = [line for line in done.stderr.splitlines() if "csr: error:" in line]
    assert len(counts) == 1 and "6 of 210 training images" in counts[0]
    assert done.returncode == (2 if launcher == "none" else 1)
    assert not (tmp_path / "out" / "csr_exp").exists()
