"""Signals only set a flag; the ranks agree on it between steps; a second interrupt is not waited for."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from forked_ranks import on_ranks

from csr.cli.exit_codes import run_command
from csr.runtime import distributed, signals
from csr.runtime.errors import InputError, PreemptedError
from csr.runtime.signals import CAUGHT, StopRequest


@pytest.mark.parametrize("number", CAUGHT)
def test_a_signal_sets_the_flag_and_the_handlers_come_back_after(number):
    before = signal.getsignal(number)
    with StopRequest().listening() as stop:
        assert not stop.due()
        os.kill(os.getpid(), number)
        assert stop.due() and stop.requested
        with pytest.raises(PreemptedError, match=f"{number.name}: stopped here: run the same command again"):
            stop.check("here")
    assert signal.getsignal(number) is before
    assert "csr-signals" not in alive()


def alive() -> set[str]:
    time.sleep(0.05)
    return {thread.name for thread in threading.enumerate()}


def test_a_preempted_command_tells_one_line_and_returns_75(capsys):
    def command(argv: object) -> int:
        with StopRequest().listening() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            stop.check("in epoch 1")
        return 0

    assert run_command(command) == 75
    reported = "csr: pre-empted: SIGTERM: stopped in epoch 1: run the same command again to resume\n"
    assert capsys.readouterr().err == reported


def test_a_launcher_that_repeats_an_interrupt_is_no_second_one(monkeypatch):
    clock = iter([10.0, 10.3, 14.0])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    stop = StopRequest()
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(clock))
    assert [stop._is_second() for _ in range(3)] == [False, False, True]


@pytest.mark.dist
def test_all_ranks_stop_at_the_same_step_though_one_is_signalled():
    def body() -> int:
        stop = StopRequest()
        for step in range(1000):
            if distributed.rank() == 1 and step == 30:
                stop.signal_name = "SIGTERM"
            if stop.due():
                return step
            time.sleep(0.001)
        return -1

    first, second = on_ranks(body)
    assert first == second and 30 <= first < 200


@pytest.mark.dist
def test_a_rank_that_leaves_a_pass_early_takes_the_others_along():
    def body() -> str:
        try:
            with distributed.errors_agreed():
                if distributed.rank() == 1:
                    raise PreemptedError("SIGUSR1: stopped")
        except PreemptedError as error:
            return str(error)
        return "went on"

    assert on_ranks(body) == ["SIGUSR1: stopped"] * 2


@pytest.mark.dist
def test_ranks_with_other_options_data_or_code_are_named():
    from csr.runtime import fingerprint

    def body() -> str:
        options = {"lr": 0.1, "seed": distributed.rank()}
        try:
            fingerprint.agree("their options", options)
        except InputError as error:
            return str(error)
        return "agreed"

    reported = on_ranks(body)
    assert reported[0] == reported[1]
    assert "rank 0" in reported[0] and "rank 1" in reported[0] and "(seed: 0 and 1)" in reported[0]


def test_hashes_depend_on_what_they_are_of():
    import numpy as np

    from csr.runtime.fingerprint import hash_of, of_code

    assert hash_of(np.zeros(3), ["a"]) == hash_of(np.zeros(3), ["a"])
    others = {
        hash_of(np.zeros((3, 1)), ["a"]),
        hash_of(np.zeros(3, np.float32), ["a"]),
        hash_of(np.zeros(3), ["b"]),
    }
    assert hash_of(np.zeros(3), ["a"]) not in others and len(others) == 3
    assert of_code() == of_code() and len(of_code()) == 64
