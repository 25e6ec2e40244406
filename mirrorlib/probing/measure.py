"""Everything that is measured of one pair of frozen representations, control by control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mirrorlib.alignment import cka, cknna, mutual_knn, permutation_null
from mirrorlib.data.pairing import Pairing
from mirrorlib.errors import UserError
from mirrorlib.evaluation.representations import Represented
from mirrorlib.probing.controls import controlled
from mirrorlib.probing.fitting import Maps, fit_and_map
from mirrorlib.probing.names import Control
from mirrorlib.probing.readout import READS, WAYS, Question, Read, Recall, read_recalls
from mirrorlib.probing.success import Split, success_split
from mirrorlib.randomness import seeded

NEIGHBOURS = 10
FEWEST = 4
"""Held-out episodes, as debiased CKA needs them."""
REAL = "real"


@dataclass(frozen=True)
class Similarity:
    """A measure of the raw held-out u and e. The null is that of `Recall`: episodes shuffled."""

    value: float
    null_mean: float | None
    null_95: float | None


@dataclass(frozen=True)
class Row:
    """One control, its maps fitted to pairs of one level. recalls: question -> measure."""

    control: str
    level: Pairing
    recalls: Mapping[Read, Mapping[str, Recall]]


@dataclass
class Variant:
    """One site at one checkpoint. similarities: control -> measure. success: level -> question ->
    hit and reciprocal rank. left_out: control -> why."""

    site: str
    checkpoint: str
    rows: list[Row] = field(default_factory=list)
    similarities: dict[str, dict[str, Similarity]] = field(default_factory=dict)
    success: dict[str, dict[str, dict[str, Split]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """What every row is measured with."""

    maps: Maps
    seeds: int
    levels: Sequence[Pairing]
    permutations: int


def check_pairs(train: Represented, test: Represented, where: str) -> None:
    """Raises UserError where nothing could be fitted or told apart."""
    if len(train.names) < 2 or len(test.names) < FEWEST:
        raise UserError(
            f"{where}: a probe needs 2 training and {FEWEST} held-out episodes, not "
            f"{len(train.names)} and {len(test.names)}"
        )
    for side, rows in (("u", (train.u, test.u)), ("e", (train.e, test.e))):
        if rows[0].shape[1] != rows[1].shape[1]:
            raise UserError(f"{where}: {side} has another width in training than held out")
        if not all(bool(x.isfinite().all()) for x in rows):
            raise UserError(f"{where}: {side} holds numbers that are not finite; has it diverged?")


def measure(
    control: Control | None,
    train: Represented,
    test: Represented,
    budget: Budget,
    into: Variant,
    outcomes: Mapping[str, bool],
    done: Callable[[], Any] = lambda: None,
) -> None:
    """Adds a control's rows to a variant; None: what the models are, and the success split where
    there are outcomes (name of an episode -> solved). done: called after each fit."""
    name = control or REAL
    if control != "shuffled":
        into.similarities[name] = _similarities(*controlled(control, train, test, 0), budget)
    for level in budget.levels:
        mapped = []
        for seed in range(budget.seeds):
            pairs = controlled(control, train, test, seed)
            mapped.append(fit_and_map(*pairs, level, budget.maps, seed))
            done()
        u, e = (torch.stack(side) for side in zip(*mapped, strict=True))
        recalls = {
            read: read_recalls(u, e, test.labels, read, permutations=budget.permutations, seed=0)
            for read in READS
        }
        into.rows.append(Row(name, level, recalls))
        if control is None and outcomes:
            into.success[level] = _success(u, e, test, outcomes, budget.permutations)


def _similarities(train: Represented, test: Represented, budget: Budget) -> dict[str, Similarity]:
    k = min(NEIGHBOURS, len(test.u) - 1)
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "cka": cka,
        "mutual_knn": lambda x, y: mutual_knn(x, y, k),
        "cknna": lambda x, y: cknna(x, y, k),
    }
    found = {}
    for name, metric in measures.items():
        if budget.permutations < 2:
            found[name] = Similarity(float(metric(test.u, test.e)), None, None)
            continue
        with seeded("probe", name):
            null = permutation_null(metric, test.u, test.e, permutations=budget.permutations)
        found[name] = Similarity(null.observed, null.mean, null.quantile_95)
    return found


def _success(
    u: Tensor, e: Tensor, test: Represented, outcomes: Mapping[str, bool], permutations: int
) -> dict[str, dict[str, Split]]:
    """Hit@1 and reciprocal rank of each scene with an outcome, the mean of both directions and all
    map seeds, by question."""
    scored = [i for i, name in enumerate(test.names) if name in outcomes]
    solved = [outcomes[test.names[i]] for i in scored]
    strata = [test.instructions[i] for i in scored]
    found: dict[str, dict[str, Split]] = {}
    for read in READS:
        question = Question(u, e, test.labels, read, 0)
        hits = [question.hits[way, 1].double().mean(0) for way in WAYS]
        scores = {"hit_at_1": (hits[0] + hits[1]) / 2}
        scores["reciprocal_rank"] = question.reciprocal_ranks()
        found[read] = {
            name: success_split(
                values[scored].tolist(), solved, strata, permutations=permutations, seed=0
            )
            for name, values in scores.items()
        }
    return found
