"""The prompt looks where the point is."""

import torch

from mirrorlib_arp.prompt import LENGTH, Prompt
from mirrorlib_arp.renderer import AXES
from mirrorlib_arp.stage import Reading

SIZE, CROP, WIDTH, CHANNELS = 32, 8, 16, 4


def test_gradients_reach_the_crop_and_nothing_else() -> None:
    """At the corner of four pixels a crop of eight covers four on either side, in each view."""
    torch.manual_seed(0)
    views = torch.randn(2, 3, 7, SIZE, SIZE, requires_grad=True)
    reading = Reading(
        heatmaps=torch.zeros(2, 3, SIZE, SIZE),
        views=views,
        tokens=torch.randn(2, 3, SIZE // 8, SIZE // 8, WIDTH),
        pixels=torch.randn(2, 3, CHANNELS, SIZE, SIZE),
        pooled=torch.randn(2, WIDTH),
    )
    voxel = torch.tensor([[16, 10, 20], [6, 25, 30]])
    prompt = Prompt(WIDTH, CHANNELS, CROP)(reading, voxel / SIZE)
    assert prompt.shape == (2, LENGTH, WIDTH)
    prompt.square().sum().backward()
    assert views.grad is not None
    seen = views.grad.abs().sum(2) > 1e-6
    pixels = torch.arange(SIZE)
    for row in range(2):
        for view, (u, v, _) in enumerate(AXES):
            near = [(pixels >= voxel[row, a] - 4) & (pixels < voxel[row, a] + 4) for a in (u, v)]
            assert torch.equal(seen[row, view], near[0][:, None] & near[1])
