"""Resampling, resizing and augmentation of clips, against plain loops."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirrorlib.video_text import augment, bounded_scale, prepare, resample


def frames(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 3, height, width), generator=generator).byte()


@given(st.integers(1, 40), st.integers(1, 40))
def test_resampled_frames_lie_in_the_middle_of_their_segments(length: int, count: int):
    kept = resample(torch.arange(length)[None], count)[0].tolist()
    for place, frame in enumerate(kept):
        # the segment's middle, in frames, falls within the frame [frame, frame + 1)
        assert frame * count <= (place + 0.5) * length < (frame + 1) * count


def test_clips_of_the_wanted_length_stay_as_they_are():
    video = frames(4, 4)
    assert resample(video, None) is video and resample(video, 3) is video
    assert torch.equal(resample(video, 1), video[:, 1:2])
    assert torch.equal(resample(video, 6), video.repeat_interleave(2, 1))


def test_whole_multiples_are_means_over_areas():
    video = frames(32, 48)
    ready = prepare(video, 16)
    assert ready.shape == (2, 3, 3, 16, 16) and ready.dtype == torch.float32
    cell = video[1, 2, 0, 4:6, 9:12].double().mean() / 127.5 - 1
    torch.testing.assert_close(ready[1, 2, 0, 2, 3].double(), cell, rtol=1e-5, atol=1e-5)


def test_any_size_is_resized_within_range():
    for height, width in ((16, 16), (37, 50), (8, 12)):
        ready = prepare(frames(height, width), 16)
        assert ready.shape == (2, 3, 3, 16, 16)
        assert ready.abs().max() <= 1 + 1e-5
    white = prepare(torch.full((1, 1, 3, 37, 50), 255).byte(), 16)
    torch.testing.assert_close(white, torch.ones_like(white))


def test_augmentation_depends_on_the_row_alone():
    video = torch.rand(4, 2, 3, 24, 24) * 2 - 1
    seed = torch.tensor([5, 6, 7, 5])
    ready = augment(video, seed)
    torch.testing.assert_close(augment(video[2:3], seed[2:3]), ready[2:3])
    same = augment(video[:1].expand(4, -1, -1, -1, -1), seed)
    assert torch.equal(same[0], same[3]) and not torch.equal(same[0], same[1])


def test_augmentation_shifts_and_scales_within_its_limits():
    ramp = torch.linspace(-1, 1, 24)
    video = ramp.expand(64, 1, 3, 24, 24).contiguous()
    ready = augment(video, torch.arange(64))
    offsets = set()
    for row in ready:
        # columns of a ramp: gain from two neighbours inside, shift and brightness from the rest
        inside = row[0, 0, 0, 10:12]
        gain = float((inside[1] - inside[0]) / (ramp[11] - ramp[10]))
        assert 0.85 - 1e-4 <= gain <= 1.15 + 1e-4
        errors = {
            shift: (row[0, 0, 0] - gain * ramp[(torch.arange(24) + shift).clamp(0, 23)])
            for shift in range(-2, 3)
        }
        best = min(errors, key=lambda shift: errors[shift].std())
        assert errors[best].std() < 1e-5 and abs(errors[best].mean()) <= 0.1 + 1e-4
        offsets.add(best)
    assert offsets == {-2, -1, 0, 1, 2}


def test_streams_are_independent():
    video, seed = torch.rand(8, 1, 3, 24, 24), torch.arange(8)
    one, other = (augment(video, seed, stream) for stream in ("one", "other"))
    assert torch.equal(one, augment(video, seed, "one"))
    assert all(not torch.equal(*rows) for rows in zip(one, other, strict=True))


def test_the_temperature_stays_in_range():
    for beyond, kept in ((9.0, 100.0), (-2.0, 1.0), (math.log(10), 10.0)):
        log_scale = torch.nn.Parameter(torch.tensor(beyond))
        scale = bounded_scale(log_scale)
        assert scale.item() == pytest.approx(kept)
        scale.backward()
        assert log_scale.grad is not None and log_scale.grad.item() == pytest.approx(kept)


def test_options_do_not_import_torch():
    code = "import sys, mirrorlib.video_text_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
