"""`csr doctor` and `csr launch` as a user calls them, up to where other machines are needed."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

from csr.cli import doctor, launch
from csr.cluster import machine_facts
from csr.cluster.launch import deepspeed_command
from csr.cluster.preflight import Preflight
from csr.cluster.rank_start import decode
from csr.runtime.errors import InputError


def test_this_machine_is_described_in_a_line_for_each_thing(phantom_folder, tmp_path, capsys):
    table = phantom_folder / "labels_train.csv"
    flags = ["--train_csv", table, "--test_dir", phantom_folder / "test", "--output_dir", tmp_path / "new"]
    assert doctor.main([str(flag) for flag in flags]) == 0
    facts = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    for name in ("host", "python", "csr", "torch", "deepspeed", "precision", "/dev/shm", "ssh", "pdsh"):
        assert facts[name]
    assert facts["train_csv"] == (
        f"{table.stat().st_size} bytes, hash {hashlib.sha256(table.read_bytes()).hexdigest()[:8]}"
    )
    assert facts["test_dir"].startswith("24 images, hash ")
    assert facts["cpu"] == f"{len(os.sched_getaffinity(0))} core(s)"
    assert facts["disk"].endswith(f"GiB free {tmp_path}") and not (tmp_path / "new").exists()


def test_what_must_be_put_right_is_an_error_after_all_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine_facts, "free_mib", lambda folder: 3)
    message = "disk: make room for checkpoints; train_csv: .*absent.csv: No such file"
    with pytest.raises(InputError, match=message) as met:
        doctor.main(["--train_csv", str(tmp_path / "absent.csv"), "--output_dir", str(tmp_path)])
    assert str(met.value).endswith("; correct --train_csv")
    assert f"cannot be used: {tmp_path / 'absent.csv'}: No such file" in capsys.readouterr().out


def test_a_listing_sees_names_and_sizes_of_images_alone(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "b.png").write_bytes(b"12")
    (tmp_path / "below" / "a.DCM").write_bytes(b"123")
    (tmp_path / "id-without-suffix").write_bytes(b"")
    (tmp_path / "Thumbs.db").write_bytes(b"1")
    assert machine_facts.listing(tmp_path) == [("b.png", 2), ("below/a.DCM", 3), ("id-without-suffix", 0)]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--hostfile", "absent"], "absent: no such hostfile"),
        (["--ssh_port", "2222"], "give --hostfile too"),
        (["--hostfile", "absent", "--ssh_port", "0"], "from 1 to 65535"),
        (["--hostfile", "absent", "--master_port", "65536"], "from 1 to 65535"),
        (["--host", "absent"], "--host"),
    ],
)
def test_flags_that_cannot_be_used_are_named(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        doctor.main(command)


def test_bad_train_flags_end_a_launch_before_any_host_is_asked(tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("nowhere.invalid slots=1\n")
    with pytest.raises(InputError, match="--batch_size 0: give a number above 0"):
        launch.main([str(hostfile), "--", "--batch_size", "0"])
    with pytest.raises(InputError, match="unrecognized arguments: --batch 3"):
        launch.main([str(hostfile), "--", "--batch", "3"])
    with pytest.raises(
        InputError, match="unrecognized arguments: --lr 3: flags of csr train stand after `--`"
    ):
        launch.main([str(hostfile), "--lr", "3"])
    with pytest.raises(InputError, match="no such hostfile"):
        launch.main([str(tmp_path / "absent"), "--"])


def test_the_launcher_is_given_one_plain_word_for_all_flags(tmp_path):
    flags = ["--exp_name", "a b;id", "--concept_cols", "Nodule/Mass", ""]
    given, parsed = launch.parse([str(tmp_path), "--ssh_port", "2222", "--", *flags])
    outcome = Preflight([], "10.0.0.1", 20_001)
    command = deepspeed_command(outcome, tmp_path / "hosts", parsed, ssh_port=given.ssh_port)
    assert command[:4] == ["deepspeed", "--hostfile", str(tmp_path / "hosts"), "--force_multi"]
    assert command[-3:-1] == ["--module", "csr.cluster.rank_start"] and decode(command[-1]) == flags
    pairs = dict(zip(command, command[1:]))
    assert (pairs["--ssh_port"], pairs["--master_addr"], pairs["--master_port"]) == (
        "2222",
        "10.0.0.1",
        "20001",
    )


GPU = {"name": "NVIDIA A100-SXM4-40GB", "mib": 40960}
SLICE = {"name": "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "mib": 4864}
NONE = {"gpus": [], "visible": None, "hidden": 0, "cuda": "13.0"}


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, []),
        ({"gpus": [GPU]}, [("NVIDIA A100-SXM4-40GB, 40 GiB", None)]),
        (
            {"gpus": [GPU], "visible": "GPU-8f"},
            [("NVIDIA A100-SXM4-40GB, 40 GiB", None), ("1 visible: CUDA_VISIBLE_DEVICES=GPU-8f", None)],
        ),
        ({"gpus": [SLICE]}, [(".* 5 GiB .a MIG slice: one rank alone, NCCL joins no two.*", None)]),
        ({"hidden": 8, "visible": ""}, [("none seen of 8", None)]),
        ({"hidden": 8, "visible": "MIG-1"}, [("none seen of 8", "CUDA_VISIBLE_DEVICES=MIG-1 names none.*")]),
        ({"hidden": 8, "cuda": None}, [("none seen of 8", "this torch is built without CUDA.*")]),
        ({"hidden": 8}, [("none seen of 8", "torch .CUDA 13.0. cannot use the driver.*")]),
    ],
)
def test_gpus_their_slices_and_those_that_a_run_would_not_find_are_named(changed, expected):
    lines = doctor.gpu_lines({**NONE, **changed})
    assert [name for name, *_ in lines] == ["gpu"] * len(expected)
    for (_, text, problem), (wanted, wanted_problem) in zip(lines, expected, strict=True):
        assert re.fullmatch(wanted, text), text
        assert (problem is None) is (wanted_problem is None)
        assert problem is None or re.fullmatch(wanted_problem, problem), problem


def test_gpus_of_the_driver_are_counted_by_their_device_files(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / name).touch()
    assert machine_facts.num_hidden_gpus(tmp_path) == 3
