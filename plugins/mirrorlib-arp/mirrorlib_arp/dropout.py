"""Dropout by the rows' own seeds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mirrorlib.randomness import derive_seed, uniform


@dataclass(frozen=True)
class RowDropout:
    """Dropout whose masks come from the rows' own seeds, so that results do not depend on how
    rows are spread over processes. Cheap in 32 bits: a number for each token of a row and one
    for each channel, mixed by a multiplicative hash.

    seed: (B,) int64; None: from torch's generator.
    """

    share: float
    seed: Tensor | None

    def __call__(self, tokens: Tensor, stream: str) -> Tensor:
        """tokens: (B, N, D). stream: names the place, which has masks of its own."""
        if not self.share:
            return tokens
        if self.seed is None:
            return F.dropout(tokens, self.share)
        length, width = tokens.shape[1:]
        token = _integers(uniform(self.seed, length, f"{stream} tokens"))
        key = torch.full_like(self.seed[:1], derive_seed(stream))
        mixed = token[:, :, None] ^ _integers(uniform(key, width, "channels"))
        mixed = mixed * -1640531535
        mixed = (mixed ^ ((mixed >> 15) & 0x1FFFF)) * -2048144777
        kept = mixed >= int(self.share * 2**32) - 2**31
        return tokens * kept * (1 / (1 - self.share))


def _integers(number: Tensor) -> Tensor:
    """Numbers in [0, 1) with 24 bits as int32 of which all bits vary."""
    return (number * 2**24).int() * -1028477379
