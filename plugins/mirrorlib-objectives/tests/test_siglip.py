"""SigLIP against the formula, written with loops, and against float64 autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from mirrorlib_objectives import tiles
from mirrorlib_objectives.config import SigLIPConfig
from mirrorlib_objectives.siglip import SigLIP, build_siglip

POSITIVES = ("diagonal", "multi", "masked")


def reference(
    u: Tensor, e: Tensor, labels: list[int], temperature: float, bias: float, positives: str
) -> float:
    """Equation 1, one pair at a time, in Python floats."""
    total = 0.0
    for i, left in enumerate(u.tolist()):
        for j, right in enumerate(e.tolist()):
            dot = sum(x * y for x, y in zip(left, right, strict=True))
            logit = dot / (math.hypot(*left) * math.hypot(*right)) / temperature + bias
            if i != j and labels[i] == labels[j] and positives == "masked":
                continue
            match = i == j or (labels[i] == labels[j] and positives == "multi")
            exponent = -logit if match else logit
            total += max(exponent, 0) + math.log1p(math.exp(-abs(exponent)))
    return total / len(labels)


def plain_formula(
    u: Tensor, e: Tensor, scale: Tensor, bias: Tensor, labels: Tensor | None, positives: str
) -> Tensor:
    logits = scale * normalize(u, dim=1) @ normalize(e, dim=1).T + bias
    itself = torch.eye(len(u), dtype=torch.bool)
    same = itself if labels is None else labels[:, None] == labels
    match = same if positives == "multi" else itself
    losses = -logsigmoid(torch.where(match, logits, -logits))
    left_out = same & ~itself if positives == "masked" else torch.zeros_like(itself)
    return losses.masked_fill(left_out, 0).sum() / len(u)


def sides(count: int, width: int, alike: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    u, noise = torch.randn(2, count, width, generator=generator, dtype=dtype) / math.sqrt(width)
    return u, alike * u + (1 - alike) * noise


@settings(max_examples=50, deadline=None)
@given(
    labels=st.none() | st.lists(st.integers(0, 3), min_size=1, max_size=9),
    temperature=st.floats(0.02, 2.0),
    bias=st.floats(-20, 5),
    positives=st.sampled_from(POSITIVES),
    seed=st.integers(0, 2**31),
)
def test_value_matches_the_formula(labels, temperature, bias, positives, seed):
    generator = torch.Generator().manual_seed(seed)
    names = list(range(5)) if labels is None else labels
    u, e = torch.randn(2, len(names), 6, dtype=torch.float64, generator=generator)
    objective = SigLIP(temperature, learnable_temperature=False, bias=bias, positives=positives)
    torch.nn.init.constant_(objective.double().bias, bias)
    value = objective(u, e, None if labels is None else torch.tensor(labels)).value
    expected = reference(u, e, names, temperature, bias, positives)
    assert value.item() == pytest.approx(expected, rel=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    tile=st.integers(1, 64),
    count=st.integers(1, 60),
    cache=st.sampled_from([0, 2**40]),
    temperature=st.floats(math.log(0.01), 0).map(math.exp),
    bias=st.floats(-20, 5),
    positives=st.sampled_from(POSITIVES),
    classes=st.none() | st.integers(1, 40),
    alike=st.sampled_from([0.0, 0.6, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_gradients_are_exact(
    tile, count, cache, temperature, bias, positives, classes, alike, dtype
):
    """Of both sides, the scale and the bias. float32 logits are rounded to 6e-8 of the scale."""
    count = min(count, 10 * tile)
    u, e = (x.requires_grad_() for x in sides(count, 12, alike, dtype))
    labels = None if classes is None else torch.arange(count) * 7 % classes
    objective = SigLIP(temperature, bias=bias, positives=positives).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", tile)
        patch.setattr(tiles, "CACHE_BYTES", cache)
        value = objective(u, e, labels).value
        value.backward()
    inputs = [x.detach().double().requires_grad_() for x in (u, e)]
    scale = objective.log_scale.detach().double().exp().requires_grad_()
    shift = objective.bias.detach().double().requires_grad_()
    exact = plain_formula(*inputs, scale, shift, labels, positives)
    exact.backward()
    found = (value, u.grad, e.grad, objective.log_scale.grad / scale.detach(), objective.bias.grad)
    expected = (exact, *(x.grad for x in (*inputs, scale, shift)))
    rounding = 1e-5 if dtype == torch.float32 else 1e-9
    for x, y in zip(found, expected, strict=True):
        assert (x - y).norm() <= rounding * y.norm() + 0.05 * rounding * (1 + 1 / temperature)


@pytest.mark.parametrize("positives", POSITIVES)
def test_kept_tiles_and_a_second_backward_give_the_same_bits(monkeypatch, positives):
    u, e = (x.requires_grad_() for x in sides(50, 8, 0.6, torch.float32))
    monkeypatch.setattr(tiles, "TILE", 16)
    found = []
    for cache in (0, 2**40):
        monkeypatch.setattr(tiles, "CACHE_BYTES", cache)
        objective = SigLIP(positives=positives)
        inputs = (u, e, *objective.parameters())
        value = objective(u, e, torch.arange(50) % 9).value
        found += [torch.autograd.grad(value, inputs, retain_graph=True) for _ in range(2)]
    for gradients in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], gradients, strict=True))


def test_a_pair_does_not_depend_on_the_others():
    """The gradient of a row's logits with the rest stays, whatever rows join: the sum grows."""
    u, e = sides(6, 8, 0.6, torch.float64)
    objective = SigLIP().double()
    together = 6 * objective(u, e).value
    apart = 0.0
    for i in range(6):
        for j in range(i):
            pair = [i, j]
            apart += 2 * objective(u[pair], e[pair]).value
    alone = sum(objective(u[[i]], e[[i]]).value for i in range(6))
    torch.testing.assert_close(together, apart - 4 * alone, rtol=1e-12, atol=0)


def test_logs():
    u, e = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
    plain = SigLIP(bias=-3.0)(u, e).logs
    assert sorted(plain) == ["bias", "cosine", "cosine_any", "loss", "temperature"]
    assert plain["cosine"].item() == 0.5 and plain["cosine_any"].item() == 0.25
    assert plain["bias"].item() == -3
    assert plain["temperature"].item() == pytest.approx(0.1)
    assert not any(value.requires_grad for value in plain.values())
    collapsed = SigLIP()(torch.ones(4, 3), torch.ones(4, 3)).logs
    assert collapsed["cosine"].item() == pytest.approx(collapsed["cosine_any"].item())
    generator = torch.Generator().manual_seed(0)
    u, e = torch.randn(2, 33, 16, generator=generator)
    plain = SigLIP()(u, e).logs
    with torch.autocast("cpu", torch.bfloat16):
        assert SigLIP()(u, e).logs == plain


def test_configuration():
    objective = build_siglip(SigLIPConfig(temperature=0.2, bias=-5, positives="masked"))
    assert objective.positives == "masked" and objective.bias.item() == -5
    assert objective.log_scale.item() == pytest.approx(-math.log(0.2))
    assert [name for name, _ in SigLIP(learnable_temperature=False).named_parameters()] == ["bias"]
    for beyond, kept in ((9.0, math.log(100)), (-3.0, 0.0)):
        torch.nn.init.constant_(objective.log_scale, beyond)
        objective.after_step()
        assert objective.log_scale.item() == pytest.approx(kept)
    assert objective.bias.item() == -5
    for wrong in ({"bias": math.nan}, {"positives": "all"}, {"temperature": 2}):
        with pytest.raises(ValidationError):
            SigLIPConfig(**wrong)
