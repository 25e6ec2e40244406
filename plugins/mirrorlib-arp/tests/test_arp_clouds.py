"""Back-projection against a pinhole camera by hand, and rigid motions of the whole scene."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirrorlib.interfaces import Observations, Steps
from mirrorlib_arp.clouds import Cloud, Motion, back_project, cloud_of, moved, noisy
from mirrorlib_arp.rotation import matrix_from_quaternion

ROWS, CAMERAS, HEIGHT, WIDTH = 3, 2, 6, 8
EVERYWHERE = (-100.0, -100.0, -100.0, 100.0, 100.0, 100.0)


def scene(dtype: torch.dtype = torch.float64) -> Steps:
    rng = np.random.default_rng(0)
    extrinsics = np.tile(np.eye(4), (ROWS, CAMERAS, 1, 1))
    for row in range(ROWS):
        for camera in range(CAMERAS):
            extrinsics[row, camera, :3, :3] = Rotation.random(rng=rng).as_matrix()
            extrinsics[row, camera, :3, 3] = rng.normal(size=3)
    intrinsics = np.array([[9.0, 0, 3.7], [0, 8.0, 3.1], [0, 0, 1]])
    action = np.concatenate([rng.normal(size=(ROWS, 7)), np.ones((ROWS, 2))], 1)
    action[:, 3:7] /= np.linalg.norm(action[:, 3:7], axis=1, keepdims=True)
    proprioception = np.concatenate([action[::-1, :7], rng.uniform(size=(ROWS, 2))], 1)
    return Steps(
        rgb=torch.tensor(rng.integers(0, 256, (ROWS, CAMERAS, 3, HEIGHT, WIDTH)).astype(np.uint8)),
        depth=torch.tensor(rng.uniform(0.5, 2, (ROWS, CAMERAS, HEIGHT, WIDTH)), dtype=dtype),
        intrinsics=torch.tensor(np.tile(intrinsics, (ROWS, CAMERAS, 1, 1)), dtype=dtype),
        extrinsics=torch.tensor(extrinsics, dtype=dtype),
        proprioception=torch.tensor(proprioception, dtype=dtype),
        instruction=["x"] * ROWS,
        text=["x"] * ROWS,
        action=torch.tensor(action, dtype=dtype),
        seed=torch.arange(ROWS),
    )


def whole_cloud(observations: Observations) -> Cloud:
    return cloud_of(observations, EVERYWHERE, 1, torch.zeros(ROWS, dtype=torch.int64))


def test_back_projection_by_hand() -> None:
    given = scene()
    pixels = torch.arange(HEIGHT * WIDTH).expand(ROWS, -1)
    points, valid = back_project(given.depth, given.intrinsics, given.extrinsics, pixels)
    assert valid.all()
    for row, camera, v, u in np.ndindex(ROWS, CAMERAS, HEIGHT, WIDTH):
        depth = given.depth[row, camera, v, u].item()
        local = [(u + 0.5 - 3.7) / 9 * depth, (v + 0.5 - 3.1) / 8 * depth, depth, 1]
        expected = given.extrinsics[row, camera].numpy() @ local
        np.testing.assert_allclose(points[row, camera, v * WIDTH + u], expected[:3], atol=1e-12)


def test_colours_stay_with_their_points() -> None:
    given = scene()
    cloud = whole_cloud(given)
    colours = given.rgb.permute(0, 1, 3, 4, 2).reshape(-1, 3)
    assert torch.equal(cloud.colours, colours)
    assert torch.equal(cloud.rows, torch.arange(ROWS).repeat_interleave(len(colours) // ROWS))


def test_a_stride_of_two_is_a_chess_board() -> None:
    given = scene()
    every, *halves = (
        {tuple(np.round(point, 9)) for point in cloud.points.numpy()}
        for cloud in (
            whole_cloud(given),
            *(cloud_of(given, EVERYWHERE, 2, torch.full((ROWS,), o)) for o in (0, 1)),
        )
    )
    assert halves[0] | halves[1] == every and not halves[0] & halves[1]
    cloud = cloud_of(given, EVERYWHERE, 2, torch.tensor([0, 1, 0]))
    board = np.indices((HEIGHT, WIDTH)).sum(0) % 2
    for row, offset in enumerate((0, 1, 0)):
        chosen = given.rgb[row].permute(0, 2, 3, 1)[:, board == offset].reshape(-1, 3)
        assert torch.equal(cloud.colours[cloud.rows == row], chosen)


def test_points_outside_or_without_depth_are_dropped() -> None:
    given = scene()
    given.depth[0, 0, 0, :4] = torch.tensor([0.0, -1.0, torch.nan, torch.inf])
    assert len(whole_cloud(given).points) == given.depth.numel() - 4
    bounds = (-0.5, -0.5, -0.5, 1.0, 1.0, 1.0)
    cloud = cloud_of(given, bounds, 1, torch.zeros(ROWS, dtype=torch.int64))
    points = whole_cloud(given).points
    inside = ((points > -0.5) & (points < 1)).all(1)
    assert 0 < inside.sum() < len(points)
    assert torch.equal(cloud.points, points[inside])


def drawn(yaw: float = 180.0) -> Motion:
    motion = Motion.drawn(torch.tensor([5, 6, 7]), yaw, 0.1)
    return Motion(motion.yaw.double(), motion.shift.double())


def about_the_target() -> Motion:
    low, high = torch.tensor([[-9.0], [9.0]], dtype=torch.float64).expand(2, 3)
    return drawn().about(scene().action[:, :3], low, high)


@pytest.mark.parametrize("motion", [drawn(), about_the_target()], ids=["origin", "target"])
def test_cloud_pose_and_action_move_together(motion: Motion) -> None:
    given = scene()
    after = moved(given, motion, pose=True)
    before, cloud = whole_cloud(given), whole_cloud(after)
    for row in range(ROWS):
        turn = Rotation.from_euler("z", motion.yaw[row].item())
        shift = motion.shift[row].numpy()
        expected = turn.apply(before.points[before.rows == row].numpy()) + shift
        np.testing.assert_allclose(cloud.points[cloud.rows == row], expected, atol=1e-12)
        for name in ("action", "proprioception"):
            old, new = getattr(given, name)[row], getattr(after, name)[row]
            np.testing.assert_allclose(new[:3], turn.apply(old[:3].numpy()) + shift, atol=1e-12)
            rotation = turn * Rotation.from_quat(old[3:7].numpy())
            np.testing.assert_allclose(
                matrix_from_quaternion(new[3:7]), rotation.as_matrix(), atol=1e-12
            )
            assert torch.equal(new[7:], old[7:])


def test_a_turn_about_the_target_shifts_it_within_the_box() -> None:
    given, motion = scene(), drawn()
    target = given.action[:, :3]
    wide = motion.about(target, target.amin(0) - 1, target.amax(0) + 1)
    after = moved(given, wide, pose=False).action[:, :3]
    torch.testing.assert_close(after, target + motion.shift, rtol=0, atol=1e-12)
    assert torch.equal(wide.yaw, motion.yaw)
    low, high = target.amin(0), target.amax(0)
    kept = moved(given, motion.about(target, low, high), pose=False).action[:, :3]
    torch.testing.assert_close(kept, (target + motion.shift).clamp(low, high), rtol=0, atol=1e-12)


def test_colours_get_noise_of_their_row() -> None:
    rgb = torch.full((3, 2, 3, 40, 50), 100, dtype=torch.uint8)
    seed = torch.tensor([3, 4, 5])
    noise = noisy(rgb, seed, 0.05) - 100
    assert noise.abs().max() <= 12.75 and noise.std() == pytest.approx(12.75 / 3**0.5, rel=0.02)
    assert noise.mean().abs() < 0.2 and not torch.equal(noise[0], noise[1])
    assert torch.equal(noisy(rgb[1:2], seed[1:2], 0.05)[0] - 100, noise[1])


def test_a_plain_vector_does_not_move() -> None:
    given = scene()
    assert torch.equal(moved(given, drawn(), pose=False).proprioception, given.proprioception)


def test_motion_stays_within_bounds_and_follows_the_seed() -> None:
    seed = torch.arange(2000)
    motion = Motion.drawn(seed, 15.0, 0.05)
    deep = Motion.drawn(seed, 15.0, 0.05, 0.2)
    torch.testing.assert_close(deep.shift, motion.shift * torch.tensor([1, 1, 0.2 / 0.015]))
    limit = torch.tensor([0.05, 0.05, 0.015])
    for values, most in [(motion.yaw[:, None], np.radians(15.0)), (motion.shift, limit)]:
        most_of_all: Tensor = values.abs().amax(0)
        assert (most_of_all <= torch.as_tensor(most) + 1e-6).all()
        assert (most_of_all > 0.99 * torch.as_tensor(most)).all()
        assert (values.mean(0).abs() < 0.05 * torch.as_tensor(most)).all()
    again = Motion.drawn(seed[7:8], 15.0, 0.05)
    assert again.yaw[0] == motion.yaw[7] and torch.equal(again.shift[0], motion.shift[7])


@pytest.mark.parametrize("count", [1, 3])
def test_strides_that_do_not_divide_the_width(count: int) -> None:
    given = scene()[:count]
    cloud = cloud_of(given, EVERYWHERE, 3, torch.arange(count))
    assert len(cloud.points) == count * CAMERAS * (HEIGHT * WIDTH // 3)
    assert len({tuple(p) for p in cloud.points.tolist()}) == len(cloud.points)
