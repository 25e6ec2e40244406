"""Recall of mapped held-out episodes: three questions, chance, a permutation null, intervals.

instruction: is what is found of the same instruction? episode: is it the very scene? within: which
scene, among those of the same instruction alone? (The mean over instructions; those with one
held-out episode have nothing to tell apart and are left out.) Only the last cannot be answered from
the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from mirrorlib.alignment import cosine_scores
from mirrorlib.randomness import derive_seed

Read = Literal["instruction", "episode", "within"]
READS: tuple[Read, ...] = ("instruction", "episode", "within")
WAYS = ("u2e", "e2u")
KS = (1, 5)
TIED = 1e-6
"""Cosines closer than this tie, as rounding alone sets them apart."""
RESAMPLES = 2000
FEWEST_SEEDS = 5


@dataclass(frozen=True)
class Recall:
    """Recall@k of one question in one direction, mean over seeds of the maps.

    interval: 95 %, of instructions drawn anew (a percentile bootstrap that keeps all held-out
    episodes of an instruction together as queries; the candidates stay): nothing of other training
    runs or map seeds; None under two instructions. over_seeds: 95 % t-interval over the maps' seeds
    alone; None under five. null_mean, null_95: what shuffled partners score, and its 95 % quantile;
    None where no permutations were asked for. chance: expected of candidates in random order.
    """

    k: int
    value: float
    chance: float
    interval: tuple[float, float] | None
    over_seeds: tuple[float, float] | None
    null_mean: float | None
    null_95: float | None


def read_recalls(
    u: Tensor, e: Tensor, labels: Tensor, read: Read, *, permutations: int, seed: int
) -> dict[str, Recall]:
    """`recall_at_1_u2e` and the like, for one question.

    u, e: (S, E, Z) held-out episodes through the maps of S seeds. labels: (E, 3). Cosines that tie
    are ordered at random: a space collapsed to a point scores about chance. The null shuffles which
    e belongs to which u, within instructions where those are asked about alone. seed: of what is
    drawn. Empty where no instruction has two episodes and `within` is asked.
    """
    question = Question(u, e, labels, read, seed)
    if not question.weights.any():
        return {}
    nulls = question.nulls(permutations) if permutations else {}
    found = {}
    for (way, k), hits in question.hits.items():
        null, values = nulls.get((way, k)), hits.double() @ question.weights
        found[f"recall_at_{k}_{way}"] = Recall(
            k,
            float(values.mean()),
            question.chance(k),
            question.interval(hits.double().mean(0)),
            _over_seeds(values),
            None if null is None else float(null.mean()),
            None if null is None else float(null.quantile(0.95)),
        )
    return found


class Question:
    """Which candidates count for which query, and over what recall is averaged.

    weights: (E,) of each query in the mean, 0 for those that are not asked. hits: (S, E) bool for
    each direction and k.
    """

    def __init__(self, u: Tensor, e: Tensor, labels: Tensor, read: Read, seed: int) -> None:
        self.read, self.seed, self.groups = read, seed, labels[:, 1]
        same = self.groups[:, None] == self.groups
        self.candidates = same if read == "within" else torch.ones_like(same)
        self.key = self.groups if read == "instruction" else torch.arange(len(labels))
        asked = self.candidates.sum(1) > 1
        share = 1 / same.sum(1).double() if read == "within" else torch.ones(len(same)).double()
        self.weights = asked * share / (asked * share).sum().clamp_min(1e-9)
        scores = _in_steps(u, e, derive_seed("ties", seed))
        self._scores = {
            way: each.masked_fill(~self.candidates, -torch.inf)
            for way, each in zip(WAYS, (scores, scores.transpose(1, 2)), strict=True)
        }
        self._nearest = {
            way: each.topk(min(max(KS), len(same))).indices for way, each in self._scores.items()
        }
        self.hits = {name: hits[0] for name, hits in self._found(self.key[None]).items()}

    def nulls(self, count: int) -> dict[tuple[str, int], Tensor]:
        """(count,) recalls, mean over seeds, of partners that are shuffled: candidates of a
        question stay candidates of it."""
        rng = np.random.default_rng(derive_seed("permutations", self.seed))
        keys = torch.empty(count, len(self.key), dtype=torch.int64)
        for members in self._exchangeable():
            drawn = rng.permuted(np.tile(members.numpy(), (count, 1)), axis=1)
            keys[:, members] = self.key[torch.from_numpy(drawn)]
        found = self._found(keys)
        return {name: hits.double().mean(1) @ self.weights for name, hits in found.items()}

    def chance(self, k: int) -> float:
        """Of candidates in random order."""
        count = self.candidates.sum(1).double()
        relevant = ((self.key[:, None] == self.key) & self.candidates).sum(1)
        missed = torch.ones_like(count)
        for place in range(k):
            left = (count - relevant - place) / (count - place).clamp_min(1)
            missed = missed * left.clamp_min(0)
        return float((1 - missed) @ self.weights)

    def interval(self, hits: Tensor) -> tuple[float, float] | None:
        """hits: (E,) float64, mean over seeds."""
        asked = self.weights > 0
        groups, place = self.groups[asked].unique(return_inverse=True)
        if len(groups) < 2:
            return None
        sums, weights = torch.zeros(2, len(groups), dtype=torch.float64)
        sums.index_add_(0, place, (hits * self.weights)[asked])
        weights.index_add_(0, place, self.weights[asked])
        rng = np.random.default_rng(derive_seed("bootstrap", self.seed))
        drawn = torch.from_numpy(rng.integers(len(groups), size=(RESAMPLES, len(groups))))
        values = sums[drawn].sum(1) / weights[drawn].sum(1)
        low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return low, high

    def reciprocal_ranks(self) -> Tensor:
        """1 / rank of each query's nearest relevant candidate, mean over ways and seeds: (E,)."""
        relevant = self.key[:, None] == self.key
        found = []
        for scores in self._scores.values():
            best = scores.masked_fill(~relevant, -torch.inf).amax(-1, keepdim=True)
            rank = 1 + ((scores > best) & ~relevant).sum(-1)
            found.append(rank.double().reciprocal().mean(0))
        return torch.stack(found).mean(0)

    def _found(self, keys: Tensor) -> dict[tuple[str, int], Tensor]:
        """keys: (R, E) of the rows of e, which are relevant to rows of u with an equal key. (R, S,
        E) bool for each direction and k, e2u by rows of e."""
        found: dict[tuple[str, int], Tensor] = {}
        for way, nearest in self._nearest.items():
            if way == "u2e":
                right = keys[:, nearest] == self.key[:, None]
            else:
                right = self.key[nearest] == keys[:, None, :, None]
            found |= {(way, k): right[..., :k].any(-1) for k in KS}
        return found

    def _exchangeable(self) -> list[Tensor]:
        if self.read != "within":
            return [torch.arange(len(self.key))]
        return [torch.nonzero(self.groups == group)[:, 0] for group in self.groups.unique()]


def _in_steps(u: Tensor, e: Tensor, seed: int) -> Tensor:
    """Cosines (S, E, E) in whole steps of TIED, and a random part of a step: ties in random order.
    u, e: (S, E, Z)."""
    cosines = [cosine_scores(*pair) for pair in zip(u.double(), e.double(), strict=True)]
    steps = (torch.stack(cosines) / TIED).round()
    generator = torch.Generator().manual_seed(seed)
    return steps + torch.rand(steps.shape, generator=generator, dtype=torch.float64)


def _over_seeds(values: Tensor) -> tuple[float, float] | None:
    """values: (S,)."""
    if len(values) < FEWEST_SEEDS:
        return None
    quantile = float(student.ppf(0.975, len(values) - 1))
    half, mean = quantile * float(values.std()) / len(values) ** 0.5, float(values.mean())
    return mean - half, mean + half
