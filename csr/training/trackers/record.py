"""tracker-NAME.json of a run: in which run of a tracker it is written down, and up to which steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr.runtime.files import write_json
from csr.runtime.json_file import read_json

PATTERN = "tracker-*.json"


class Record:
    """The id of a run in one tracker, and the last step of each series that was sent there.

    A resumed run does steps again that were sent before it died; they are not sent twice.

    Args:
        folder: of the run; a record of an earlier process is read.
        tracker: its name.
    """

    def __init__(self, folder: Path, tracker: str) -> None:
        self._path = folder / PATTERN.replace("*", tracker)
        kept = self._read()
        self.id: str | None = kept.get("id")
        self._sent: dict[str, int] = dict(kept.get("sent", {}))

    def _read(self) -> dict[str, Any]:
        try:
            kept = read_json(self._path)
        except (OSError, ValueError):
            return {}
        whole = (
            isinstance(kept, dict) and isinstance(kept.get("id"), str) and isinstance(kept.get("sent"), dict)
        )
        return kept if whole and all(isinstance(step, int) for step in kept["sent"].values()) else {}

    def is_new(self, series: str, step: int) -> bool:
        """Return whether a step of a series was not sent yet."""
        return step > self._sent.get(series, -1)

    def keep(self, run_id: str) -> None:
        """Write down the id of a run that was begun, or is gone on with."""
        if run_id != self.id:
            self.id, self._sent = run_id, {}
            self._write()

    def sent(self, series: str, step: int) -> None:
        """Write down that a step was sent."""
        self._sent[series] = step
        self._write()

    def _write(self) -> None:
        write_json(self._path, {"id": self.id, "sent": self._sent})
