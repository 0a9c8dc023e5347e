"""Training under a real SLURM: whatever stops a job, it resumes by itself and ends with the same weights."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from real_slurm import Job, Slurm
from train_command import flags

pytestmark = [pytest.mark.cluster, pytest.mark.dist]
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train.sbatch"
TWO_NODES = ("--nodes", "2", "--gpus_per_node", "0", "--cpus_per_task", "1")
ONE_NODE = ("--nodes", "1", "--gpus_per_node", "0", "--cpus_per_task", "1")
SHORT = {"epochs_stage1": "1", "epochs_stage2": "1", "epochs_stage3": "1"}


def of_run(phantom: Path, slurm: Slurm, name: str | None, **changed: str) -> list[str]:
    options = {"batch_size": "8", "epochs_stage1": "9", "epochs_stage2": "5", "epochs_stage3": "2", **changed}
    return flags(phantom, slurm.folder / "out", "--precision", "fp32", exp_name=name, **options)


def weights(slurm: Slurm, name: str) -> dict[str, torch.Tensor]:
    return torch.load(slurm.folder / "out" / name / "final_model.pth", weights_only=True)


def epochs(slurm: Slurm, name: str) -> list[tuple[str, int]]:
    lines = (slurm.folder / "out" / name / "metrics.jsonl").read_text().splitlines()
    return [(record["stage"], record["epoch"]) for record in map(json.loads, lines)]


def assert_same(slurm: Slurm, name: str, expected: str) -> None:
    got, other = weights(slurm, name), weights(slurm, expected)
    assert [n for n in other if not torch.equal(got[n], other[n])] == []
    assert epochs(slurm, name) == epochs(slurm, expected)


@pytest.fixture(scope="module")
def whole_job(slurm: Slurm, phantom_folder: Path) -> Job:
    """Submit a job on two nodes that is not disturbed."""
    return slurm.submit(*TWO_NODES, "--", *of_run(phantom_folder, slurm, "whole"))


@pytest.fixture(scope="module")
def whole(slurm: Slurm, whole_job: Job, limited: Job) -> str:
    """Return its name, when it has finished; the other one stands still meanwhile."""
    assert whole_job.end() == "COMPLETED", whole_job.text[-3000:]
    return "whole"


@pytest.fixture(scope="module")
def limited(slurm: Slurm, phantom_folder: Path, whole_job: Job) -> Job:
    """Submit a job whose ranks are stopped, or it would be done before SLURM warns of its time limit.

    The warning comes 60 to 90 s after the start, the limit itself later than this file takes.
    """
    arguments = of_run(phantom_folder, slurm, "limited")
    job = slurm.submit(*TWO_NODES, "--time", "10", "--signal_before", "510", "--", *arguments)
    job.until("Epoch 2/9")
    job.signal("STOP")
    return job


def test_two_nodes_have_one_rank_each_and_a_log_for_each(slurm, whole, whole_job):
    logs = sorted(path.name for path in (slurm.folder / "out" / whole / "logs").glob("rank*.log"))
    assert logs == ["rank0-node1.log", "rank1-node2.log"]
    assert "0: Batch: 8 per rank x 2 ranks" in whole_job.text
    assert whole_job.log == slurm.folder / "out" / f"whole-{whole_job.number}.log"
    assert (slurm.folder / "out" / "whole.sbatch").is_file()


def test_a_job_resumes_after_usr1_and_after_a_requeue_by_others(slurm, phantom_folder, whole):
    arguments = of_run(phantom_folder, slurm, "signalled")
    job = slurm.sbatch("--nodes", "2", "--cpus-per-task", "1", SCRIPT, *arguments)
    job.until("Epoch 3/9")
    job.signal("USR1")
    job.until("csr: pre-empted and requeued")
    job.until(", start 2,")
    job.until("Epoch 6/9")
    slurm.output_of("scontrol", "requeue", job.number)
    assert job.end() == "COMPLETED", job.text[-3000:]
    assert job.field("Restarts") == "2" and ", start 3," in job.text
    assert_same(slurm, "signalled", whole)


def test_a_job_that_meets_its_time_limit_resumes_in_a_new_start(slurm, limited, whole):
    limited.until("csr: USR1: the ranks save and stop")
    time.sleep(5.0)  # srun passes it on meanwhile; ranks that went on before could be done first
    limited.signal("CONT")
    limited.until("csr: pre-empted and requeued")
    assert limited.end() == "COMPLETED", limited.text[-3000:]
    assert int(limited.field("Restarts")) >= 1
    assert_same(slurm, "limited", whole)


def test_an_array_trains_each_experiment_in_a_folder_of_its_own(slurm, phantom_folder):
    listed = slurm.folder / "experiments.txt"
    listed.write_text("--exp_name first --seed 1\n--exp_name 'the second' --seed 2\n")
    arguments = of_run(phantom_folder, slurm, None, **SHORT)
    array = slurm.submit(*ONE_NODE, "--experiments", str(listed), "--", *arguments)
    numbered = slurm.sbatch(
        "--array",
        "7",
        "--cpus-per-task",
        "1",
        "--output",
        "csr-%A.log",
        SCRIPT,
        *of_run(phantom_folder, slurm, "numbered", **SHORT),
    )
    tasks = [array.task(1), array.task(2), numbered]
    assert [task.end() for task in tasks] == ["COMPLETED"] * 3, tasks[0].text[-3000:]
    one, two = weights(slurm, "first"), weights(slurm, "the second")
    assert any(not torch.equal(one[n], two[n]) for n in one)
    assert "/out/first\n" in tasks[0].text and "/out/the second\n" in tasks[1].text
    assert weights(slurm, "numbered_7").keys() == one.keys()


def test_a_second_job_on_a_folder_is_refused_and_a_cancelled_one_stays_cancelled(slurm, phantom_folder):
    arguments = of_run(phantom_folder, slurm, "contested", epochs_stage1="500")
    first = slurm.submit(*ONE_NODE, "--", *arguments)
    first.until("Epoch 1/500")
    first.signal("STOP")
    second = slurm.submit(*ONE_NODE, "--", *arguments)
    assert second.end() == "FAILED"
    assert second.field("ExitCode") == "2:0"
    assert "contested: another run" in second.text and "is writing this folder" in second.text
    slurm.output_of("scancel", first.number)
    first.until("csr: ended from outside")
    assert first.end() == "CANCELLED" and first.field("Restarts") == "0"


def test_the_lock_of_a_crashed_node_holds_up_no_run(slurm, phantom_folder):
    """The last one: a node is gone afterwards."""
    arguments = of_run(phantom_folder, slurm, "crashed", epochs_stage1="500")
    job = slurm.submit(*ONE_NODE, "--", *arguments)
    job.until("Epoch 2/500")
    node = job.field("NodeList")
    slurm.crash(node)
    job.until(", start 2,")
    job.until("resumes in the concept stage")
    assert job.field("NodeList") == ({"node1", "node2"} - {node}).pop()
    slurm.output_of("scancel", job.number)
    assert job.end() == "CANCELLED"
