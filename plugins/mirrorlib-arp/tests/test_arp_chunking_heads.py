"""Heads of the chunking transformer against formulas in float64, loops and sampling statistics."""

import math
from typing import TypeVar

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal

from mirrorlib.errors import UserError
from mirrorlib_arp.chunking import (
    Classes,
    Gaussian,
    Head,
    HeatMap,
    Mixture,
    convex_upsample,
    soft_heatmap,
)

AnyHead = TypeVar("AnyHead", bound=Head)
WIDTH = 8
SLOTS = torch.randn(3, 4, WIDTH, generator=torch.manual_seed(0))
TARGETS = torch.randn(3, 4, 2, generator=torch.manual_seed(1))


def head_of(head: AnyHead) -> AnyHead:
    """Parameters that are nowhere near zero."""
    generator = torch.manual_seed(2)
    for parameter in head.parameters():
        parameter.data.normal_(std=0.5, generator=generator)
    return head


def test_classes_are_a_cross_entropy_with_hard_and_soft_labels() -> None:
    head = head_of(Classes(WIDTH, 5))
    logits = head(SLOTS, {})
    labels = torch.randint(5, (3, 4), generator=torch.manual_seed(3))
    expected = -logits.double().log_softmax(-1).gather(2, labels[..., None])[..., 0]
    torch.testing.assert_close(head.losses(logits, labels).double(), expected)
    soft = torch.rand(3, 4, 5, generator=torch.manual_seed(4)).softmax(-1)
    expected = -(soft * logits.double().log_softmax(-1)).sum(-1)
    torch.testing.assert_close(head.losses(logits, soft).double(), expected)


def test_gaussian_is_the_normal_density_with_std_exp_half_raw() -> None:
    head = head_of(Gaussian(WIDTH, 2, min_std=1e-4))
    parameters = head(SLOTS, {})
    mean, raw = parameters.double().chunk(2, -1)
    expected = -Normal(mean, (0.5 * raw).exp()).log_prob(TARGETS.double()).sum(-1)
    torch.testing.assert_close(
        head.losses(parameters, TARGETS).double(), expected, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(head.choose(parameters, None), parameters[..., :2])


def test_mixture_is_the_logsumexp_of_its_components() -> None:
    head = head_of(Mixture(WIDTH, 2, 3, min_std=0.2))
    parameters = head(SLOTS, {})
    each = parameters.detach().double().unflatten(-1, (3, 5)).numpy()
    logits, mean, raw = each[..., 0], each[..., 1:3], each[..., 3:]
    floor = 2 * math.log(0.2)
    std = np.exp((floor + np.log1p(np.exp(raw - floor))) / 2)
    log_weight = logits - logsumexp(logits, axis=-1, keepdims=True)
    terms = norm.logpdf(TARGETS.double().numpy()[:, :, None], mean, std).sum(-1)
    expected = -logsumexp(log_weight + terms, axis=-1)
    losses = head.losses(parameters, TARGETS).detach().double().numpy()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    best = logits.argmax(-1)[..., None, None]
    chosen = head.choose(parameters, None).detach().double().numpy()
    np.testing.assert_allclose(chosen, np.take_along_axis(mean, best, 2)[:, :, 0], rtol=1e-6)


def test_samples_have_the_moments_of_the_mixture() -> None:
    head = head_of(Mixture(WIDTH, 2, 3))
    with torch.no_grad():
        parameters = head(SLOTS[:1, :1], {})
        logits, mean, std = head.split(parameters)
        drawn = head.choose(parameters.expand(20_000, -1, -1), torch.Generator().manual_seed(5))
    weight = logits.softmax(-1)[..., None]
    first = (weight * mean).sum(2)
    second = (weight * (std**2 + mean**2)).sum(2)
    tolerance = 5 * float((second - first**2).max().sqrt()) / math.sqrt(20_000)
    torch.testing.assert_close(drawn.mean(0), first[0], rtol=0, atol=tolerance)
    torch.testing.assert_close((drawn**2).mean(0), second[0], rtol=0.1, atol=0.05)


def test_an_exactly_met_target_keeps_losses_and_gradients_finite() -> None:
    head = Gaussian(WIDTH, 2, min_std=1e-3)
    for spread in (-80.0, 80.0):
        parameters = torch.cat([TARGETS, torch.full_like(TARGETS, spread)], -1).requires_grad_()
        loss = head.losses(parameters, TARGETS).sum()
        loss.backward()
        assert loss.isfinite()
        assert parameters.grad is not None
        assert parameters.grad.isfinite().all()
    assert head.split(torch.tensor([[[0.0, 0.0, -80.0, -80.0]]]))[2].min().item() == pytest.approx(
        1e-3, rel=1e-5
    )


def test_upsampling_is_convex() -> None:
    generator = torch.manual_seed(6)
    weights = 3 * torch.randn(2, 9, 4, 4, 3, 5, generator=generator)
    constant = convex_upsample(torch.full((2, 3, 5), 7.0), weights)
    torch.testing.assert_close(constant, torch.full((2, 12, 20), 7.0))
    coarse = torch.randn(2, 3, 5, generator=generator)
    fine = convex_upsample(coarse, weights)
    share = weights.softmax(1)
    for row in range(12):
        for column in range(20):
            i, j = row // 4, column // 4
            near = torch.stack(
                [
                    coarse[:, min(max(i + di, 0), 2), min(max(j + dj, 0), 4)]
                    for di in (-1, 0, 1)
                    for dj in (-1, 0, 1)
                ],
                1,
            )
            expected = (share[:, :, row % 4, column % 4, i, j] * near).sum(1)
            torch.testing.assert_close(fine[:, row, column], expected)


def heatmap_by_loop(point: Tensor, height: int, width: int, sigma: float) -> np.ndarray:
    heat = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            distance = (row + 0.5 - float(point[0]) * height) ** 2
            distance += (column + 0.5 - float(point[1]) * width) ** 2
            if math.sqrt(distance) <= 3 * sigma:
                heat[row, column] = math.exp(-distance / (2 * sigma**2))
    return heat / heat.sum()


def test_heatmap_targets_and_loss_against_a_loop() -> None:
    head = head_of(HeatMap(WIDTH, "map", 6, upscale=3, sigma=1.2))
    context = {"map": torch.randn(3, 6, 4, 5, generator=torch.manual_seed(7))}
    points = torch.rand(3, 4, 2, dtype=torch.float64, generator=torch.manual_seed(8))
    logits = head(SLOTS, context)
    assert logits.shape == (3, 4, 12, 15)
    losses = head.losses(logits, points)
    for row in range(3):
        for slot in range(4):
            target = heatmap_by_loop(points[row, slot], 12, 15, 1.2)
            image = logits[row, slot].detach().double().numpy()
            expected = -(target * (image - logsumexp(image))).sum()
            assert losses[row, slot].item() == pytest.approx(expected, rel=1e-5)
    painted = soft_heatmap(points, (12, 15), 1.2)
    torch.testing.assert_close(head.losses(logits, painted), losses)


def test_heatmap_targets_sum_to_one_even_beyond_the_border() -> None:
    points = torch.tensor([[-0.5, 2.0], [0.0, 1.0], [0.5, 0.5]])
    heat = soft_heatmap(points, (6, 8), 0.25)
    torch.testing.assert_close(heat.sum((1, 2)), torch.ones(3))
    assert torch.equal(heat[0], heat[1])
    with pytest.raises(UserError, match=r"sigma is at least 0\.25"):
        HeatMap(WIDTH, "map", 6, sigma=0.1)


def test_heatmap_chooses_the_pixel_and_samples_in_proportion() -> None:
    head = HeatMap(WIDTH, "map", 6, upscale=2)
    logits = torch.full((1, 1, 4, 6), -torch.inf)
    logits[0, 0, 2, 5], logits[0, 0, 1, 0] = math.log(3.0), 0.0
    likeliest = head.choose(logits, None)
    torch.testing.assert_close(likeliest[0, 0], torch.tensor([2.5 / 4, 5.5 / 6]))
    drawn = head.choose(logits.expand(4000, 1, 4, 6), torch.Generator().manual_seed(9))
    share = (drawn[:, 0, 0] == 2.5 / 4).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.03)
    assert ((drawn[:, 0] == likeliest[0]).all(1) | (drawn[:, 0, 0] == 1.5 / 4)).all()


def test_a_heatmap_learns_to_point() -> None:
    torch.manual_seed(0)
    head = HeatMap(WIDTH, "map", 6, upscale=3, sigma=0.6)
    points = torch.rand(3, 4, 2, generator=torch.manual_seed(8)) * 0.9 + 0.05
    context = {"map": torch.randn(3, 6, 4, 5, generator=torch.manual_seed(7))}
    slots = torch.nn.Parameter(SLOTS.clone())
    optimiser = torch.optim.Adam([*head.parameters(), slots], lr=2e-2)
    target = soft_heatmap(points, (12, 15), 0.6)
    entropy = -(target * target.clamp(min=1e-30).log()).sum((-2, -1)).mean()
    for _ in range(150):
        loss = head.losses(head(slots, context), points).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss - entropy < 0.2
    found = head.choose(head(slots, context), None)
    assert ((found - points).abs() * torch.tensor([12.0, 15.0])).max() <= 1


def test_bf16_autocast_gives_float32_parameters() -> None:
    heads = [Classes(WIDTH, 3), Gaussian(WIDTH, 2), HeatMap(WIDTH, "map", 6, upscale=2)]
    context = {"map": torch.randn(3, 6, 4, 5)}
    with torch.autocast("cpu", torch.bfloat16):
        for head in heads:
            parameters = head(SLOTS, context)
            assert parameters.dtype == torch.float32
            assert parameters.isfinite().all()
