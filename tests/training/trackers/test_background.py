"""A tracker that fails, hangs or lags never raises, never waits, and says so once."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csr.runtime.errors import InputError
from csr.training.trackers import tracker as packages
from csr.training.trackers import trackers as all_trackers
from csr.training.trackers.background import Background
from csr.training.trackers.record import Record
from csr.training.trackers.tracker import check_installed
from csr.training.trackers.trackers import Trackers


class Fake:
    """Keeps what it is told; `fails` is called with the name of each job before it."""

    def __init__(self, told: list[Any], fails: Callable[[str], None] = lambda job: None) -> None:
        self.told, self._fails = told, fails

    def _keep(self, *job: Any) -> None:
        self._fails(job[0])
        self.told.append(job)

    def open(self, kept: str | None) -> str:
        self._keep("open", kept)
        return kept or "run 1"

    def describe(self, options: Any, facts: Any) -> None:
        self._keep("describe", dict(options), dict(facts))

    def metrics(self, values: Any, *, step: int) -> None:
        self._keep("metrics", dict(values), step)

    def picture(self, tag: str, image_HW3: np.ndarray, *, step: int) -> None:
        self._keep("picture", tag, image_HW3.shape, step)

    def files(self, folder: Path) -> None:
        self._keep(
            "files", sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        )

    def close(self, exit_code: int) -> None:
        self._keep("close", exit_code)


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, so that no thread is left behind."""
    opened = threading.Event()
    yield opened
    opened.set()


def background(folder: Path, fake: Fake, warned: list[str], **more: Any) -> Background:
    begin: Any = lambda tracker: tracker.describe({"lr": 0.1}, {})  # noqa: E731
    return Background("fake", lambda: fake, Record(folder, "fake"), begin=begin, warn=warned.append, **more)


def metric(one: Background, step: int, value: float = 1.0) -> None:
    one.add_step("loss", step, lambda tracker: tracker.metrics({"loss": value}, step=step))


def test_jobs_are_done_in_their_order_and_a_resumed_run_sends_none_twice(tmp_path, told, warned):
    one = background(tmp_path, Fake(told), warned)
    for step in (1, 2, 3):
        metric(one, step)
    one.close(75, patience_s=10)
    steps = [("metrics", {"loss": 1.0}, step) for step in (1, 2, 3)]
    assert told == [("open", None), ("describe", {"lr": 0.1}, {}), *steps, ("close", 75)]
    told.clear()
    resumed = background(tmp_path, Fake(told), warned)
    for step in (2, 3, 4):  # its checkpoint was of step 1
        metric(resumed, step)
    resumed.add_step("other", 2, lambda tracker: tracker.metrics({"other": 0.0}, step=2))
    resumed.close(0, patience_s=10)
    assert told == [
        ("open", "run 1"),
        ("describe", {"lr": 0.1}, {}),
        ("metrics", {"loss": 1.0}, 4),
        ("metrics", {"other": 0.0}, 2),
        ("close", 0),
    ]
    assert not warned


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: .*No space left on device"),
        (ConnectionError("first line\nsecond line"), "ConnectionError: first line"),
        (ValueError(), "ValueError: ValueError"),
        (SystemExit(1), "SystemExit: 1"),
    ],
)
@pytest.mark.parametrize("where", ["open", "metrics", "close"])
def test_one_that_fails_is_left_out_with_one_line(where, error, said, tmp_path, told, warned):
    def fails(job: str) -> None:
        if job == where:
            raise error

    one = background(tmp_path, Fake(told, fails), warned)
    for step in range(20):
        metric(one, step)
    one.close(0, patience_s=10)
    metric(one, 21)
    (line,) = warned
    assert re.fullmatch(rf"Notice: --track fake: {said}; the run goes on without it", line), line
    assert not any(job[0] in ("close", where) for job in told)


def test_one_that_hangs_holds_nothing_up_and_is_left_out_at_the_end(tmp_path, told, warned, gate):
    def hangs(job: str) -> None:
        if job == "metrics":
            gate.wait()

    one = background(tmp_path, Fake(told, hangs), warned)
    began = time.process_time()
    for step in range(500):
        metric(one, step)
    assert time.process_time() - began < 1.0 and not warned
    one.close(0, patience_s=0.3)
    assert warned == [
        "Notice: --track fake: it did not answer for 0.3 s at the end of the run; the run goes on without it"
    ]


def test_one_that_is_slow_but_moves_on_is_waited_for(tmp_path, told, warned):
    one = background(tmp_path, Fake(told, lambda job: time.sleep(0.2)), warned)
    for step in range(4):
        metric(one, step)
    one.close(0, patience_s=1.0)  # less than all of it takes
    assert told[-1] == ("close", 0) and not warned


def test_one_that_lags_too_far_behind_is_left_out(tmp_path, told, warned, gate):
    one = background(tmp_path, Fake(told, lambda job: gate.wait() or None), warned, most_waiting=5)
    for step in range(50):
        metric(one, step)
    assert warned == ["Notice: --track fake: it is too slow for this run; the run goes on without it"]
    one.close(0, patience_s=10)


def test_all_are_told_the_same_and_one_that_fails_costs_the_others_nothing(
    tmp_path, warned, monkeypatch, told
):
    def fails(job: str) -> None:
        raise ConnectionError("no network")

    makers = {"mlflow": lambda folder: Fake([], fails), "wandb": lambda folder: Fake(told)}
    monkeypatch.setattr(all_trackers, "MAKERS", makers)
    (tmp_path / "final_model.pth").write_bytes(b"weights")
    for name in all_trackers.FILES:
        (tmp_path / name).write_text("{}")
    both = Trackers(
        ("tensorboard", "mlflow", "wandb"), tmp_path, options={"lr": 1}, facts={"x": 2}, warn=warned.append
    )
    both.scalars({"a": 1.0, "b": float("nan"), "c": float("inf")}, step=1)
    both.scalars({"nothing": float("nan")}, step=1)
    both.figure("picture", np.zeros((4, 5, 3), np.uint8), step=1)
    both.model(is_csr=False)
    both.close(0)
    files = sorted([*all_trackers.FILES, "final_model.pth"])
    assert told == [
        ("open", None),
        ("describe", {"lr": 1}, {"x": 2}),
        ("metrics", {"a": 1.0}, 1),
        ("picture", "picture", (4, 5, 3), 1),
        ("files", files),
        ("close", 0),
    ]
    assert len(warned) == 1 and "--track mlflow: ConnectionError: no network" in warned[0]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": 3}', '{"id": "a", "sent": {"loss": "x"}}'])
def test_a_record_that_cannot_be_read_begins_anew(text, tmp_path):
    (tmp_path / "tracker-fake.json").write_text(text)
    record = Record(tmp_path, "fake")
    assert record.id is None and record.is_new("loss", 0)


def test_packages_that_are_missing_are_named_with_the_command(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(packages, "_is_installed", lambda package: package in ("tensorboard", "mlflow"))
    check_installed(("tensorboard",))
    with pytest.raises(
        InputError, match=r"^--track wandb needs wandb: pip install -e '.\[wandb\]' in the clone"
    ):
        check_installed(("tensorboard", "wandb"))
    with pytest.raises(InputError, match=r"^--track mlflow needs sqlalchemy and alembic: pip install"):
        check_installed(("mlflow",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    check_installed(("mlflow",))


def test_a_folder_of_a_packages_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_of_nobody").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not packages._is_installed("wandb_of_nobody") and packages._is_installed("numpy")


def test_settings_of_the_named_trackers_are_made_where_the_user_has_none(monkeypatch):
    monkeypatch.setattr(packages.os, "environ", {"MLFLOW_HTTP_REQUEST_TIMEOUT": "7"})
    packages.set_environment(("tensorboard", "mlflow"))
    assert packages.os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert packages.os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "WANDB_ERROR_REPORTING" not in packages.os.environ
