"""Two linear maps, fitted to frozen representations: the probe of arXiv 2509.21136."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mirrorlib.alignment import cosine_scores
from mirrorlib.data.pairing import LEVELS, Pairing
from mirrorlib.evaluation.representations import Represented
from mirrorlib.randomness import seeded


@dataclass(frozen=True)
class Maps:
    """How maps are fitted. dim: of the space that they meet in. batch: rows, at most."""

    dim: int = 64
    steps: int = 600
    temperature: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    batch: int = 128


def fit_and_map(
    train: Represented, test: Represented, level: Pairing, maps: Maps, seed: int
) -> tuple[Tensor, Tensor]:
    """Held-out rows through maps that were fitted to the training pairs.

    Bidirectional InfoNCE whose positives share the `level`; AdamW. Representations are
    standardised by the training split's mean and deviation. Returns (E, Z) of u and of e. A
    function of the seed and the arguments alone.
    """
    u, e = _standardise(train.u, test.u), _standardise(train.e, test.e)
    column = LEVELS.index(level)
    with seeded("probe", seed, column):
        fitted = _fit(u[0], e[0], train.labels[:, column], maps)
    with torch.no_grad():
        return fitted[0](u[1]), fitted[1](e[1])


def _fit(u: Tensor, e: Tensor, labels: Tensor, maps: Maps) -> nn.ModuleList:
    fitted = nn.ModuleList([nn.Linear(u.shape[1], maps.dim), nn.Linear(e.shape[1], maps.dim)])
    optimizer = torch.optim.AdamW(
        fitted.parameters(), lr=maps.learning_rate, weight_decay=maps.weight_decay
    )
    for _ in range(maps.steps):
        rows = torch.randperm(len(u))[: maps.batch]
        scores = cosine_scores(fitted[0](u[rows]), fitted[1](e[rows])) / maps.temperature
        same = labels[rows, None] == labels[None, rows]
        target = same / same.sum(1, keepdim=True)
        loss = -(target * (scores.log_softmax(1) + scores.T.log_softmax(1))).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return fitted


def _standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = train.mean(0), train.std(0) + 1e-4
    return (train - mean) / deviation, (test - mean) / deviation
