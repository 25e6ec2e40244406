"""A text tower trained from scratch: hashed word embeddings and a small transformer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from mirrorlib.interfaces import Text, TextEncoding
from mirrorlib_text.config import WordsConfig

_WORD = re.compile(r"[^\W_]+")


@lru_cache(maxsize=65536)
def word_ids(text: str, buckets: int) -> tuple[tuple[int, int], ...]:
    """Rows of each lower-case word in two tables stacked in one: [0, buckets) and [buckets,
    2 buckets). A function of the letters alone, the same in every process.

    Raises ValueError where the text holds no word.
    """
    words = _WORD.findall(text.lower())
    if not words:
        raise ValueError(f"a text must hold at least one word, got {text!r}")
    digests = [hashlib.blake2b(word.encode(), digest_size=16).digest() for word in words]
    return tuple(
        (
            int.from_bytes(digest[:8], "little") % buckets,
            int.from_bytes(digest[8:], "little") % buckets + buckets,
        )
        for digest in digests
    )


class Words(Text):
    """Each word is the sum of two hashed embeddings (Svenstrup et al. 2017, without weights).

    The pooled vector adds a linear map of the mean embedding, blind to word order, to the mean
    of the contextual words: the first learns to tell instructions apart quickly, the second
    keeps their order.
    """

    def __init__(self, config: WordsConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.embedding = nn.Embedding(2 * config.buckets, config.width)
        nn.init.normal_(self.embedding.weight, std=0.5**0.5)
        self.position = nn.Parameter(0.02 * torch.randn(config.max_words, config.width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                dim_feedforward=4 * config.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.bag = nn.Linear(config.width, config.width)

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        """K texts. tokens: (K, L, D), zero where masked, L the words of the longest text, at
        most `max_words`. Raises ValueError where a text holds no word."""
        ids, mask = self._ids(texts)
        embedded = self.embedding(ids).sum(2)
        tokens = embedded + self.position[: ids.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        weight = mask.to(tokens.dtype)[..., None]
        tokens = tokens * weight
        count = weight.sum(1)
        bag = self.bag((embedded * weight).sum(1) / count)
        return TextEncoding(tokens, mask, bag + tokens.sum(1) / count)

    def _ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Table rows (K, L, 2) int64 and mask (K, L) bool."""
        device = self.position.device
        rows = [word_ids(text, self.config.buckets)[: self.config.max_words] for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros(len(rows), max(map(len, rows)), 2, dtype=torch.int64)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        ids[mask] = torch.tensor([word for row in rows for word in row])
        return ids.to(device), mask.to(device)
