"""Embeddings of the chunking transformer."""

import math

import pytest
import torch

from mirrorlib.errors import UserError
from mirrorlib_arp.chunking import Discrete, Given, Linear, Sampled, Sinusoidal


def test_sinusoids_of_two_coordinates_have_columns_of_their_own() -> None:
    values = torch.tensor([[[0.3, -1.7]]], dtype=torch.float64)
    row = Sinusoidal(8, dim=2, scale=2.0)(values, {})[0, 0]
    expected = [
        wave(coordinate * 2.0 * 10_000 ** (-k / 2))
        for coordinate in (0.3, -1.7)
        for wave in (math.sin, math.cos)
        for k in range(2)
    ]
    torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dim", [1, 2])
def test_sinusoids_change_in_all_their_coordinates_columns_and_no_others(dim: int) -> None:
    embedding = Sinusoidal(24, dim)
    value = torch.rand(1, 1, dim, generator=torch.manual_seed(0))
    before = embedding(value, {})[0, 0].unflatten(0, (dim, -1))
    for coordinate in range(dim):
        other = value.clone()
        other[..., coordinate] += 1
        after = embedding(other, {})[0, 0].unflatten(0, (dim, -1))
        for block in range(dim):
            assert bool((before[block] == after[block]).all()) == (block != coordinate)
    with pytest.raises(UserError, match="needs a width"):
        Sinusoidal(9, dim)


def test_samples_are_bilinear_between_centres_and_constant_beyond() -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.manual_seed(1))
    embedding = Sampled("map", 3, 3)

    def at(row: float, column: float) -> torch.Tensor:
        point = torch.tensor([row / 4, column / 5], dtype=torch.float64).expand(2, 1, 2)
        return embedding(point, {"map": features})[:, 0]

    torch.testing.assert_close(at(2.5, 3.5), features[:, :, 2, 3])
    between = 0.75 * features[:, :, 1, 2] + 0.25 * features[:, :, 1, 3]
    torch.testing.assert_close(at(1.5, 2.75), between)
    torch.testing.assert_close(at(-3, 9), features[:, :, 0, 4])
    with pytest.raises(UserError, match="must be a map"):
        embedding(torch.rand(2, 1, 2), {"map": features.flatten(2)})


def test_discrete_linear_and_given_values() -> None:
    table, linear = Discrete(5, 4), Linear(2, 4)
    index = torch.tensor([[3, 0]])
    assert torch.equal(table(index, {}), table.table.weight[[3, 0]][None])
    values = torch.rand(2, 3, 2)
    torch.testing.assert_close(
        linear(values, {}), values @ linear.linear.weight.T + linear.linear.bias
    )
    assert torch.equal(Given(2, 2)(values, {}), values)
    assert Given(2, 4)(values, {}).shape == (2, 3, 4)
