"""Towers that do not learn: what is kept, for how long, and what it may never depend on."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mirrorlib.frozen_text import Frozen
from mirrorlib.interfaces import Text, TextEncoding


class Letters(Text):
    """One token a letter; it counts what it is asked, and dropout would show in training."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(256, width)
        self.dropout = nn.Dropout(0.5)
        self.asked: list[str] = []

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        self.asked += texts
        assert not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        longest = max(map(len, texts))
        device = self.embedding.weight.device
        ids = torch.tensor([[ord(c) for c in t.ljust(longest)] for t in texts], device=device)
        mask = torch.tensor([[c < len(t) for c in range(longest)] for t in texts], device=device)
        tokens = self.dropout(self.embedding(ids)) * mask[..., None]
        return TextEncoding(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True))


def frozen(capacity: int = 8) -> tuple[Frozen, Letters]:
    torch.manual_seed(0)
    tower = Letters()
    return Frozen(tower, capacity), tower


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text("abcd", min_size=1, max_size=5), min_size=1), max_size=6))
def test_it_gives_what_the_tower_gives_and_asks_for_each_text_once(batches: list[list[str]]):
    keeping, tower = frozen(capacity=1000)
    plain = copy.deepcopy(tower).eval()
    for texts in batches:
        found = keeping.train()(texts)
        with torch.no_grad():
            expected = plain(texts)
        assert torch.equal(found.mask, expected.mask)
        torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=0)
        torch.testing.assert_close(found.pooled, expected.pooled)
    assert sorted(tower.asked) == sorted({text for texts in batches for text in texts})


def test_it_never_learns_and_never_drops_out():
    keeping, tower = frozen()
    assert not any(p.requires_grad for p in keeping.parameters())
    assert keeping.train().training and not tower.training and not tower.dropout.training
    assert keeping.width == 4


def test_the_texts_asked_for_longest_ago_are_forgotten():
    keeping, tower = frozen(capacity=2)
    keeping(["a", "b"])
    keeping(["a"])
    keeping(["c"])
    tower.asked.clear()
    keeping(["a"])
    assert tower.asked == []
    keeping(["b"])
    assert tower.asked == ["b"]
    assert keeping(["a", "b", "c", "d"]).pooled.shape == (4, 4)


def test_what_is_kept_follows_the_weights_and_their_precision():
    keeping, _ = frozen()
    before = keeping(["ab"]).pooled
    assert keeping.double()(["ab"]).pooled.dtype == torch.float64
    other, _ = frozen()
    nn.init.ones_(other.tower.embedding.weight)
    keeping.float().load_state_dict(other.state_dict())
    assert torch.equal(keeping(["ab"]).pooled, torch.ones(1, 4)) and not before.eq(1).all()
    outer = nn.ModuleDict({"observer": keeping})
    outer.load_state_dict({"observer.tower.embedding.weight": torch.zeros(256, 4)})
    assert not keeping(["ab"]).pooled.any()
    assert list(keeping.state_dict()) == ["tower.embedding.weight"]


def test_what_evaluation_kept_can_be_trained_on():
    keeping, _ = frozen()
    with torch.inference_mode():
        keeping(["ab", "c"])
    head = nn.Linear(4, 1)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = keeping(["ab", "c", "d"]).pooled
    assert pooled.dtype == torch.float32
    head(pooled).sum().backward()
    assert head.weight.grad is not None and head.weight.grad.any()


@pytest.mark.parametrize("texts", [["abc"], ["d", "abc", "ab"]])
def test_a_text_does_not_depend_on_its_neighbours(texts: list[str]):
    alone, _ = frozen()
    together, _ = frozen()
    expected = alone(["abc"])
    found = together(texts)
    row = texts.index("abc")
    assert torch.equal(found.pooled[row], expected.pooled[0])
    assert torch.equal(found.tokens[row, :3], expected.tokens[0])
