"""Rows of predictions, kept on their device batch by batch and gathered over ranks in data set order."""

from __future__ import annotations

import numpy as np
import torch

from csr.runtime import distributed


class RowAccumulator:
    """Rows of predictions with the index of their image, put in data set order over all ranks."""

    def __init__(self) -> None:
        self._rows: dict[str, list[torch.Tensor]] = {}

    def add(self, rows: dict[str, torch.Tensor]) -> None:
        """Keep rows (each (B, ...), one of them `position`) on their device: no sync."""
        for name, value in rows.items():
            value = value.detach()
            self._rows.setdefault(name, []).append(value.float() if value.is_floating_point() else value)

    def gather(self) -> dict[str, torch.Tensor]:
        """All ranks' rows on every rank's CPU, ordered by `position`. Collective.

        A rank may have no rows at all, when there are fewer images than ranks.
        """
        mine = {name: torch.cat(parts).cpu().numpy() for name, parts in self._rows.items()}
        parts = [p for p in distributed.all_gather_object(mine) if p]
        if not parts:
            return {}
        full = {name: torch.from_numpy(np.concatenate([p[name] for p in parts])) for name in parts[0]}
        order = torch.argsort(full["position"], stable=True)
        return {name: value[order] for name, value in full.items()}
