"""The permutation null against all permutations, and over the measures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mirrorlib import alignment as measures
from mirrorlib.alignment import cka, permutation_null, procrustes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_null_is_the_spread_over_all_permutations():
    x, noise = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator())
    y = x + 2 * noise
    every = [procrustes(x, y[list(order)]).item() for order in itertools.permutations(range(6))]
    found = permutation_null(procrustes, x, y, permutations=1500, generator=generator(1))
    assert found.observed == procrustes(x, y).item()
    assert found.mean == pytest.approx(np.mean(every), abs=0.01)
    assert found.deviation == pytest.approx(np.std(every), rel=0.1)
    assert found.quantile_95 == pytest.approx(np.quantile(every, 0.95), abs=0.02)
    reached = np.mean([value >= found.observed - 1e-12 for value in every])
    assert found.p_value == pytest.approx(reached, abs=0.03)


def test_null_counts_what_reaches_the_observed():
    """A measure of how many rows are in place: of 3, by hand."""
    x = torch.arange(3.0)[:, None]

    def in_place(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x == y).sum())

    drawn = [
        sum(int(i == j) for j, i in enumerate(torch.randperm(3, generator=source).tolist()))
        for source in [generator(5)]
        for _ in range(50)
    ]
    null = permutation_null(in_place, x, x, permutations=50, generator=generator(5))
    assert null.observed == 3 and null.mean == pytest.approx(np.mean(drawn))
    assert null.deviation == pytest.approx(np.std(drawn, ddof=1))
    assert null.p_value == (1 + drawn.count(3)) / 51
    assert permutation_null(lambda *_: math.nan, x, x, permutations=9).p_value == 1
    assert permutation_null(lambda *_: 1.0, x, x, permutations=9).p_value == 1


def test_p_values_of_independent_rows_are_uniform():
    """Biased CKA of independent rows is .73 here, and no more than its null."""
    found = []
    for seed in range(60):
        x, y = torch.randn(2, 24, 64, generator=generator(seed))
        null = permutation_null(
            lambda a, b: cka(a, b, debiased=False), x, y, permutations=39, generator=generator(seed)
        )
        assert null.observed == pytest.approx(null.mean, abs=0.1) and null.mean == pytest.approx(
            0.73, abs=0.05
        )
        found.append(null.p_value)
    assert np.mean(found) == pytest.approx(0.5, abs=0.12)
    assert 0 < np.mean([value <= 0.25 for value in found]) < 0.45


@pytest.mark.parametrize(
    "name",
    ["cka", "cknna", "mutual_knn", "procrustes", "svcca", "pwcca", "rsa", "linear_r2"],
)
def test_every_measure_stands_out_from_its_null_where_rows_agree(name):
    x, noise = torch.randn(2, 60, 4, generator=generator())
    measure = getattr(measures, name)
    null = permutation_null(measure, x, x + 0.5 * noise, permutations=49, generator=generator(1))
    assert null.p_value == 1 / 50
    assert null.observed > null.quantile_95 > null.mean and null.deviation > 0


def test_null_repeats_with_its_generator_and_leaves_torchs_own_alone():
    x, y = torch.randn(2, 10, 3, generator=generator())
    state = torch.random.get_rng_state()
    found = [permutation_null(cka, x, y, permutations=5, generator=generator(3)) for _ in range(2)]
    assert found[0] == found[1]
    assert torch.equal(state, torch.random.get_rng_state())


def test_null_refuses_what_it_cannot_answer():
    x = torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3, 2\)"):
        permutation_null(cka, x, x[:3])
    with pytest.raises(ValueError, match="permutations must be at least 2, not 1"):
        permutation_null(cka, x, x, permutations=1)
