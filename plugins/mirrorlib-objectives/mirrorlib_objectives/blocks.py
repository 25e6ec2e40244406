"""Rows of one process after another, of unit length, and the products between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorlib.interfaces import Block, World
from mirrorlib_objectives.matmul import fast_matmul
from mirrorlib_objectives.rows import to_unit


@dataclass(frozen=True)
class UnitBlock:
    """Unit rows a (of u) and b (of e), (C, Z), of the process that is `number` steps away; 0 is
    the own. labels: (C,) or (C, 3) or None. extra: (C, ...) each."""

    number: int
    a: Tensor
    b: Tensor
    labels: Tensor | None
    extra: tuple[Tensor, ...]

    @property
    def own(self) -> bool:
        return self.number == 0

    def column(self, level: int) -> Tensor:
        """Labels (C,) of one level; of (C,) labels there is one."""
        assert self.labels is not None
        return self.labels if self.labels.ndim == 1 else self.labels[:, level]


def stream(own: UnitBlock, world: World | None, *extra: Tensor) -> Iterator[UnitBlock]:
    """The own block and then those of the other processes. extra: own tensors that travel along."""
    if world is None:
        yield UnitBlock(0, own.a, own.b, own.labels, extra)
        return
    for number, block in enumerate(world.blocks(*extra)):
        a, b = (own.a, own.b) if number == 0 else _units(block, own.a.dtype)
        yield UnitBlock(number, a, b, block.labels, block.extra)


def _units(block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return to_unit(block.u, dtype)[0], to_unit(block.e, dtype)[0]


@contextmanager
def exact_products(device: torch.device, multiplications: int) -> Iterator[None]:
    """No autocast, in a backward pass either, and the fastest exact products."""
    on_cpu = device.type == "cpu"
    with (
        torch.autocast(device.type, enabled=False),
        fast_matmul(multiplications) if on_cpu else nullcontext(),
    ):
        yield
