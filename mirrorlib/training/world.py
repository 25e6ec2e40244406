"""The batch of all processes, gathered so that gradients stay exact.

A loss over gathered rows is computed by every process. `gather_rows` sums the gradients of all
processes and hands each its own rows; the mean over processes that DDP then takes leaves exactly
the gradient of one process with the whole batch. That holds where every process computes the
whole loss, and where each computes (W / N) times the sum over its own rows, as
`mirrorlib.interfaces.Objective` asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mirrorlib.interfaces import Block, World

_alone = False


def world_size() -> int:
    """Number of processes; 1 where torch.distributed is not initialised, and within `alone`."""
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process is a world of its own: what it computes waits for no other.
    For work that only one process does, such as evaluation."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def row_counts(x: Tensor) -> list[int]:
    """Number of rows that each process holds. Collective: every process must call it."""
    if world_size() == 1:
        return [len(x)]
    own = torch.tensor([len(x)], device=x.device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(counts, own)
    return torch.cat(counts).tolist()


def gather_rows(x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows of all processes in order of rank, differentiable; `x` itself in one process.

    x: (B, ...), any float dtype or int64; B may differ between processes, the other axes may not.
    counts: `row_counts(x)`, where known already. Returns (N, ...). Collective, and so is its
    backward: every process must use the result in its loss, or none.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _GatherRows.apply(x, row_counts(x) if counts is None else counts)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int]) -> Tensor:
        first = sum(counts[: dist.get_rank()])
        ctx.rows = slice(first, first + len(x))
        padded = x.new_zeros((max(counts), *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.to(wide, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rows].to(gradient.dtype), None


class ProcessWorld:
    """`mirrorlib.interfaces.World` over torch.distributed; each side is gathered when asked for.

    u, e: (B, Z) and labels: (B,) or (B, 3) int64 or None, the own rows. B may differ between
    processes and may be 0. Every process must ask for the same things in the same order.
    """

    def __init__(self, u: Tensor, e: Tensor, labels: Tensor | None) -> None:
        self._own_u, self._own_e, self._own_labels = u, e, labels
        self.size = world_size()

    @cached_property
    def _counts(self) -> list[int]:
        return row_counts(self._own_u)

    @cached_property
    def total(self) -> int:
        return sum(self._counts)

    @cached_property
    def rows(self) -> slice:
        return self._rows_of(dist.get_rank() if self.size > 1 else 0)

    def _rows_of(self, rank: int) -> slice:
        first = sum(self._counts[:rank])
        return slice(first, first + self._counts[rank])

    @cached_property
    def u(self) -> Tensor:
        return gather_rows(self._own_u, self._counts)

    @cached_property
    def e(self) -> Tensor:
        return gather_rows(self._own_e, self._counts)

    @cached_property
    def labels(self) -> Tensor | None:
        if self._own_labels is None:
            return None
        return gather_rows(self._own_labels, self._counts)

    def blocks(self, *extra: Tensor) -> Iterator[Block]:
        """The rows of every process, the own first, passed on from process to process in a ring:
        no process ever holds more than its own rows, those it reads and those on their way. A
        block's tensors are the caller's until the next is asked for.

        One pass sends (N - B') rows from each process, B' those of the next in the ring.
        """
        labels = [] if self._own_labels is None else [self._own_labels]
        own = [x.detach().contiguous() for x in (self._own_u, self._own_e, *labels, *extra)]
        for rank, held in ring(own, self._counts):
            u, e, *rest = held
            yield Block(
                self._rows_of(rank), u, e, rest[0] if labels else None, tuple(rest[len(labels) :])
            )


def ring(own: Sequence[Tensor], counts: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
    """Each process's rank and tensors, the own first. own: tensors (B, ...) alike but for B in
    all processes; counts: their B. While one process's rows are read the next are on their way,
    in memory that the rows before them were in. Collective: exhaust it."""
    size = len(counts)
    rank = dist.get_rank() if size > 1 else 0
    held, holder = list(own), rank
    buffers = [
        [x.new_empty((max(counts), *x.shape[1:])) for x in own] for _ in range(min(2, size - 1))
    ]
    for step in range(size - 1):
        coming = (holder - 1) % size
        received = [buffer[: counts[coming]] for buffer in buffers[step % 2]]
        going = _exchange(held, received, (rank + 1) % size, (rank - 1) % size)
        yield holder, held
        for transfer in going:
            transfer.wait()
        held, holder = received, coming
    yield holder, held


def _exchange(
    sent: Sequence[Tensor], received: Sequence[Tensor], following: int, preceding: int
) -> list[Any]:
    """Starts the transfers; tensors without elements are not sent."""
    transfers = [dist.P2POp(dist.isend, x, following) for x in sent if x.numel()]
    transfers += [dist.P2POp(dist.irecv, x, preceding) for x in received if x.numel()]
    return dist.batch_isend_irecv(transfers) if transfers else []


def make_world(u: Tensor, e: Tensor, labels: Tensor | None) -> World | None:
    """The world of the own rows u, e: (B, Z) and labels: (B,); None in one process."""
    return ProcessWorld(u, e, labels) if world_size() > 1 else None
