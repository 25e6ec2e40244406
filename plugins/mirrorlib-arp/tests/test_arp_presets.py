"""Presets and what options of either architecture may be combined."""

from typing import Any

import pytest
from pydantic import ValidationError

from mirrorlib_arp.config import ArpConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "tiny", "mvt": {}}, "do not go together"),
        ({"preset": "paper", "mvt": None}, "do not go together"),
        ({"preset": "paper", "crop": 16}, "crop belongs to preset tiny"),
        ({"preset": "paper", "site": "stage1_views"}, "has no site stage1_views"),
        ({"preset": "tiny", "site": "slots"}, "has no site slots"),
        ({"preset": "paper", "image_size": 64}, "multiple of mvt.patch 14"),
        ({"preset": "paper", "channels": 6}, "multiple of 4"),
        ({"preset": "paper", "chunk_depth": 3}, "mvt.cross_layers 4 exceeds"),
        ({"preset": "paper", "chunks": "joint"}, "chunks joint belongs to preset tiny"),
        ({"preset": "paper", "mvt": {"rotation_noise": (0.5, 0.5)}}, "an odd number"),
        ({"preset": "paper", "mvt": {"rotation_noise": (0.5, 0.1, 0.1)}}, "sums to 0.7"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArpConfig.model_validate(options)


def test_presets_fill_what_is_left_out() -> None:
    small = ArpConfig.model_validate({"preset": "small", "mvt": {"dropout": 0.0}})
    assert small.mvt is not None and small.mvt.patch == 8 and small.mvt.dropout == 0
    assert ArpConfig.model_validate(small.model_dump()) == small
    tiny = ArpConfig.model_validate({})
    assert tiny.mvt is None and tiny.shift_z is None and tiny.crop == 16
