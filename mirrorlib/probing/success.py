"""Does alignment go with success? Solved and failed scenes, compared within instructions.

An instruction that is hard to execute may be hard to recognise, too: over all instructions at once
solved and failed scenes differ in difficulty. So they are compared within each instruction that
has both, and the differences averaged with Mantel-Haenszel's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirrorlib.randomness import derive_seed


@dataclass(frozen=True)
class Split:
    """Scores of solved less those of failed scenes.

    difference: weighted mean over the instructions that have both, weights n_s n_f / (n_s + n_f).
    null_95: the 2.5 and 97.5 % quantiles of the difference where outcomes are shuffled within
    instructions; p_value of that two-sided test, (1 + reached) / (1 + shufflings). interval: the
    shifts that the test would not refuse, difference less null_95, of these scenes alone: nothing
    of other instructions, training runs or map seeds. (A bootstrap would have no width where an
    instruction has one solved scene.) All three None without shufflings.
    instructions, solved, failed: how many take part. All None or 0 where no instruction has both.
    unstratified: the plain difference over all scenes, confounded by difficulty; None where all
    were solved or all failed. all_solved, all_failed: how many scenes there are.
    """

    difference: float | None
    interval: tuple[float, float] | None
    null_95: tuple[float, float] | None
    p_value: float | None
    instructions: int
    solved: int
    failed: int
    unstratified: float | None
    all_solved: int
    all_failed: int


def success_split(
    scores: Sequence[float],
    solved: Sequence[bool],
    strata: Sequence[str],
    *,
    permutations: int,
    seed: int,
) -> Split:
    """scores, solved, strata: of each scene; strata are instructions."""
    score, won = np.asarray(scores, dtype=np.float64), np.asarray(solved, dtype=bool)
    groups = [np.flatnonzero(np.asarray(strata) == name) for name in sorted(set(strata))]
    mixed = [rows for rows in groups if 0 < won[rows].sum() < len(rows)]
    plain = float(score[won].mean() - score[~won].mean()) if 0 < won.sum() < len(won) else None
    counts = {"unstratified": plain, "all_solved": int(won.sum()), "all_failed": int((~won).sum())}
    if not mixed:
        return Split(None, None, None, None, 0, 0, 0, **counts)  # type: ignore[arg-type]
    cells = [(score[rows[won[rows]]], score[rows[~won[rows]]]) for rows in mixed]
    observed = _difference(cells)
    null, p_value = _null(cells, observed, permutations, seed)
    interval = None if null is None else (observed - null[1], observed - null[0])
    return Split(
        observed,
        interval,
        null,
        p_value,
        len(cells),
        sum(len(s) for s, _ in cells),
        sum(len(f) for _, f in cells),
        **counts,  # type: ignore[arg-type]
    )


Cells = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Scores of solved and of failed scenes, for each instruction."""


def _difference(cells: Cells) -> float:
    return float(_weighted([s.mean() - f.mean() for s, f in cells], cells))


def _weighted(differences: Sequence[Any], cells: Cells) -> Any:
    """The mean over instructions of numbers or of arrays (R,)."""
    weights = [len(s) * len(f) / (len(s) + len(f)) for s, f in cells]
    return np.average(differences, axis=0, weights=weights)


def _null(
    cells: Cells, observed: float, permutations: int, seed: int
) -> tuple[tuple[float, float] | None, float | None]:
    if not permutations:
        return None, None
    rng = np.random.default_rng(derive_seed("success permutations", seed))
    differences = []
    for solved, failed in cells:
        both = np.tile(np.concatenate([solved, failed]), (permutations, 1))
        both = rng.permuted(both, axis=1)
        differences.append(both[:, : len(solved)].mean(1) - both[:, len(solved) :].mean(1))
    values = _weighted(differences, cells)
    low, high = np.quantile(values, [0.025, 0.975])
    reached = int((np.abs(values) >= abs(observed) - 1e-12).sum())
    return (float(low), float(high)), (1 + reached) / (1 + permutations)
