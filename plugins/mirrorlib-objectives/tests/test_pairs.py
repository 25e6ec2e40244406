"""The engine of the contrastive objectives: tiles, kept or not, against float64 autograd."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirrorlib_objectives import tiles
from mirrorlib_objectives.infonce import InfoNCE

POSITIVES = ("diagonal", "multi", "masked")
TILED, CACHED = 0, 2**40


@contextmanager
def engine(tile: int, cache: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", tile)
        patch.setattr(tiles, "CACHE_BYTES", cache)
        yield


def plain_formula(
    u: Tensor, e: Tensor, scale: Tensor, labels: Tensor | None, positives: str, rows: slice
) -> Tensor:
    """What the rows add to the mean. -log(exp(p) / sum exp(s)) is written log1p(sum of the others,
    over exp(p)) so that float64 itself stays exact where the partner's share is nearly 1."""
    places = torch.arange(len(u))
    itself = places[rows, None] == places
    same = itself if labels is None else labels[rows, None] == labels
    dropped = same if positives == "masked" else itself
    value = scale.new_zeros(())
    for x, y in ((u, e), (e, u)):
        s = scale * normalize(x[rows], dim=1) @ normalize(y, dim=1).T
        partner = s.diagonal(rows.start)
        losses = (s - partner[:, None]).exp().masked_fill(dropped, 0).sum(1).log1p()
        if positives == "multi":
            losses = losses + partner - s.where(same, 0).sum(1) / same.sum(1)
        value = value + losses.sum() / (2 * len(u))
    return value


def exact(
    u: Tensor, e: Tensor, temperature: float, labels: Tensor | None, positives: str
) -> list[Tensor]:
    """Value and gradients of u, e and the scale, in float64."""
    u, e = (x.double().clone().requires_grad_() for x in (u, e))
    scale = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    value = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(u), 256):
        rows = slice(start, min(start + 256, len(u)))
        part = plain_formula(u, e, scale, labels, positives, rows)
        part.backward()
        value += part.detach()
    return [value, u.grad, e.grad, scale.grad]


def ours(
    u: Tensor, e: Tensor, temperature: float, labels: Tensor | None, positives: str
) -> list[Tensor]:
    u, e = (x.clone().requires_grad_() for x in (u, e))
    objective = InfoNCE(temperature, True, positives).to(u.dtype)
    torch.nn.init.constant_(objective.log_scale, -math.log(temperature))
    value = objective(u, e, labels).value
    value.backward()
    return [value.detach(), u.grad, e.grad, objective.log_scale.grad * temperature]


def sides(
    count: int, width: int, alike: float, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows of length 0.5 to 2; for `alike` 1 both sides point the same way, for 0 they are
    independent."""
    generator = torch.Generator().manual_seed(seed)
    u, noise = normalize(torch.randn(2, count, width, generator=generator, dtype=dtype), dim=2)
    length = torch.linspace(0.5, 2, count, dtype=dtype)[:, None]
    return u * length, normalize(alike * u + (1 - alike) * noise, dim=1) * length.flip(0)


def draw_labels(count: int, classes: int | None, seed: int) -> Tensor | None:
    if classes is None:
        return None
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


def assert_exact(found: list[Tensor], expected: list[Tensor], temperature: float) -> None:
    """float32 logits are as large as the scale and rounded to 6e-8 of it, and with them what each
    pair weighs. Where pairs cancel this stays: beside the relative error there is an absolute."""
    single = found[0].dtype == torch.float32
    relative, absolute = (1e-5, 2e-8) if single else (1e-9, 1e-15)
    for x, y, pairs in zip(found, expected, (1, 1, 1, 5), strict=True):
        error = (x - y).norm().item()
        assert error <= relative * y.norm().item() + pairs * absolute * (1 + 1 / temperature)


@settings(max_examples=80, deadline=None)
@given(
    tile=st.integers(1, 64),
    count=st.integers(1, 70),
    width=st.integers(2, 24),
    cache=st.sampled_from([TILED, CACHED]),
    temperature=st.floats(math.log(0.01), 0).map(math.exp),
    positives=st.sampled_from(POSITIVES),
    classes=st.none() | st.integers(1, 40),
    alike=st.sampled_from([0.0, 0.6, 0.9, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_value_and_gradients_are_exact(
    tile, count, width, cache, temperature, positives, classes, alike, dtype, seed
):
    count = min(count, 12 * tile)
    labels = draw_labels(count, classes, seed)
    case = (*sides(count, width, alike, dtype, seed), temperature, labels, positives)
    with engine(tile, cache):
        found = ours(*case)
    assert_exact(found, exact(*case), temperature)


@pytest.mark.parametrize(
    ("count", "width", "temperature", "positives", "classes"),
    [
        (1024, 64, 0.05, "multi", 100),
        (1024, 64, 0.01, "masked", 100),
        (1025, 48, 0.01, "multi", None),
        (4096, 32, 0.1, "multi", 400),
    ],
)
def test_large_batches_are_exact(count, width, temperature, positives, classes):
    labels = draw_labels(count, classes, 0)
    case = (*sides(count, width, 0.6), temperature, labels, positives)
    assert_exact(ours(*case), exact(*case), temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("positives", POSITIVES)
def test_kept_tiles_give_the_same_bits(positives, temperature):
    case = (*sides(50, 8, 0.6), temperature, draw_labels(50, 9, 0), positives)
    with engine(16, TILED):
        tiled = ours(*case)
    with engine(16, CACHED):
        cached = ours(*case)
    assert all(torch.equal(x, y) for x, y in zip(tiled, cached, strict=True))
    with engine(64, TILED):
        assert_exact(ours(*case), [x.double() for x in tiled], temperature)


@pytest.mark.parametrize("cache", [TILED, CACHED])
def test_backward_twice(cache):
    """Kept tiles are read once, and computed anew after that."""
    u, e = (x.requires_grad_() for x in sides(50, 8, 0.6))
    with engine(16, cache):
        objective = InfoNCE(learnable_temperature=True)
        value = objective(u, e, draw_labels(50, 9, 0)).value
        inputs = (u, e, objective.log_scale)
        first = torch.autograd.grad(value, inputs, retain_graph=True)
        second = torch.autograd.grad(value, inputs)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("cache", [TILED, CACHED])
def test_autocast_changes_nothing(cache):
    """Neither around the forward pass nor around the backward."""
    labels = draw_labels(50, 9, 0)
    with engine(16, cache):
        plain = ours(*sides(50, 8, 0.6), 0.1, labels, "multi")
        with torch.autocast("cpu", torch.bfloat16):
            inside = ours(*sides(50, 8, 0.6), 0.1, labels, "multi")
    assert all(torch.equal(x, y) for x, y in zip(plain, inside, strict=True))


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_side_alone_requires_a_gradient(frozen):
    both = sides(50, 8, 0.6)
    expected = ours(*both, 0.1, None, "diagonal")[2 - frozen]
    learns = both[1 - frozen].requires_grad_()
    InfoNCE()(*both).value.backward()
    assert torch.equal(learns.grad, expected) and both[frozen].grad is None


def test_without_gradients_nothing_is_kept():
    u, e = sides(50, 8, 0.6)
    with engine(16, CACHED), torch.no_grad(), Held() as held:
        loss = InfoNCE()(u.requires_grad_(), e)
    assert not loss.value.requires_grad and held.most < 50 * 50


class Held(TorchDispatchMode):
    """Counts the numbers that tensors created within hold: of the largest, and of all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.most = self._now = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage() not in given:
                self._add(x.untyped_storage(), x.untyped_storage().nbytes() // x.itemsize)
        return out

    def _add(self, storage: torch.UntypedStorage, numbers: int) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        weakref.finalize(storage, self._free, numbers)
        self._now += numbers
        self.largest, self.most = max(self.largest, numbers), max(self.most, self._now)

    def _free(self, numbers: int) -> None:
        self._now -= numbers


def held_by(count: int, cache: int, temperature: float, positives: str) -> Held:
    """At `count` rows of 16 and tiles of an eighth of the rows."""
    u, e = sides(count, 16, 0.6)
    with engine(count // 8, cache), Held() as held:
        ours(u, e, temperature, draw_labels(count, 400, 0), positives)
    return held


@pytest.mark.parametrize(
    ("count", "temperature", "positives"),
    [(4096, 0.1, "multi"), (1024, 0.01, "multi"), (1024, 0.1, "masked")],
)
def test_memory_is_that_of_rows_and_a_tile(count, temperature, positives):
    held = held_by(count, TILED, temperature, positives)
    side, tile = count * 16, (count // 8) ** 2
    assert held.largest <= max(side, tile)
    assert held.most <= 16 * side + 4 * tile < count**2 / 2


def test_kept_tiles_hold_each_logit_once():
    """So the count above can tell."""
    held = held_by(2048, CACHED, 0.1, "multi")
    assert 2048**2 <= held.most <= 2048**2 + 16 * 2048 * 16 + 4 * 256**2


@pytest.mark.parametrize("temperature", [0.0125, 0.05])
def test_exact_where_the_partner_takes_all(temperature):
    """Equal sides, orthogonal rows: the loss is log(1 + 7 exp(-1 / temperature)), which float32
    cross-entropy rounds to 0, with a gradient of 0."""
    rows = torch.eye(8)
    case = (rows, rows, temperature, None, "diagonal")
    found, expected = ours(*case), exact(*case)
    assert not cross_entropy(rows @ rows.T / temperature, torch.arange(8)).item()
    assert found[0].item() == pytest.approx(math.log1p(7 * math.exp(-1 / temperature)), rel=1e-5)
    for x, y in zip(found, expected, strict=True):
        assert (x - y).norm() <= 1e-5 * y.norm() and y.norm() > 0
