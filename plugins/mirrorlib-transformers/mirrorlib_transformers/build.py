"""The observer from its options."""

from __future__ import annotations

import mirrorlib
from mirrorlib.errors import UserError
from mirrorlib.frozen_text import Frozen
from mirrorlib.interfaces import Text
from mirrorlib.video_text import VideoTextObserver, augment
from mirrorlib_transformers.config import TransformersConfig
from mirrorlib_transformers.loading import Loaded, load
from mirrorlib_transformers.network import TransformersNetwork
from mirrorlib_transformers.xclip import own_text, start_as_identity


def build(config: TransformersConfig) -> VideoTextObserver:
    """Raises UserError where the model cannot be had, or is not what the options say."""
    loaded = load(config.model)
    text = _text(loaded, config)
    backbone = TransformersNetwork(
        loaded, config.model, config.num_frames, config.pooling, config.freeze
    )
    observer = VideoTextObserver(
        backbone,
        text,
        embed_dim=config.embed_dim,
        image_size=backbone.image_size,
        representation=config.representation,
        temperature=config.temperature,
        augmentation=augment if config.augment else None,
    )
    if config.own_text:
        start_as_identity(observer.video_head, observer.text_head)
    return observer


def _text(loaded: Loaded, config: TransformersConfig) -> Text:
    if not config.own_text:
        tower: Text = mirrorlib.build("text", **config.text)
        return tower
    own = own_text(loaded, config.model)
    if own.width != config.embed_dim:
        raise UserError(
            f"observer transformers: embed_dim is {config.embed_dim}, but {config.model} compares "
            f"videos and texts in {own.width} dimensions; set embed_dim to that"
        )
    return Frozen(own) if config.freeze else own
