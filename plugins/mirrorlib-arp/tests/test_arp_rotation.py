"""Rotations against scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mirrorlib_arp.rotation import (
    bins_from_quaternion,
    matrix_from_quaternion,
    multiply,
    quaternion_from_bins,
    soft_labels,
)

RNG = np.random.default_rng(0)


def test_matrix_and_product() -> None:
    a, b = Rotation.random(500, rng=RNG), Rotation.random(500, rng=RNG)
    qa, qb = torch.tensor(a.as_quat()), torch.tensor(b.as_quat())
    np.testing.assert_allclose(matrix_from_quaternion(-3 * qa), a.as_matrix(), atol=1e-12)
    product = Rotation.from_quat(multiply(qa, qb).numpy())
    assert (product * (a * b).inv()).magnitude().max() < 1e-7


@pytest.mark.parametrize("bins", [72, 36, 30])
def test_bins_are_the_nearest_euler_angles(bins: int) -> None:
    rotation = Rotation.random(2000, rng=RNG)
    angles = rotation.as_euler("xyz", degrees=True)
    locked = np.abs(np.abs(angles[:, 1]) - 90) <= 180 / bins
    expected = np.rint((angles + 180) / (360 / bins)).astype(int) % bins
    index = bins_from_quaternion(torch.tensor(rotation.as_quat()), bins).numpy()
    np.testing.assert_array_equal(index[~locked], expected[~locked])


def test_bins_decode_as_scipy_does() -> None:
    index = torch.tensor(RNG.integers(0, 72, (1000, 3)))
    expected = Rotation.from_euler("xyz", index.numpy() * 5.0 - 180, degrees=True)
    decoded = Rotation.from_quat(quaternion_from_bins(index, 72).numpy())
    assert np.degrees((decoded * expected.inv()).magnitude().max()) < 1e-3


def test_round_trip_errs_by_less_than_a_bin() -> None:
    """Three angles of at most 2.5 degrees of error each, at the worst all about one axis."""
    rotation = Rotation.random(5000, rng=RNG)
    quaternion = torch.tensor(rotation.as_quat(), dtype=torch.float32)
    decoded = quaternion_from_bins(bins_from_quaternion(quaternion, 72), 72)
    error = (Rotation.from_quat(decoded.numpy()) * rotation.inv()).magnitude()
    assert np.degrees(error.max()) < 7.5


@pytest.mark.parametrize("pitch", [90.0, -90.0])
def test_gimbal_lock_has_one_label(pitch: float) -> None:
    """Turns that are the same rotation get the same bins, noise of float32 notwithstanding."""
    roll = RNG.uniform(-180, 180, 50)
    split = RNG.uniform(-180, 180, 50)
    same = [
        Rotation.from_euler("xyz", np.stack([a, np.full(50, pitch), c], 1), degrees=True)
        for a, c in ((roll, 0 * roll), (roll + np.sign(pitch) * split, split))
    ]
    noise = torch.tensor(RNG.normal(0, 1e-6, (50, 4)), dtype=torch.float32)
    labels = [
        bins_from_quaternion(torch.tensor(r.as_quat(), dtype=torch.float32) + noise, 72)
        for r in same
    ]
    assert torch.equal(labels[0][:, 1:], labels[1][:, 1:])
    away = (labels[0][:, 0] - labels[1][:, 0]).remainder(72)
    assert (torch.minimum(away, 72 - away) == 0).float().mean() > 0.95
    decoded = Rotation.from_quat(quaternion_from_bins(labels[1], 72).numpy())
    assert np.degrees((decoded * same[0].inv()).magnitude().max()) < 2.6


def test_soft_labels_wrap_around() -> None:
    labels = soft_labels(torch.tensor([0, 71]), 72, 1.0)
    torch.testing.assert_close(labels.sum(1), torch.ones(2))
    torch.testing.assert_close(labels[0].roll(-1), labels[1])
    assert labels[0, 1] == labels[0, 71]
    assert labels[0, 1] / labels[0, 0] == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_without_spread_a_label_is_the_bin_alone() -> None:
    labels = soft_labels(torch.tensor([3, 71]), 72, 0.0)
    assert labels.sum() == 2 and labels[0, 3] == labels[1, 71] == 1
