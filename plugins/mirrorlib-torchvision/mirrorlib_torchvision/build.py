"""Observers from their options."""

from __future__ import annotations

from functools import partial

import mirrorlib
from mirrorlib.video_text import VideoBackbone, VideoTextObserver, augment
from mirrorlib.video_text_config import VideoTextConfig
from mirrorlib_torchvision.backbones import R3D
from mirrorlib_torchvision.config import (
    MViTV2SConfig,
    R3D18Config,
    R3DConfig,
    S3DConfig,
    Swin3DTConfig,
)
from mirrorlib_torchvision.published import PublishedNetwork, load_network


def build_r3d(config: R3DConfig) -> VideoTextObserver:
    return _build(R3D(config.width), config, config.image_size)


def build_r3d_18(config: R3D18Config) -> VideoTextObserver:
    size = config.image_size
    network = load_network("r3d_18", config.weights)
    frames, frozen = config.num_frames, config.freeze_batch_norm
    return _build(PublishedNetwork("r3d_18", network, size, frames, frozen), config, size)


def build_mvit_v2_s(config: MViTV2SConfig) -> VideoTextObserver:
    size = config.image_size
    network = load_network("mvit_v2_s", config.weights)
    return _build(PublishedNetwork("mvit_v2_s", network, size, config.num_frames), config, size)


def build_s3d(config: S3DConfig) -> VideoTextObserver:
    size = config.image_size
    network = load_network("s3d", config.weights)
    frames, frozen = config.num_frames, config.freeze_batch_norm
    return _build(PublishedNetwork("s3d", network, size, frames, frozen), config, size)


def build_swin3d_t(config: Swin3DTConfig) -> VideoTextObserver:
    size = config.image_size
    network = load_network("swin3d_t", config.weights)
    return _build(PublishedNetwork("swin3d_t", network, size, config.num_frames), config, size)


def _build(backbone: VideoBackbone, config: VideoTextConfig, image_size: int) -> VideoTextObserver:
    return VideoTextObserver(
        backbone,
        mirrorlib.build("text", **config.text),
        embed_dim=config.embed_dim,
        image_size=image_size,
        representation=config.representation,
        temperature=config.temperature,
        augmentation=partial(augment, stream="mirrorlib-torchvision") if config.augment else None,
    )
