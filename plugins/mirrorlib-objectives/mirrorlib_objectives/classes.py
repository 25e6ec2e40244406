"""Sums over the rows that share a label: positives without a mask of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib_objectives.tiles import spans


class Classes:
    """The labels of the own rows, (B,) int64, and how many rows of all processes have each."""

    def __init__(self, labels: Tensor) -> None:
        self.values, self.place = labels.unique(return_inverse=True)
        self.counts = torch.zeros_like(self.values)

    def count(self, found: tuple[Tensor, Tensor]) -> None:
        """found: by `find`, of the labels of any process."""
        if len(self.values):
            place, known = found
            self.counts.index_add_(0, place, known.long())

    def find(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Place among the classes of each of labels: (C,), and whether it is one of them.

        Of no meaning where there is no class.
        """
        last = max(len(self.values) - 1, 0)
        place = torch.searchsorted(self.values, labels.contiguous()).clamp_max_(last)
        return place, self.values[place] == labels if len(self.values) else place == 0


class ClassSums:
    """Sums of rows (C, Z) of all processes, by class."""

    def __init__(self, classes: Classes, like: Tensor) -> None:
        self.classes = classes
        self.sums = like.new_zeros(len(classes.values), like.shape[1])

    def add(
        self, rows: Tensor, found: tuple[Tensor, Tensor], weights: Tensor | None = None
    ) -> None:
        """rows: (C, Z) of any process. found: of their labels, by `Classes.find`; those of no
        class are left out. weights: (C,), or None for ones."""
        if not len(self.sums):
            return
        place, known = found
        factor = known.to(rows.dtype) if weights is None else known * weights
        for part in spans(len(rows)):
            self.sums.index_add_(0, place[part], rows[part] * factor[part, None])

    def excess(self, x: Tensor, partner: Tensor) -> Tensor:
        """Inner product of each own row x with the mean of its class less its partner: (B,).

        x, partner: (B, Z). Exactly 0 where the partner is the whole class.
        """
        excess, mean, place = x.new_empty(len(x)), self._mean(), self.classes.place
        for rows in spans(len(x)):
            excess[rows] = (x[rows] * (mean[place[rows]] - partner[rows])).sum(1)
        return excess

    def add_excess(self, x: Tensor, less: Tensor, weights: Tensor | None = None) -> None:
        """Adds to each own row x the mean of its class less a row of `less`, times weights.

        x, less: (B, Z). weights: (B,), or None for ones.
        """
        mean, place = self._mean(), self.classes.place
        for rows in spans(len(x)):
            part = mean[place[rows]] - less[rows]
            x[rows] += part if weights is None else part * weights[rows, None]

    def _mean(self) -> Tensor:
        return self.sums / self.classes.counts[:, None]
