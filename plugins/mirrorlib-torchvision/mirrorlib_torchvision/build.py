"""Observers from their options."""

from __future__ import annotations

import mirrorlib
from mirrorlib_torchvision.backbones import R3D, R3D18, VideoBackbone, load_r3d_18
from mirrorlib_torchvision.config import R3D18Config, R3DConfig, VideoTextConfig
from mirrorlib_torchvision.observer import VideoTextObserver


def build_r3d(config: R3DConfig) -> VideoTextObserver:
    return _build(R3D(config.width), config)


def build_r3d_18(config: R3D18Config) -> VideoTextObserver:
    network = load_r3d_18(config.weights)
    return _build(R3D18(network, config.freeze_batch_norm), config)


def _build(backbone: VideoBackbone, config: VideoTextConfig) -> VideoTextObserver:
    return VideoTextObserver(
        backbone,
        mirrorlib.build("text", **config.text),
        embed_dim=config.embed_dim,
        image_size=config.image_size,
        representation=config.representation,
        temperature=config.temperature,
        augmented=config.augment,
    )
