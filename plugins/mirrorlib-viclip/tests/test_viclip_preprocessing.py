"""Which frames are looked at, and how they are resized and normalised."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mirrorlib_viclip.preprocessing import middle_frames, prepare


def test_known_indices():
    assert middle_frames(8, 8) == list(range(8))
    assert middle_frames(16, 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert middle_frames(24, 8) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert middle_frames(10, 4) == [0, 3, 5, 8]
    assert middle_frames(3, 5) == [0, 1, 2, 2, 2]
    assert middle_frames(9, 1) == [4]
    with pytest.raises(ValueError, match="at least 1"):
        middle_frames(0, 8)


@given(present=st.integers(1, 400), wanted=st.integers(1, 40))
def test_indices_are_middles_of_equal_segments(present, wanted):
    found = middle_frames(present, wanted)
    assert len(found) == wanted and found == sorted(found)
    segments = min(present, wanted)
    bounds = np.floor(np.arange(segments + 1) * present / segments + 1e-9).astype(int)
    expected = [(a + b - 1) // 2 for a, b in pairwise(bounds)]
    assert found == expected + [expected[-1]] * (wanted - segments)


def test_normalised_by_imagenets_statistics():
    frames = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8)
    ready = prepare(frames, 8, 3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (frames.numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    assert ready.dtype == torch.float32
    np.testing.assert_allclose(ready, expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(37, 64), (16, 20), (128, 128)])
def test_resized_as_pillow_does_without_a_crop(height, width):
    picture = np.random.default_rng(0).integers(80, 176, (height, width, 3), dtype=np.uint8)
    frames = torch.from_numpy(picture).permute(2, 0, 1).expand(1, 5, -1, -1, -1)
    ready = prepare(frames, 32, 2)
    resized = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))
    plain = prepare(torch.from_numpy(resized.copy()).permute(2, 0, 1)[None, None], 32, 1)
    assert ready.shape == (1, 2, 3, 32, 32)
    step = 1 / 255 / 0.224
    assert (ready - plain).abs().max() < 1.6 * step, "Pillow rounds after each axis"
