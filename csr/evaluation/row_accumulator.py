"""Rows of predictions, kept on their device batch by batch and gathered over ranks in data set order."""

from __future__ import annotations

import numpy as np
import torch

from csr.runtime import distributed


class RowAccumulator:
    """Rows of predictions with the place of their image, put in data set order over all ranks."""

    def __init__(self) -> None:
        self._rows: dict[str, list[torch.Tensor]] = {}

    def add(self, rows: dict[str, torch.Tensor]) -> None:
        """Keep rows, name -> (B, ...) with `position` (B,) among them, on their device: no sync."""
        for name, value in rows.items():
            value = value.detach()
            self._rows.setdefault(name, []).append(value.float() if value.is_floating_point() else value)

    def gather(self) -> dict[str, torch.Tensor]:
        """Return all ranks' rows, name -> (N, ...), on every rank's CPU, ordered by `position`. Collective.

        A rank may have no rows at all, when there are fewer images than ranks; without any row the result
        is empty.
        """
        own = {name: torch.cat(parts).cpu().numpy() for name, parts in self._rows.items()}
        ranks = [rows for rows in distributed.all_gather_object(own) if rows]
        if not ranks:
            return {}
        full = {name: torch.from_numpy(np.concatenate([rows[name] for rows in ranks])) for name in ranks[0]}
        order = torch.argsort(full["position"], stable=True)
        return {name: value[order] for name, value in full.items()}
