"""A text tower that does not learn: each distinct text is encoded once and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mirrorlib.interfaces import Text, TextEncoding

CAPACITY = 2048
"""Texts kept; those asked for longest ago go first. One of 15 tokens, 512 wide, takes 30 KB."""


class _Kept(NamedTuple):
    """tokens: (L, D) without padding. pooled: (D,)."""

    tokens: Tensor
    pooled: Tensor


class Frozen(Text):
    """tower: what encodes; its parameters stop learning and it stays in evaluation mode.

    Every text is encoded by itself, in the parameters' precision, so that what is kept depends on
    the text alone: not on the texts beside it, the order, autocast or what a resumed run has seen.
    The kept texts are no part of the state_dict. They are forgotten when the tower moves to
    another device or precision, or loads weights.
    """

    def __init__(self, tower: Text, capacity: int = CAPACITY) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False).eval()
        self.width = tower.width
        self.capacity = capacity
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        """K texts. tokens: (K, L, D), zero where masked, L the tokens of the longest text."""
        rows = [self._row(text) for text in texts]
        lengths = torch.tensor([len(row.tokens) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        tokens = pad_sequence([row.tokens for row in rows], batch_first=True)
        return TextEncoding(tokens, mask.to(tokens.device), torch.stack([r.pooled for r in rows]))

    def _row(self, text: str) -> _Kept:
        row = self._kept.get(text)
        if row is None:
            row = self._kept[text] = self._encoded(text)
            if len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return row

    def _encoded(self, text: str) -> _Kept:
        device = next(self.tower.parameters()).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            encoding = self.tower([text])
            return _Kept(encoding.tokens[0, encoding.mask[0]], encoding.pooled[0])

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.tower.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self._kept.clear()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._kept.clear()
        super()._load_from_state_dict(*args, **options)
