"""Collectives over real processes (fork, gloo), and no-ops in one."""

from __future__ import annotations

import os
import time

import pytest
import torch
from forked_ranks import on_ranks

from csr.evaluation.row_accumulator import RowAccumulator
from csr.runtime import distributed
from csr.runtime.errors import InputError

pytestmark = pytest.mark.dist


def test_objects_are_gathered_in_rank_order_and_broadcast_from_rank_0():
    def body():
        own = f"rank {distributed.rank()}"
        return distributed.all_gather_object(own), distributed.broadcast_object(own)

    assert on_ranks(body) == [(["rank 0", "rank 1"], "rank 0")] * 2


def test_an_input_error_of_one_rank_is_raised_on_all():
    def body():
        with distributed.errors_agreed():
            if distributed.rank() == 1:
                raise InputError("host b: no such folder")

    outcomes = on_ranks(body)
    assert [type(o) for o in outcomes] == [InputError] * 2
    assert {str(o) for o in outcomes} == {"host b: no such folder"}


def test_what_rank_0_does_and_what_stops_it_reaches_all():
    def body():
        def fail():
            raise OSError("no space left on device")

        first = distributed.on_main(lambda: distributed.rank() + 7)
        try:
            distributed.on_main(fail)
        except InputError as error:
            return first, str(error)

    assert on_ranks(body) == [(7, "no space left on device")] * 2


def test_work_that_outlasts_a_collectives_time_out_on_one_rank_is_waited_for():
    def body():
        began = time.monotonic()
        done = distributed.in_step(lambda: time.sleep(2.5 * distributed.rank()) or distributed.rank())
        return done, time.monotonic() - began > 2

    assert on_ranks(body, timeout_s=2) == [(0, True), (1, True)]


def test_rows_of_uneven_shards_come_back_whole_and_in_order_on_every_rank():
    def body():
        rows = RowAccumulator()
        own = [3, 0, 4] if distributed.rank() == 0 else ([1, 2] if distributed.rank() == 1 else [])
        if own:
            rows.add({"position": torch.tensor(own), "logit": torch.tensor(own) * 10.0})
        return rows.gather()["logit"].tolist()

    assert on_ranks(body, world=3) == [[0.0, 10.0, 20.0, 30.0, 40.0]] * 3


def test_buffers_become_the_mean_and_modules_rank_0s():
    def body():
        norm = torch.nn.BatchNorm1d(2)
        norm.running_mean.fill_(float(distributed.rank()))
        distributed.average_buffers(norm)
        mean = norm.running_mean.tolist()
        with torch.no_grad():
            norm.weight.fill_(float(distributed.rank() + 5))
        distributed.broadcast_module(norm)
        return mean, norm.weight.tolist()

    assert on_ranks(body) == [([0.5, 0.5], [5.0, 5.0])] * 2


def test_in_one_process_every_call_is_a_no_op():
    assert distributed.all_gather_object(3) == [3]
    assert distributed.broadcast_object("x") == "x"
    distributed.barrier()
    with pytest.raises(InputError), distributed.errors_agreed():
        raise InputError("bad")


@pytest.mark.parametrize("step, expected", [("0", "3"), (None, "0"), ("extern", "0")])
def test_sruns_rank_is_adopted_inside_a_step_only(monkeypatch, step, expected):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that monkeypatch removes what the call sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "12345")
    if step is not None:
        monkeypatch.setenv("SLURM_STEP_ID", step)
    distributed.adopt_launcher_environment()
    assert os.environ["RANK"] == expected
