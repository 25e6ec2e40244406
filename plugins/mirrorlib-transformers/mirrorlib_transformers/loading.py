"""A model of transformers', with all its weights, and what its configuration says of clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mirrorlib.errors import UserError

FRAMES = ("num_frames", "frames_per_clip")
SIZES = ("image_size", "crop_size")
"""Names that families give to the same."""


@dataclass(frozen=True)
class Facts:
    """num_frames: T and image_size: S of the clips that a model was made for. scale, mean, std: a
    pixel p in [0, 255] is given to it as (scale p - offset - mean) / std."""

    num_frames: int
    image_size: int
    scale: float
    offset: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Loaded:
    """missing: names of parameters that the weights lacked; they hold random numbers."""

    model: Any
    facts: Facts
    missing: frozenset[str]


def load(name: str) -> Loaded:
    """name: a hub id or a folder. In float32 on the CPU, without dropout, without remote code.
    Raises UserError."""
    config, processor = _config(name), _processor(name)
    facts = _facts(name, config, processor)
    from transformers import AutoModel

    try:
        model, found = AutoModel.from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise _failure(name, error) from error
    return Loaded(model, facts, frozenset(found["missing_keys"]))


def _config(name: str) -> Any:
    try:
        from transformers import AutoConfig
    except Exception as error:  # a broken torchvision raises RuntimeError
        raise UserError(
            "observer transformers: transformers cannot be imported "
            f"({type(error).__name__}: {error}); run `pip install --upgrade transformers`"
        ) from error
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise _failure(name, error) from error
    for part in _parts(config):
        for key, value in part.to_dict().items():
            if ("dropout" in key or "drop_path" in key) and type(value) in (int, float):
                setattr(part, key, type(value)(0))
    return config


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and those within it."""
    yield config
    for key in getattr(config, "sub_configs", {}):
        yield from _parts(getattr(config, key))


def _processor(name: str) -> Any:
    """The model's image or video processor, for its numbers alone."""
    from transformers import AutoImageProcessor, AutoVideoProcessor

    problem: Exception | None = None
    for kind in (AutoImageProcessor, AutoVideoProcessor):
        try:
            return kind.from_pretrained(name, trust_remote_code=False)
        except Exception as error:
            problem = problem or error
    raise UserError(
        f"observer transformers: {name} has no image or video processor "
        f"({_short(problem)}); add its preprocessor_config.json"
    ) from problem


def _facts(name: str, config: Any, processor: Any) -> Facts:
    vision = getattr(config, "vision_config", config)
    frames = next((getattr(vision, key) for key in FRAMES if hasattr(vision, key)), None)
    size = next((getattr(vision, key) for key in SIZES if hasattr(vision, key)), None)
    sides = {size} if isinstance(size, int) else set(size or ())
    if not isinstance(frames, int) or len(sides) != 1:
        raise UserError(
            f"observer transformers: {name} is a {config.model_type}, whose configuration tells no "
            "number of frames or square image size; give a video model"
        )
    rescale, normalise = processor.do_rescale, processor.do_normalize
    return Facts(
        frames,
        sides.pop(),
        processor.rescale_factor if rescale else 1.0,
        1.0 if rescale and getattr(processor, "offset", False) else 0.0,
        tuple(processor.image_mean) if normalise else (0.0,) * 3,
        tuple(processor.image_std) if normalise else (1.0,) * 3,
    )


def _failure(name: str, error: Exception) -> UserError:
    return UserError(
        f"observer transformers: model {name!r} does not load ({_short(error)}); give a folder "
        "that transformers wrote, or the hub id of a model that needs no code of its own, where "
        "there is a network"
    )


def _short(error: Exception | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
