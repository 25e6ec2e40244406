"""The bound on mutual information against loops and a closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mirrorlib.alignment import mutual_information_bound


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mutual_information_bound_matches_loops():
    x, y = torch.randn(2, 7, 4, dtype=torch.float64, generator=generator())
    loss = 0.0
    for left, right in ((x, y), (y, x)):
        for i in range(7):
            cosines = [torch.cosine_similarity(left[i], row, dim=0).item() / 0.2 for row in right]
            loss -= math.log(math.exp(cosines[i]) / sum(map(math.exp, cosines))) / 14
    bound = mutual_information_bound(x, y, temperature=0.2)
    assert bound.item() == pytest.approx(math.log(7) - loss, rel=1e-12)
    assert mutual_information_bound(torch.eye(8), torch.eye(8), 0.01).item() == pytest.approx(
        math.log(8)
    )
    with pytest.raises(ValueError, match=r"\(8, 8\) and \(7, 8\)"):
        mutual_information_bound(torch.eye(8), torch.eye(8)[:7])


def test_mutual_information_bound_stays_below_the_truth():
    """Gaussians of correlation r in 3 dimensions share -3/2 log(1 - r^2) nats."""
    bounds = []
    for seed in range(20):
        x, noise = torch.randn(2, 256, 3, generator=generator(seed))
        y = 0.8 * x + 0.6 * noise
        bounds.append(mutual_information_bound(x, y, temperature=0.3).item())
    truth = -1.5 * math.log(1 - 0.8**2)
    assert 0.3 * truth < sum(bounds) / len(bounds) < truth


@pytest.mark.parametrize("block", [1, 7, 30])
def test_mutual_information_bound_does_not_depend_on_blocks(monkeypatch, block):
    x, y = torch.randn(2, 30, 4, dtype=torch.float64, generator=generator()).requires_grad_()
    expected = mutual_information_bound(x, x + y)
    gradient = torch.autograd.grad(expected, x, retain_graph=True)[0]
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    found = mutual_information_bound(x, x + y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, x)[0], gradient)


def test_mutual_information_bound_of_zeros_is_zero_with_no_gradient():
    x = torch.zeros(6, 3, requires_grad=True)
    bound = mutual_information_bound(x, torch.randn(6, 3, generator=generator()))
    bound.backward()
    assert bound.item() == pytest.approx(0, abs=1e-6) and not x.grad.any()
    with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
        mutual_information_bound(x, x, temperature=0)
