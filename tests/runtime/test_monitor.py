"""The writers of a run: each rank makes what it needs of the run's folder on its own host."""

from __future__ import annotations

from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS


def test_a_rank_whose_host_has_no_folder_of_the_run_makes_its_log_without_a_board(tmp_path, monkeypatch):
    monkeypatch.setattr(PROGRESS, "log", None)
    monitor = Monitor(tmp_path / "out" / "run", quiet=True, board=False)
    monitor.log("begins")
    monitor.close()
    (log,) = (tmp_path / "out" / "run" / "logs").iterdir()
    assert log.read_text().endswith(" begins\n") and not (tmp_path / "out" / "run" / "tensorboard").exists()
