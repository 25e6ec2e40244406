"""The z-buffer against a loop over points."""

import pytest
import torch
from torch import Tensor

from mirrorlib_arp.clouds import Cloud
from mirrorlib_arp.renderer import AXES, from_cube, render, render_wide, to_cube

SIDE, SIZE = 0.8, 8


def random_cloud(count: int, rows: int) -> tuple[Cloud, Tensor]:
    generator = torch.manual_seed(0)
    points = torch.rand(count, 3, generator=generator) * 1.2 - 0.6
    points[count // 2 :, 2] = 0.125  # many equally near points
    colours = torch.randint(0, 256, (count, 3), generator=generator, dtype=torch.uint8)
    row = torch.randint(0, rows, (count,), generator=generator)
    centre = torch.rand(rows, 3, generator=generator) * 0.2 - 0.1
    return Cloud(points, colours, row), centre


def by_loop(cloud: Cloud, centre: Tensor, side: float, size: int) -> Tensor:
    image = torch.zeros(len(centre), 3, 7, size, size)
    nearest = torch.full((len(centre), 3, size, size), -torch.inf)
    for point, colour, row in zip(cloud.points, cloud.colours, cloud.rows, strict=True):
        place = (point - centre[row]) / side + 0.5
        if not all(0 < number < 1 for number in place):
            continue
        for view, (u, v, depth) in enumerate(AXES):
            cell = row, view, int(place[u] * size), int(place[v] * size)
            if place[depth] >= nearest[cell]:
                nearest[cell] = place[depth]
                image[cell[0], view, :3, cell[2], cell[3]] = place * 2 - 1
                image[cell[0], view, 3:6, cell[2], cell[3]] = colour.float() / 127.5 - 1
                image[cell[0], view, 6, cell[2], cell[3]] = 1
    return image


def test_render_equals_the_loop() -> None:
    cloud, centre = random_cloud(1500, 3)
    image = render(cloud, centre, SIDE, SIZE)
    torch.testing.assert_close(image, by_loop(cloud, centre, SIDE, SIZE), rtol=0, atol=1e-6)
    assert 0.5 < image[:, :, 6].mean() < 1


def widened(image: Tensor) -> Tensor:
    """The ten channels, row by row and view by view, from the seven that a loop gave."""
    wide = torch.zeros(len(image), 3, 10, SIZE, SIZE)
    for row, views in enumerate(image):
        largest = views[:, :3].abs().max()
        for view, (_, _, depth) in enumerate(AXES):
            occupied = views[view, 6] > 0
            wide[row, view, :3] = views[view, :3] / largest
            wide[row, view, 3:6] = views[view, 3:6]
            distance = -views[view, depth][occupied]
            wide[row, view, 6][occupied] = distance - distance.mean()
            wide[row, view, 7] = view - 1
            wide[row, view, 8] = torch.linspace(-1, 1, SIZE)[:, None]
            wide[row, view, 9] = torch.linspace(-1, 1, SIZE)[None]
    return wide


def test_ten_channels_equal_the_loop() -> None:
    cloud, centre = random_cloud(300, 3)
    expected = by_loop(cloud, centre, SIDE, SIZE)
    assert 0.1 < expected[:, :, 6].mean() < 0.9
    image = render_wide(cloud, centre, SIDE, SIZE)
    torch.testing.assert_close(image, widened(expected), rtol=0, atol=2e-6)
    assert torch.equal(image, render_wide(cloud, centre, SIDE, SIZE))
    blurred = Cloud(cloud.points, cloud.colours.float() + 0.5, cloud.rows)
    shifted = render_wide(blurred, centre, SIDE, SIZE) - image
    occupied = expected[:, :, 6:] > 0
    torch.testing.assert_close(shifted[:, :, 3:6], occupied / 255.0 + torch.zeros(3, 3, 3, 8, 8))


def test_depths_are_compared_exactly() -> None:
    """Two points whose heights are neighbouring floats: the higher shows, in either order."""
    low = torch.tensor([0.01, 0.01, 0.1])
    high = low.clone()
    high[2] = torch.nextafter(low[2] / SIDE + 0.5, torch.tensor(1.0)).sub(0.5) * SIDE
    assert to_cube(high, torch.zeros(3), SIDE)[2] > to_cube(low, torch.zeros(3), SIDE)[2]
    colours = torch.tensor([[0, 0, 0], [255, 255, 255]], dtype=torch.uint8)
    for order in ([0, 1], [1, 0]):
        cloud = Cloud(torch.stack([low, high])[order], colours[order], torch.zeros(2).long())
        top = render(cloud, torch.zeros(1, 3), SIDE, SIZE)[0, 0]
        assert top[3][top[6] > 0].tolist() == [1.0]


def test_no_points() -> None:
    cloud = Cloud(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8), torch.zeros(0).long())
    assert not render(cloud, torch.zeros(2, 3), SIDE, SIZE).any()
    assert not render_wide(cloud, torch.zeros(2, 3), SIDE, SIZE)[:, :, :7].any()


def test_rows_are_rendered_apart() -> None:
    cloud, centre = random_cloud(1000, 3)
    own = cloud.rows == 1
    alone = Cloud(cloud.points[own], cloud.colours[own], torch.zeros(int(own.sum())).long())
    for draw in (render, render_wide):
        torch.testing.assert_close(
            draw(alone, centre[1:2], SIDE, SIZE)[0], draw(cloud, centre, SIDE, SIZE)[1]
        )


def test_cube_coordinates_invert() -> None:
    points, centre = torch.rand(10, 3), torch.rand(10, 3)
    torch.testing.assert_close(from_cube(to_cube(points, centre, 0.3), centre, 0.3), points)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_image() -> None:
    cloud, centre = random_cloud(5000, 3)
    moved = Cloud(cloud.points.cuda(), cloud.colours.cuda(), cloud.rows.cuda())
    for draw in (render, render_wide):
        image = draw(moved, centre.cuda(), SIDE, 32).cpu()
        torch.testing.assert_close(image, draw(cloud, centre, SIDE, 32), rtol=0, atol=1e-6)
