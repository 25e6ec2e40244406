"""The chunking causal transformer: what sees what, and that one pass equals decoding."""

import itertools

import pytest
import torch
from torch import Tensor

from mirrorlib_arp.chunks import ChunkingTransformer
from mirrorlib_arp.policy import CHUNKS, HIDDEN

LAYOUTS = pytest.mark.parametrize("chunks", list(CHUNKS.values()), ids=list(CHUNKS))
VALUES = (3, 4, 3, 2, 2)
PROMPT = 4


def model(chunks: tuple[int, ...], hidden: frozenset[tuple[int, int]]) -> ChunkingTransformer:
    torch.manual_seed(1)
    return ChunkingTransformer(VALUES, chunks, hidden, PROMPT, 16, 2, 2).double()


def every_value() -> Tensor:
    return torch.tensor(list(itertools.product(*map(range, VALUES))))


def prompt_of(rows: int) -> Tensor:
    prompt = torch.randn(1, PROMPT, 16, dtype=torch.float64, generator=torch.manual_seed(2))
    return prompt.expand(rows, -1, -1)


def log_likelihood(logits: list[Tensor], values: Tensor) -> Tensor:
    terms = [
        token.log_softmax(-1).gather(1, values[:, t, None])[:, 0] for t, token in enumerate(logits)
    ]
    return torch.stack(terms, 1)


@LAYOUTS
@pytest.mark.parametrize("hidden", [HIDDEN, frozenset()], ids=["hidden", "open"])
def test_one_pass_equals_decoding_chunk_by_chunk(
    chunks: tuple[int, ...], hidden: frozenset[tuple[int, int]]
) -> None:
    module, values = model(chunks, hidden), every_value()
    prompt = prompt_of(len(values))
    with torch.no_grad():
        together = log_likelihood(module(prompt, values), values)
        stepwise: list[Tensor] = []
        while len(stepwise) < len(VALUES):
            stepwise += module.step(prompt, values[:, : len(stepwise)])
    separately = log_likelihood(stepwise, values)
    torch.testing.assert_close(together, separately, rtol=1e-6, atol=1e-6)
    assert together.sum(1).exp().sum().item() == pytest.approx(1, abs=1e-6)


@LAYOUTS
@pytest.mark.parametrize("changed", range(5))
def test_a_value_never_reaches_its_own_or_an_earlier_chunk(
    chunks: tuple[int, ...], changed: int
) -> None:
    module = model(chunks, HIDDEN)
    values = torch.tensor([[0, 1, 2, 0, 1]])
    other = values.clone()
    other[0, changed] = (other[0, changed] + 1) % VALUES[changed]
    with torch.no_grad():
        before, after = (module(prompt_of(1), given) for given in (values, other))
    chunk_of = [number for number, size in enumerate(chunks) for _ in range(size)]
    for token in range(5):
        unseen = chunk_of[token] <= chunk_of[changed] or (token, changed) in HIDDEN
        assert torch.equal(before[token], after[token]) == unseen, token


@LAYOUTS
def test_decode_takes_the_likeliest_value_of_each_step(chunks: tuple[int, ...]) -> None:
    module = model(chunks, HIDDEN)
    prompt = torch.randn(7, PROMPT, 16, dtype=torch.float64, generator=torch.manual_seed(3))
    decoded = module.decode(prompt)
    with torch.no_grad():
        for token, logits in enumerate(module(prompt, decoded)):
            assert torch.equal(logits.argmax(-1), decoded[:, token])


@LAYOUTS
def test_every_parameter_receives_a_gradient(chunks: tuple[int, ...]) -> None:
    module, values = model(chunks, HIDDEN), every_value()
    (-log_likelihood(module(prompt_of(len(values)), values), values).mean()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
