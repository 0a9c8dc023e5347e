"""Modules that users called by name and that lie elsewhere now: an import of one fails with its new name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_COMMANDS = ("evaluate", "predict", "export", "phantom", "launch", "submit", "doctor", "cache", "bench")
_MAIN = ".__main__"  # `python -m csr.explain` looks for it in what is a package today
MOVED = {
    "csr.interaction": "csr.model.interaction",
    "csr.loading": "csr.model.sharing.loading",
    "csr.losses": "csr.stages.losses",
    "csr.metrics": "csr.evaluation.metrics",
    **{f"csr.{name}": f"python -m csr {name}" for name in _COMMANDS},
    **{f"csr.{name}{_MAIN}": f"python -m csr {name}" for name in ("explain", "serve")},
    f"csr.cli{_MAIN}": "python -m csr",
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
            old = name.removesuffix(_MAIN)
            raise ModuleNotFoundError(f"{old} has moved: use {MOVED[name]}", name=name)
        return None
