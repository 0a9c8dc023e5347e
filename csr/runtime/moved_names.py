"""Modules that users called by name and that lie elsewhere now: an import of one fails with its new name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "csr.interaction": "csr.model.interaction",
    "csr.loading": "csr.model.sharing.loading",
    "csr.losses": "csr.stages.losses",
    "csr.metrics": "csr.evaluation.metrics",
    **{
        f"csr.{name}": f"python -m csr {name}"
        for name in ("evaluate", "predict", "export", "phantom", "launch")
    },
    **{f"csr.{name}": f"python -m csr {name}" for name in ("submit", "doctor", "cache", "bench")},
}


class MovedNames(MetaPathFinder):
    """Found last on sys.meta_path: it sees only names that no other finder knows."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for every other name.

        Raises:
            ModuleNotFoundError: naming what to import or to type in place of a moved name.
        """
        if name in MOVED:
            raise ModuleNotFoundError(f"{name} has moved: use {MOVED[name]}", name=name)
        return None
