"""Heat-maps: targets, loss, and the three-dimensional maximum."""

import numpy as np
import pytest
import torch

from mirrorlib_arp import heatmaps
from mirrorlib_arp.renderer import AXES

POINTS = torch.rand(64, 3, dtype=torch.float64, generator=torch.manual_seed(0))


def test_targets_are_gaussians_at_the_projected_point() -> None:
    size, sigma = 16, 1.5
    maps = heatmaps.targets(POINTS[:4], size, sigma).numpy()
    for point, views in zip(POINTS[:4].numpy(), maps, strict=True):
        for (row, column, _), view in zip(AXES, views, strict=True):
            expected = np.array(
                [
                    [
                        np.exp(
                            -((i + 0.5 - size * point[row]) ** 2) / (2 * sigma**2)
                            - (j + 0.5 - size * point[column]) ** 2 / (2 * sigma**2)
                        )
                        for j in range(size)
                    ]
                    for i in range(size)
                ]
            )
            np.testing.assert_allclose(view, expected / expected.sum(), rtol=1e-9)


def test_loss_is_the_cross_entropy() -> None:
    logits = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.manual_seed(1))
    target = heatmaps.targets(POINTS[:4], 8, 1.5)
    probability = (logits.flatten(2).exp() / logits.flatten(2).exp().sum(-1, keepdim=True)).log()
    expected = -(target.flatten(2) * probability).sum() / 12
    torch.testing.assert_close(heatmaps.loss(logits, target), expected)


@pytest.mark.parametrize("size", [32, 64])
def test_locate_recovers_a_planted_point(size: int) -> None:
    """To half a voxel, at the borders of the cube too."""
    corners = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.5]])
    points = torch.cat([POINTS.float(), corners])
    found = heatmaps.locate(heatmaps.targets(points, size, 1.5).log())
    inner = (points * size > 3).all(1) & (points * size < size - 3).all(1)
    assert ((found - points).abs() * size)[inner].max() < 0.5
    assert ((found - points).abs() * size).max() < 2


def test_locate_agrees_with_a_search_over_all_voxels() -> None:
    """Three views that contradict each other: the sum decides."""
    maps = 8 * torch.randn(3, 3, 16, 16, generator=torch.manual_seed(4))
    found = heatmaps.locate(maps)
    for views, point in zip(maps.flatten(2).log_softmax(-1).view_as(maps), found, strict=True):
        total = torch.tensor(
            [
                [[views[0, x, y] + views[1, y, z] + views[2, x, z] for z in range(16)]
                 for y in range(16)]
                for x in range(16)
            ]
        )  # fmt: skip
        best = torch.tensor(np.unravel_index(int(total.argmax()), (16, 16, 16)))
        assert ((point * 16 - 0.5 - best).abs() < 4.01).all()
        assert total[tuple((point * 16).long().tolist())] > total.flatten().topk(200).values[-1]


@pytest.mark.parametrize("slab", [1, 700, 1 << 20])
def test_the_peak_is_that_of_all_voxels(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, whole numbers with many equal sums included: of those the first."""
    monkeypatch.setattr(heatmaps, "SLAB", slab)
    generator = torch.manual_seed(6)
    maps = torch.randint(0, 6, (4, 3, 12, 12), generator=generator).float()
    found = heatmaps.peak(maps)
    for views, voxel in zip(maps.numpy(), found.tolist(), strict=True):
        total = views[0][:, :, None] + views[1][None] + views[2][:, None]
        assert voxel == [int(i) for i in np.unravel_index(total.argmax(), total.shape)]


@pytest.mark.parametrize("size", [32, 224])
def test_the_mean_of_probabilities_recovers_a_planted_point(size: int) -> None:
    """To half a voxel, wherever it is; a view that shows a second, weaker place changes nothing."""
    points = torch.cat([POINTS[:6].float(), torch.tensor([[0.001, 0.999, 0.5]])])
    maps = heatmaps.targets(points, size, 1.5)
    maps[:, 0] = 0.7 * maps[:, 0] + 0.3 * maps[:, 0].flip(1)
    found = heatmaps.locate_mean(maps.log().clamp(min=-80))
    assert ((found - points).abs() * size).max() <= 0.5 + 1e-4


def test_rows_do_not_disturb_each_other() -> None:
    maps = torch.randn(5, 3, 16, 16, generator=torch.manual_seed(5))
    for locate in (heatmaps.locate, heatmaps.locate_mean):
        torch.testing.assert_close(locate(maps)[2:3], locate(maps[2:3]))
