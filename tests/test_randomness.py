"""Seeds from names, and uniform numbers from rows' seeds."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import kstest

from mirrorlib.randomness import SCENES, derive_seed, scene_seed, seeded, uniform

MASK = (1 << 64) - 1


def splitmix64(x: int) -> int:
    """The finaliser as published, in unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_uniform_is_the_published_generator():
    seeds = torch.tensor([0, 1, -7, 2**62 + 5])
    offset = derive_seed("stream", "s") - (1 << 62)
    expected = [
        [
            (splitmix64((splitmix64((seed ^ offset) & MASK) + n * 0x9E3779B97F4A7C15) & MASK) >> 40)
            / 2**24
            for n in range(1, 4)
        ]
        for seed in seeds.tolist()
    ]
    np.testing.assert_array_equal(uniform(seeds, 3, "s").numpy(), np.float32(expected))


def test_uniform_numbers_are_uniform_and_streams_independent():
    seeds = torch.arange(4000)
    first, second = uniform(seeds, 5, "a"), uniform(seeds, 5, "b")
    for column in (*first.T, *second.T):
        assert kstest(column.numpy(), "uniform").pvalue > 1e-4
    together = np.corrcoef(torch.cat([first, second], 1).T.numpy())
    assert np.abs(together - np.eye(10)).max() < 0.07


def test_a_row_has_the_same_numbers_in_any_batch():
    seeds = torch.tensor([5, 9, 13])
    assert torch.equal(uniform(seeds, 4, "a")[1:], uniform(seeds[1:], 4, "a"))
    assert torch.equal(uniform(seeds, 4, "a")[:, :2], uniform(seeds, 2, "a"))


def test_seeds_are_stable_across_versions_and_machines():
    assert derive_seed("a", 1) == 6861350103018950465
    assert scene_seed("push", 0, "test", 3) == derive_seed(SCENES, "push", 0, "test", 3)
    assert derive_seed("ab", "c") != derive_seed("a", "bc")


def test_seeding_is_undone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with seeded(3, "observer"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(3, "observer"):
        assert torch.equal(torch.rand(2), inside)
    with seeded(3, "executor"):
        assert not torch.equal(torch.rand(2), inside)
