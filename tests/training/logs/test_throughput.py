"""Shares of time sum to one, MFU is that by hand, collectives are timed, peaks are kept."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import pytest
import torch

from csr.engine import flops, matmul_peak
from csr.runtime import collective_time
from csr.runtime.collective_time import CollectiveClock
from csr.training.logs import profiler, throughput
from csr.training.logs.throughput import PARTS, Spent, StageTelemetry

EPOCH = Spent(
    train=10.0,
    evaluation=2.0,
    caches=3.0,
    saving=1.0,
    data=0.5,
    communication=1.5,
    saving_within=1.0,
    images=200,
    full_images=200,
)


class Peak:
    """A device whose peak is measured as the given numbers, one after another."""

    def __init__(self, *rates: float) -> None:
        self._rates, self.num_measured = list(rates), 0

    def flops_per_s(self) -> float:
        self.num_measured += 1
        return self._rates.pop(0)

    measured_again = flops_per_s


def test_shares_are_those_of_the_whole_time_and_mfu_is_by_hand():
    rates = StageTelemetry(flops_per_image=3e9, peak=Peak(1e11)).epoch(EPOCH)
    shares = {name: rates[f"{name}_share"] for name in PARTS}
    expected = {
        "compute": 7 / 16,
        "data": 0.5 / 16,
        "communication": 1.5 / 16,
        "evaluation": 2 / 16,
        "caches": 3 / 16,
        "saving": 2 / 16,
    }
    assert shares == pytest.approx(expected) and sum(shares.values()) == pytest.approx(1.0)
    assert rates["images_per_s"] == 20.0
    assert rates["model_tflops"] == pytest.approx(20 * 3e9 / 1e12)
    assert rates["mfu"] == pytest.approx(20 * 3e9 / 1e11)


def test_the_peak_is_measured_after_the_first_epoch_and_not_before():
    peak = Peak(1e11)
    kept = StageTelemetry(flops_per_image=3e9, peak=peak)
    assert peak.num_measured == 0
    kept.epoch(EPOCH)
    kept.epoch(EPOCH)
    assert peak.num_measured == 1


def test_what_is_faster_than_the_peak_is_measured_once_more():
    peak = Peak(4e10, 1.2e11)  # 20 images/s of 3 GFLOP are 6e10 FLOP/s
    kept = StageTelemetry(flops_per_image=3e9, peak=peak)
    assert kept.epoch(EPOCH)["mfu"] == pytest.approx(0.5) == kept.stage()["mfu"]
    assert peak.num_measured == 2


def test_no_mfu_above_one_is_told():
    peak = Peak(4e10, 5e10)
    kept = StageTelemetry(flops_per_image=3e9, peak=peak)
    assert math.isnan(kept.epoch(EPOCH)["mfu"]) and math.isnan(kept.stage()["mfu"])
    assert peak.num_measured == 2, "not at every epoch"
    text = line(compute=0.9, mfu=math.nan)
    assert "compute binds: 8.0 images/s" in text and "no MFU" in text and "nan" not in text
    assert "run `csr bench peak` while" in text


def test_the_peak_of_ranks_that_share_a_cpu_is_measured_with_their_threads(monkeypatch):
    monkeypatch.setattr(throughput.distributed, "local_world_size", lambda: 2)
    assert "run `csr bench peak --ranks 2` while" in line(compute=0.9, mfu=math.nan)


def test_a_stage_beside_other_processes_says_so():
    assert "40 % of it waiting for a core that others had" in line(compute=0.9, without_core=0.4)
    assert "waiting" not in line(compute=0.9, without_core=0.05) + line(compute=0.9, without_core=math.nan)
    assert "waiting" not in line(compute=0.9, without_core=0.4, seconds=5.0)


def test_waiting_for_a_core_is_what_the_kernel_counts():
    kept = StageTelemetry(flops_per_image=3e9, peak=Peak(1e11))
    kept.epoch(EPOCH)
    share = kept.stage()["without_core_share"]
    assert math.isnan(share) or 0.0 <= share <= 1.0


def test_a_stage_is_the_sum_of_its_epochs():
    kept = StageTelemetry(flops_per_image=1e9, peak=Peak(1e11))
    kept.epoch(EPOCH)
    small = EPOCH._replace(train=30.0, evaluation=0.0, caches=0.0, saving=0.0, data=29.0, communication=0.0)
    rates = kept.epoch(small._replace(saving_within=0.0, full_images=50))  # of half the side
    assert rates["images_per_s"] == pytest.approx(200 / 30)
    assert rates["model_tflops"] == pytest.approx(50 / 30 * 1e9 / 1e12)
    assert rates["mfu"] == pytest.approx(50 / 30 * 1e9 / 1e11)
    rates = kept.stage()
    assert rates["mfu"] == pytest.approx(250 / 40 * 1e9 / 1e11)
    assert rates["seconds"] == pytest.approx(46.0)
    assert rates["data_share"] == pytest.approx(29.5 / 46) and rates["images_per_s"] == pytest.approx(10.0)


def test_overlapping_communication_never_makes_compute_negative():
    spent = EPOCH._replace(communication=100.0)
    assert spent.by_part()["compute"] == 0.0


def line(*, save_every: int = 0, advise: bool = True, seconds: float = 60.0, **shares: float) -> str:
    rates = {f"{name}_share": shares.get(name, 0.0) for name in PARTS}
    more = {"seconds": seconds, "images_per_s": 8.0, "model_tflops": 0.5, "mfu": shares.get("mfu", 0.5)}
    more["without_core_share"] = shares.get("without_core", 0.0)
    return throughput.line_of({**rates, **more}, stage_number=2, save_every=save_every, advise=advise)


def test_the_line_names_what_binds():
    assert "compute binds: 8.0 images/s per rank, 0.5 TFLOP/s each, 50 %" in line(compute=0.9, data=0.1)
    assert "too small" in line(compute=0.9, mfu=0.001)
    assert "most on data (what helps: more --workers" in line(data=0.6, compute=0.4)
    text = line(communication=0.5, compute=0.499, data=0.001)
    assert text.startswith("Stage 2 took 60.0 s: compute 50 %, communication 50 %; most on communication (")


def test_advice_is_given_where_it_can_help():
    assert "--save_every" not in line(saving=0.9) and "faster disk" in line(saving=0.9)
    assert "a larger --save_every, or a faster disk" in line(saving=0.9, save_every=10)
    for short in (line(saving=0.9, seconds=9.9), line(saving=0.9, advise=False)):
        assert short.endswith("saving 90 %")


def test_ranks_are_averaged_and_the_slowest_is_told(monkeypatch):
    rates = StageTelemetry(flops_per_image=1e9, peak=Peak(1e11)).epoch(EPOCH)
    other = {**rates, "images_per_s": 10.0, "data_share": 0.4}
    monkeypatch.setattr(throughput.distributed, "all_gather_object", lambda value: [value, other])
    mean = throughput.over_ranks(rates)
    assert mean["images_per_s"] == 15.0 and mean["slowest_images_per_s"] == 10.0
    assert mean["data_share"] == pytest.approx((0.5 / 16 + 0.4) / 2)


def test_time_in_collectives_counts_nested_ones_once():
    clock = CollectiveClock()
    with clock:
        time.sleep(0.02)
        with clock:
            time.sleep(0.02)
    assert 0.04 <= clock.take() < 0.5
    assert clock.take() == 0.0


def test_a_gpus_marks_are_read_when_it_has_passed_them(monkeypatch):
    class Mark:
        passed = False

        def query(self) -> bool:
            return Mark.passed

        def elapsed_time(self, other: Mark) -> float:
            return 250.0  # ms

    monkeypatch.setattr(collective_time, "_event", Mark)
    clock = CollectiveClock()
    assert not clock.is_pending()
    with clock:
        pass
    assert clock.is_pending(), "the GPU has not ended it"
    assert clock.take() == 0.0
    Mark.passed = True
    assert not clock.is_pending()
    assert clock.take() == 0.25 and clock.take() == 0.0


def test_a_gpu_that_failed_is_left_to_the_thread_that_computes(monkeypatch):
    class Mark:
        def query(self) -> bool:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(collective_time, "_event", Mark)
    clock = CollectiveClock()
    with clock:
        pass
    assert not clock.is_pending()


def test_a_backends_collectives_are_timed_and_give_what_they_gave():
    calls = []
    backend = SimpleNamespace(
        all_reduce=lambda tensor, op=None: calls.append((tensor, op)) or time.sleep(0.02) or "work",
        get_rank=lambda: 0,
    )
    rank = backend.get_rank
    collective_time.watch(backend)
    collective_time.watch(backend)
    collective_time.IN_COLLECTIVES.take()
    assert backend.all_reduce("t", op="sum") == "work" and calls == [("t", "sum")]
    assert 0.02 <= collective_time.IN_COLLECTIVES.take() < 0.5
    assert backend.get_rank is rank


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSR_CACHE_DIR", str(tmp_path / "caches"))
    matmul_peak.peak.cache_clear()
    yield tmp_path / "caches"
    matmul_peak.peak.cache_clear()


CPU = torch.device("cpu")


def test_the_best_peak_of_all_runs_counts(cache, monkeypatch):
    rates = iter([5e9, 2e9, 7e9])
    monkeypatch.setattr(matmul_peak, "fastest_product", lambda *args, **kwargs: next(rates))
    for expected in (5e9, 5e9, 7e9):
        assert matmul_peak.peak(CPU, "fp32") == expected
        assert matmul_peak.peak(CPU, "fp32") == expected, "measured once in a process"
        matmul_peak.peak.cache_clear()
    (key,) = json.loads(matmul_peak.file().read_text())
    assert f"{torch.get_num_threads()} threads" in key and torch.__version__ in key
    assert [p.name for p in cache.iterdir()] == ["matmul-peaks.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"x": 3}', '{"%s": {"fp32": "fast"}}'])
def test_a_damaged_file_of_peaks_is_no_reason_to_stop(cache, monkeypatch, text):
    cache.mkdir()
    matmul_peak.file().write_text(text.replace("%s", matmul_peak._key(CPU)))
    monkeypatch.setattr(matmul_peak, "fastest_product", lambda *args, **kwargs: 5e9)
    assert matmul_peak.peak(CPU, "fp32") == 5e9


def test_where_nothing_can_be_kept_a_peak_is_measured(cache, monkeypatch):
    cache.write_text("no folder")
    monkeypatch.setattr(flops, "CPU_SIDES", (32,))
    assert math.isfinite(matmul_peak.peak(CPU, "fp32"))


def test_a_profile_is_a_trace_of_warm_steps(tmp_path, capfd):
    lines: list[str] = []
    file = tmp_path / "profile" / "stage.pt.trace.json"
    with profiler.profiled(file, steps=2, report=lines.append) as step:
        for _ in range(6):
            torch.ones(8, 8) @ torch.ones(8, 8)
            step()
    events = json.loads(file.read_text())["traceEvents"]
    steps = {e["name"] for e in events if str(e.get("name", "")).startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#2", "ProfilerStep#3"}
    assert sum(e.get("name") == "aten::matmul" for e in events) == 2
    assert str(file) in lines[0]
    assert capfd.readouterr() == ("", ""), "lines of the profiler itself"


def test_too_few_steps_for_a_profile_are_told_and_none_costs_nothing(tmp_path, monkeypatch):
    lines: list[str] = []
    with profiler.profiled(tmp_path / "a.json", steps=2, report=lines.append) as step:
        step()
    assert len(lines) == 1 and "no trace" in lines[0] and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(torch.profiler, "profile", None)
    with profiler.profiled(tmp_path / "a.json", steps=0, report=lines.append) as step:
        step()
    assert len(lines) == 1


class Mark:
    """An event of a stream, passed or not."""

    def __init__(self, at_ms: float, passed: bool = True) -> None:
        self.at_ms, self.passed = at_ms, passed

    def query(self) -> bool:
        return self.passed

    def elapsed_time(self, later: Mark) -> float:
        return later.at_ms - self.at_ms


def test_a_collective_of_another_stream_that_is_done_first_counts_once():
    clock = CollectiveClock()
    slow = Mark(900.0, passed=False)
    clock._events = [(Mark(0.0), slow), (Mark(100.0), Mark(150.0))]
    assert clock.take() == pytest.approx(0.05)
    assert clock.take() == 0.0
    slow.passed = True
    assert clock.take() == pytest.approx(0.9) and clock.take() == 0.0
