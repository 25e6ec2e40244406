"""How well observer and executor agree on held-out episodes.

Two recalls: through the projectors that were trained (they exist only where an objective was),
and through *fresh* linear maps fitted on the frozen representations of the training episodes,
with one split and one budget for every arm: the only recall that is compared across arms
(the probe of arXiv 2509.21136).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.alignment import (
    chance_recall_at_k,
    cosine_scores,
    mutual_information_bound,
    recall_at_k,
)
from mirrorlib.data.pairing import LEVELS
from mirrorlib.evaluation.representations import Represented
from mirrorlib.probing.fitting import Maps, fit_and_map

TEMPERATURE = 0.1
"""Of the mutual information bound: the paper's default, in every arm."""
LEVELS_READ = ((1, ""), (0, "_episode"))
"""Column of the labels, and the suffix of its metrics: the same instruction, the same scene."""


def recalls(zu: Tensor, ze: Tensor, labels: Tensor) -> dict[str, float]:
    """Recall@1 both ways by instruction, and by episode (the very scene).

    zu, ze: (E, Z). labels: (E, 3). `..._chance` is what blind guessing would score.
    """
    scores = cosine_scores(zu.double(), ze.double())
    metrics = {}
    for column, suffix in LEVELS_READ:
        relevant = labels[:, None, column] == labels[None, :, column]
        metrics[f"recall_at_1_u2e{suffix}"] = float(recall_at_k(scores, relevant))
        metrics[f"recall_at_1_e2u{suffix}"] = float(recall_at_k(scores.T, relevant.T))
        metrics[f"recall_at_1_chance{suffix}"] = float(chance_recall_at_k(relevant))
    return metrics


def trained_alignment(zu: Tensor, ze: Tensor, labels: Tensor) -> dict[str, float]:
    """Recall in the trained space, and the bound on the mutual information.

    zu, ze: (E, Z). labels: (E, 3). The bound takes one pair of each instruction (N of them) with
    the paper's diagonal formula, averaged over as many disjoint draws as every instruction has
    episodes.
    """
    metrics = recalls(zu, ze, labels)
    groups = [torch.nonzero(labels[:, 1] == i)[:, 0] for i in labels[:, 1].unique()]
    bounds = []
    for draw in range(min(len(group) for group in groups)):
        rows = torch.stack([group[draw] for group in groups])
        bounds.append(float(mutual_information_bound(zu[rows], ze[rows], TEMPERATURE)))
    return metrics | {"mutual_information_bound": sum(bounds) / len(bounds)}


def fresh_probe(
    train: Represented, test: Represented, *, steps: int, seed: int
) -> dict[str, float]:
    """Recall@1 through linear maps fitted to the frozen training representations.

    One pair of maps learns which rows share the instruction, another which share the scene: each
    is read for what it learnt.
    """
    metrics: dict[str, float] = {}
    for column, suffix in LEVELS_READ:
        mapped = fit_and_map(train, test, LEVELS[column], Maps(steps=steps), seed)
        found = recalls(*mapped, test.labels)
        read = (name for name in found if name.endswith("_episode") == bool(suffix))
        metrics |= {f"probe_{name}": found[name] for name in read}
    return metrics
