"""The chunking causal transformer on its own, for any sequence of tokens decoded in chunks.

After ARP (Zhang et al., "Autoregressive Action Sequence Learning for Robotic Manipulation", 2024).
"""

from mirrorlib_arp.chunking.embeddings import (
    Discrete,
    Embedding,
    Given,
    Linear,
    Sampled,
    Sinusoidal,
)
from mirrorlib_arp.chunking.heads import Classes, Gaussian, Head, Mixture
from mirrorlib_arp.chunking.heatmap import HeatMap, convex_upsample, soft_heatmap
from mirrorlib_arp.chunking.layers import Contexts, Layer, Masked
from mirrorlib_arp.chunking.layout import Layout
from mirrorlib_arp.chunking.tokens import TokenType, Values
from mirrorlib_arp.chunking.transformer import ChunkingTransformer, Generated

__all__ = [
    "ChunkingTransformer",
    "Classes",
    "Contexts",
    "Discrete",
    "Embedding",
    "Gaussian",
    "Generated",
    "Given",
    "Head",
    "HeatMap",
    "Layer",
    "Layout",
    "Linear",
    "Masked",
    "Mixture",
    "Sampled",
    "Sinusoidal",
    "TokenType",
    "Values",
    "convex_upsample",
    "soft_heatmap",
]
