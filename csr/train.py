"""`csr train`: flags -> prepare -> three stages -> results. What every launcher starts (`-m csr.train`)."""

from __future__ import annotations

import sys

from csr.cli.exit_codes import exit_process, run_command
from csr.cli.text_encoding import ensure_utf8_names
from csr.config.flags import parse_train_flags
from csr.runtime import ranks
from csr.runtime.progress import PROGRESS
from csr.runtime.startup import collector


def main(argv: list[str] | None = None) -> int:
    """Check everything, then train three stages, test, and write the results.

    Args:
        argv: flags; None reads those of this process.

    Returns:
        The exit code of a run that came to its end.

    Raises:
        InputError: anything wrong with flags, files, hosts or data; nothing was written.
        StoppedError: training could not continue.
        PreemptedError: a signal; the same command resumes.
    """
    notice = ranks.adopt_launcher_environment()
    if notice:
        print(notice, file=sys.stderr, flush=True)
    given = parse_train_flags(argv)  # before what takes seconds to import: --help answers at once
    with collector.paused():
        from csr.runtime.signals import StopRequest
        from csr.training.prepare import prepare
        from csr.training.run import Run, opened_folder, rehearse

    PROGRESS.restart()
    with StopRequest().listening() as stop:
        prepared = prepare(given, stop)  # nothing is written before all checks have passed
        with collector.sparing_present():  # engines are collected as they close
            if given.run.dry_run:
                return rehearse(prepared, stop)
            with opened_folder(prepared) as folder:
                with Run(prepared, folder, stop=stop) as run:
                    run.train_stages()  # concept, prototype, task; or what is left of them
                    run.finish(run.test())
    return 0


if __name__ == "__main__":
    ensure_utf8_names()
    exit_process(run_command(main))
