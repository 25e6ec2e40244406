"""Seeds that depend on names and rows alone: never on order, process or device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mirrorlib.tracing import constant

SCENES = "scenes-2"
"""Changed whenever test scenes had a part in a choice, so that those measured on are unseen."""


@constant
def derive_seed(*names: object) -> int:
    """A seed in [0, 2^63) hashed from names, such as (task, variation, split, index)."""
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def scene_seed(task: str, variation: int, split: str, index: int) -> int:
    """The seed of a source's scene. Splits never share one; a rollout that resets a simulator to
    the seed of a held-out demonstration meets its very scene."""
    return derive_seed(SCENES, task, variation, split, index)


@contextmanager
def seeded(*names: object) -> Iterator[None]:
    """torch's global generator, seeded by names within the block and restored after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("seeded", *names))
        yield


def uniform(seed: Tensor, count: int, stream: str = "") -> Tensor:
    """Uniform numbers in [0, 1) from each row's own seed.

    seed: (B,) int64. Returns (B, count) float32 on the seed's device. Different `stream` names
    give independent numbers. A counter through the splitmix64 finaliser (Steele et al. 2014).
    """
    offset = derive_seed("stream", stream) - (1 << 62)
    counter = torch.arange(1, count + 1, device=seed.device, dtype=torch.int64)
    x = _mix(seed[:, None] ^ offset) + counter * -7046029254386353131
    return (_shift(_mix(x), 40)).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift right of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
