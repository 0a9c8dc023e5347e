"""`csr submit`: what it writes and refuses; what its job file does, with stand-ins for srun and scontrol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from csr.cli import submit
from csr.cluster.slurm_job import plain_name, task_numbers
from csr.runtime.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = (
    "a b",
    "it's",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "*",
    "\\",
    "--",
    "new\nline",
    "~",
)
SRUN = """#!/bin/bash
while [ "$1" != -m ]; do shift; done
env > environment
printf '%s\\0' "${@:3}" > flags
case "$STAND_IN" in
    wait) trap 'exit 75' USR1; touch waiting; while :; do sleep 0.05; done ;;
    late) trap '' USR1; touch waiting; while [ ! -e go ]; do sleep 0.05; done; exit 75 ;;
    *) exit "${STAND_IN:-0}" ;;
esac
"""
SCONTROL = """#!/bin/bash
case "$*" in
    "show hostnames node[1-2]") printf 'node1\\nnode2\\n' ;;
    "--oneliner show job "*)
        echo "JobId=7 JobState=${STATE:-RUNNING} Reason=${REASON:-None} Dependency=(null)" ;;
    "requeue "*) echo "$2" >> requeued ;;
    *) exit 1 ;;
esac
"""
JOB = {"SLURM_JOB_ID": "20007", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "3"}
TASK = {"SLURM_ARRAY_JOB_ID": "20005", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of its own, with the stand-ins before everything else on the PATH."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        executable(bin_folder / name, text)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def written(*arguments: str, path: str = "checkpoints/csr_exp.sbatch") -> str:
    assert submit.main(list(arguments)) == 0
    return Path(path).read_text(encoding="utf-8")


def directives(text: str) -> dict[str, str]:
    lines = (line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def run_job(path: Path | str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(path), *arguments],
        env={**os.environ, **JOB, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def flags_given() -> list[str]:
    return Path("flags").read_text().split("\0")[:-1]


# what is written


def test_a_job_file_asks_for_what_the_site_needs(here):
    text = written(
        "--partition",
        "gpu",
        "--account",
        "lab",
        "--qos",
        "high",
        "--time",
        "1-12:00:00",
        "--nodes",
        "2",
        "--gpus_per_node",
        "a100:4",
        "--cpus_per_task",
        "6",
        "--mem",
        "64G",
        "--constraint",
        "ib&big",
        "--mail",
        "me@example.org",
        "--signal_before",
        "300",
        "--sbatch=--exclusive",
        "--sbatch=--exclude=node7",
        "--",
        "--exp_name",
        "one",
        path="checkpoints/one.sbatch",
    )
    assert directives(text) == {
        "--job-name": "one",
        "--partition": "gpu",
        "--account": "lab",
        "--qos": "high",
        "--nodes": "2",
        "--ntasks-per-node": "4",
        "--gpus-per-node": "a100:4",
        "--cpus-per-task": "6",
        "--mem": "64G",
        "--constraint": "ib&big",
        "--time": "1-12:00:00",
        "--signal": "B:USR1@300",
        "--mail-user": "me@example.org",
        "--mail-type": "END,FAIL",
        "--exclusive": "",
        "--exclude": "node7",
        "--requeue": "",
        "--chdir": str(here),
        "--output": f"{here}/checkpoints/one-%j.log",
        "--open-mode": "append",
    }
    assert "DS_ACCELERATOR" not in text.partition("refuse()")[0]


def test_without_submit_the_file_is_printed_and_lies_beside_the_run(here, capsys):
    text = written("--", "--output_dir", "out", "--exp_name", "e", path="out/e.sbatch")
    printed = capsys.readouterr()
    assert printed.out == text
    assert "sbatch out/e.sbatch" in printed.err and "--train_csv labels_train.csv is not here" in printed.err
    assert not (here / "out" / "e").exists(), "the run's own folder is left to the run"


def test_jobs_on_cpus_ask_for_no_gpu_and_see_none(here):
    text = written("--gpus_per_node", "0", "--ranks_per_node", "2", "--")
    assert "--gpus-per-node" not in directives(text) and directives(text)["--ntasks-per-node"] == "2"
    assert run_job("checkpoints/csr_exp.sbatch").returncode == 0
    seen = Path("environment").read_text().splitlines()
    assert "CUDA_VISIBLE_DEVICES=" in seen and "DS_ACCELERATOR=cpu" in seen


def test_the_script_and_the_job_file_do_the_same(here):
    script = (ROOT / "scripts" / "train.sbatch").read_text(encoding="utf-8")
    assert written("--").endswith(script.partition("set -euo pipefail\n")[2])
    wanted = {"--requeue": "", "--signal": "B:USR1@120", "--open-mode": "append"}
    assert wanted.items() <= directives(script).items()


@pytest.mark.parametrize("value", HOSTILE)
def test_no_flag_is_run_or_changed(value, here):
    name = f"x{value}y".replace("\\", "_")  # which no folder of a run may have
    flags = ["--exp_name", name, "--concept_cols", value.replace("--", "-"), "b", "--output_dir", "o$(id)"]
    assert submit.main(["--", *flags]) == 0
    done = run_job(Path("o$(id)") / f"{name}.sbatch")
    assert done.returncode == 0, done.stderr
    assert flags_given() == flags
    assert not list(here.rglob("pwned"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus", "--"], "unrecognized arguments: --bogus"),
        (["--", "--lr", "x"], "--lr: invalid float value: 'x'"),
        (["--", "--lr", "-1"], "--lr -1"),
        (["--", "--exp_name", "a/b"], "plain folder name"),
        (["--signal_before", "70000", "--"], "--signal_before 70000"),
        (["--nodes", "0", "--"], "--nodes"),
        (["--gpus_per_node", "-1", "--"], "--gpus_per_node '-1'"),
        (["--gpus_per_node", "2", "--ranks_per_node", "4", "--"], "one rank to a GPU"),
        (["--partition", "a\ntouch pwned", "--"], "line breaks"),
        (["--output", 'a"b', "--"], "without double quotes"),
        (["--sbatch", "touch pwned", "--"], "with its dashes"),
        (["--sbatch=-x y;z", "--"], "no option of sbatch"),
        (["--time", "1\n#SBATCH --wrap=id", "--"], "line breaks"),
        (["--array", '1"; id', "--"], "without double quotes"),
        (["--venv", "v", "--container", "c.sif", "--"], "not allowed with"),
        (["--experiments", "none.txt", "--"], "none.txt: cannot be read"),
    ],
)
def test_input_that_cannot_be_used_is_one_line_and_nothing_is_written(arguments, message, here):
    with pytest.raises(InputError) as error:
        submit.main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (here / "checkpoints").exists()


def test_an_apostrophe_is_quoted_for_sbatch_and_for_bash(here):
    where = here / "data d'ici"
    where.mkdir()
    flags = ["--output_dir", str(where), "--train_csv", "l'\u00e9tude.csv", "--exp_name", "job"]
    assert submit.main(["--", *flags]) == 0
    path = where / "job.sbatch"
    assert directives(path.read_text(encoding="utf-8"))["--output"] == f'"{where}/job-%j.log"'
    done = run_job(path)
    assert done.returncode == 0, done.stderr
    assert flags_given() == flags


def test_a_value_that_sbatch_cannot_hold_is_named_by_what_the_user_gave(here):
    with pytest.raises(InputError, match=r"^--output or --output_dir "):
        submit.main(["--", "--output_dir", 'a"b'])


def test_a_job_file_of_another_origin_is_left_alone(here):
    (here / "checkpoints").mkdir()
    other = here / "checkpoints" / "csr_exp.sbatch"
    other.write_text("#!/bin/bash\n")
    with pytest.raises(InputError, match="was not written by csr submit"):
        submit.main(["--"])
    assert other.read_text() == "#!/bin/bash\n"
    other.unlink()
    written("--nodes", "2", "--")
    assert directives(written("--nodes", "3", "--"))["--nodes"] == "3", "its own is replaced"


@pytest.mark.parametrize("option, value", [("time", "soon"), ("time", "1-2:3"), ("array", "1-2;id")])
def test_a_time_and_task_numbers_are_left_to_sbatch(option, value):
    text = written(f"--{option}", value, "--")
    assert directives(text)[f"--{option}"].strip('"') == value
    assert run_job("checkpoints/csr_exp.sbatch").returncode == 0, "a comment to the shell, whatever it holds"


def test_task_numbers_are_read_as_slurm_reads_them():
    assert task_numbers("1-3,7,10-20:5%2") == [1, 2, 3, 7, 10, 15, 20]


@pytest.mark.parametrize(
    "array", ["", "a", "9-1", "1-4:0", "1,,2", "-3", "1-999999999", "1-2;id", "9" * 5000]
)
def test_task_numbers_that_are_none_or_too_many_are_a_value_error(array):
    with pytest.raises(ValueError):
        task_numbers(array)


def test_names_for_slurm_are_plain():
    assert plain_name("a b/%j\n$(x)") == "a_b__j___x_"


# handing it over


def test_without_sbatch_there_is_one_line_and_no_file(here, monkeypatch):
    monkeypatch.setenv("PATH", str(here / "bin"))
    with pytest.raises(InputError, match="no sbatch on this machine"):
        submit.main(["--submit", "--"])
    assert not (here / "checkpoints").exists()


def test_submitting_prints_job_file_number_results_and_log(here, capsys):
    executable(here / "bin" / "sbatch", '#!/bin/bash\nprintf "%s\\0" "$@" > given\necho "41;cluster"\n')
    assert submit.main(["--submit", "--array", "1-2", "--", "--exp_name", "e"]) == 0
    assert Path("given").read_text().split("\0")[:-1] == ["--parsable", str(here / "checkpoints/e.sbatch")]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Job file: checkpoints/e.sbatch",
        "Submitted job 41: tasks 1-2",
        "Results:  checkpoints/e_%a",
        f"Log:      {here}/checkpoints/e-%A_%a.log",
    ]


def test_a_refusal_by_sbatch_is_reported_in_its_words(here):
    executable(here / "bin" / "sbatch", "#!/bin/bash\nprintf 'sbatch: error: %s\\n' one two >&2\nexit 1\n")
    with pytest.raises(InputError, match="sbatch refuses it: two$"):
        submit.main(["--submit", "--"])


# arrays


def test_tasks_of_an_array_write_folders_of_their_own(here):
    written("--array", "1-3", "--", "--exp_name", "e", "--lr", "1", path="checkpoints/e.sbatch")
    assert run_job("checkpoints/e.sbatch", **TASK).returncode == 0
    assert flags_given() == ["--exp_name", "e", "--lr", "1", "--exp_name", "e_2"]


def test_each_task_takes_the_flags_of_its_line(here):
    hostile = """--exp_name 'it'"'"'s $(touch pwned)' --lr 1e-3 # hot"""
    (here / "list.txt").write_text(f"# learning rates\n--exp_name low --lr 1e-5\n\n{hostile}")
    text = written("--experiments", "list.txt", "--", "--batch_size", "4")
    assert directives(text)["--array"] == "1-2"
    (here / "list.txt").write_text("changed afterwards")
    assert run_job("checkpoints/csr_exp.sbatch", **TASK).returncode == 0
    assert flags_given() == ["--batch_size", "4", "--exp_name", "it's $(touch pwned)", "--lr", "1e-3"]
    assert not list(here.rglob("pwned"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("--exp_name a\n--exp_name b --lr x", "row 2: argument --lr"),
        ("--exp_name a\n\n--exp_name a", "row 3: another"),
        ("--exp_name 'a", "row 1: No closing quotation"),
        ("# nothing\n", "no experiment in it"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(lines, message, here):
    (here / "list.txt").write_text(lines)
    with pytest.raises(InputError, match=message):
        submit.main(["--experiments", "list.txt", "--"])


@pytest.mark.parametrize(
    "array, message", [("1-2", "has no experiment 2"), ("0", "no experiment 0"), ("9-1", "give lines as 1-8")]
)
def test_tasks_without_an_experiment_are_refused(array, message, here):
    (here / "list.txt").write_text("--exp_name a")
    with pytest.raises(InputError, match=message):
        submit.main(["--experiments", "list.txt", "--array", array, "--"])
    assert not (here / "checkpoints").exists()


def test_experiments_that_are_submitted_are_listed_by_folder(here, capsys):
    executable(here / "bin" / "sbatch", "#!/bin/bash\necho 41\n")
    (here / "list.txt").write_text("--exp_name a\n--exp_name b\n--exp_name c\n")
    assert submit.main(["--submit", "--experiments", "list.txt", "--array", "1,3", "--"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:4]
    assert lines == ["Submitted job 41: 2 run(s)", "Results:  checkpoints/a", "Results:  checkpoints/c"]


@pytest.mark.parametrize("number", ["3", "1"])
def test_the_script_refuses_a_task_without_a_line(number, here):
    (here / "list").write_text("--exp_name 'open\n--exp_name b\n")
    script = ROOT / "scripts" / "train.sbatch"
    done = run_job(script, CSR_EXPERIMENTS="list", **{**TASK, "SLURM_ARRAY_TASK_ID": number})
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("csr: error: list: ")
    assert not Path("flags").exists()


# what a job does


def test_a_job_gives_the_ranks_where_they_meet_and_what_they_may_use(here):
    written("--")
    assert run_job("checkpoints/csr_exp.sbatch").returncode == 0
    seen = dict(line.partition("=")[::2] for line in Path("environment").read_text().splitlines())
    wanted = {
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "10007",
        "SRUN_CPUS_PER_TASK": "3",
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
    }
    assert {name: seen[name] for name in wanted} == wanted


def test_a_container_is_started_by_apptainer_with_the_gpus(here):
    executable(here / "bin" / "apptainer", "#!/bin/bash\n")
    executable(here / "bin" / "srun", '#!/bin/bash\nprintf "%s\\n" "$@" > words\n')
    written("--container", "my image.sif", "--")
    assert run_job("checkpoints/csr_exp.sbatch", SLURM_JOB_GPUS="0").returncode == 0
    words = Path("words").read_text().splitlines()
    assert words[words.index("apptainer") :] == [
        "apptainer",
        "exec",
        "--bind",
        str(here),
        "--pwd",
        str(here),
        "--nv",
        "my image.sif",
        "python",
        "-m",
        "csr.train",
    ]


def test_an_environment_that_is_not_there_is_reported(here):
    written("--venv", "nowhere", "--")
    done = run_job("checkpoints/csr_exp.sbatch")
    assert done.returncode == 2 and "no bin/python" in done.stderr


def requeued() -> list[str]:
    return Path("requeued").read_text().split() if Path("requeued").exists() else []


@pytest.mark.parametrize(
    ("code", "environment", "expected"),
    [
        (0, {}, (0, [])),
        (1, {}, (1, [])),
        (2, {}, (2, [])),
        (75, {}, (75, ["20007"])),
        (75, TASK, (75, ["20005_2"])),  # the array's number would mean all of its tasks
        (138, {}, (75, ["20007"])),  # killed by USR1 before csr listened
        (75, {"STATE": "COMPLETING"}, (75, [])),  # scancel, or another's requeue
        (75, {"STATE": "COMPLETING", "REASON": "TimeLimit"}, (75, ["20007"])),
        (75, {"SLURM_RESTART_COUNT": "3", "CSR_MAX_RESTARTS": "3"}, (75, [])),
    ],
)
def test_a_job_requeues_itself_when_it_was_pre_empted_and_then_only(code, environment, expected, here):
    written("--")
    done = run_job("checkpoints/csr_exp.sbatch", STAND_IN=str(code), **environment)
    assert (done.returncode, requeued()) == expected, done.stderr


@pytest.mark.parametrize(
    ("stand_in", "signals"), [("wait", [signal.SIGUSR1]), ("late", [signal.SIGTERM] * 3)]
)
def test_usr1_is_handed_on_and_a_wait_that_signals_end_continues(stand_in, signals, here):
    written("--")
    job = subprocess.Popen(
        ["bash", "checkpoints/csr_exp.sbatch"],
        env={**os.environ, **JOB, "STAND_IN": stand_in},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 30
    while not Path("waiting").exists() and time.monotonic() < until:
        time.sleep(0.02)
    for number in signals:
        job.send_signal(number)
        time.sleep(0.1)
    Path("go").touch()
    out, err = job.communicate(timeout=30)
    assert (job.returncode, requeued()) == (75, ["20007"]), (out, err)
    assert ("USR1: the ranks save" in out) is (stand_in == "wait")


def restart(*flags: str, **files: Any) -> subprocess.CompletedProcess[str]:
    written("--", *flags)
    folder = Path("checkpoints/csr_exp")
    for name, content in files.items():
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(content))
    return run_job("checkpoints/csr_exp.sbatch", SLURM_RESTART_COUNT="1")


def test_a_restart_resumes_instead_of_overwriting_what_it_has_done(here):
    assert restart("--overwrite", "--resume", "never", "--lr", "1", config={}).returncode == 0
    assert flags_given() == ["--resume", "never", "--lr", "1", "--resume", "auto"]


def test_a_restart_that_had_not_begun_does_what_the_first_start_was_to_do(here):
    assert restart("--overwrite", config={}, results={}).returncode == 0
    assert flags_given() == ["--overwrite"]


def test_a_job_that_finished_before_it_was_requeued_does_nothing(here):
    assert restart(config={}, results={}).returncode == 0
    Path("flags").unlink()
    done = run_job("checkpoints/csr_exp.sbatch", SLURM_RESTART_COUNT="2")
    assert done.returncode == 0 and "had finished already" in done.stdout and not Path("flags").exists()
