"""Rows of other processes: order, dtypes, uneven rows and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mirrorlib.testing import run_in_processes
from mirrorlib.training.world import ProcessWorld, gather_rows, make_world, row_counts

COUNTS = [2, 4]
WHOLE = torch.arange(6)[:, None] + torch.tensor([0, 10, 20])
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def own_rows(dtype: torch.dtype) -> Tensor:
    """Rows 0, 1 in the first process and 2, 3, 4, 5 in the second, each (3,)."""
    first = sum(COUNTS[: dist.get_rank()])
    rows = torch.arange(first, first + COUNTS[dist.get_rank()])
    return (rows[:, None] + torch.tensor([0, 10, 20])).to(dtype)


def gathered() -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for dtype in FLOATS:
        x = own_rows(dtype).requires_grad_()
        rows = gather_rows(x)
        (rows * (rows + dist.get_rank())).sum().backward()
        found |= {f"{dtype}": rows.detach(), f"{dtype} gradient": x.grad}
    labels = gather_rows(own_rows(torch.int64)[:, 0])
    assert not labels.requires_grad
    counts = torch.tensor(row_counts(labels[: COUNTS[dist.get_rank()]]))
    return found | {"labels": labels, "counts": counts}


def whole_loss(network: nn.Module, x: Tensor) -> Tensor:
    """A loss that couples all rows: every process computes it whole."""
    z = gather_rows(network(x))
    return (z @ z.T).logsumexp(1).sum() + z.std()


def trained(split: list[int]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    rank = 0
    if dist.is_initialized():
        network, rank = DistributedDataParallel(network), dist.get_rank()
    whole_loss(network, x[sum(split[:rank]) : sum(split[: rank + 1])]).backward()
    return {name.removeprefix("module."): p.grad for name, p in network.named_parameters()}


def worlds() -> dict[str, object]:
    u, e = own_rows(torch.float64), -own_rows(torch.float64)
    world = make_world(u, e, u[:, 0].long())
    assert world is not None and make_world(u, e, None).labels is None
    levels = make_world(u, e, u.long())
    blocks = [
        [b.rows.start, *(x.clone() for x in (b.u, b.e, b.labels, *b.extra))]
        for b in levels.blocks(2 * u[:, 0])
    ]
    return {
        "size": world.size,
        "total": world.total,
        "rows": [world.rows.start, world.rows.stop],
        "own": torch.equal(world.u[world.rows], u) and torch.equal(world.e[world.rows], e),
        "labels": world.labels,
        "levels": levels.labels,
        "blocks": blocks,
    }


def everything() -> dict[str, object]:
    return gathered() | {
        "even": trained([3, 3]),
        "uneven": trained([2, 4]),
        "world": worlds(),
    }


@pytest.fixture(scope="module")
def two_processes() -> list[dict[str, object]]:
    return run_in_processes(everything, 2)


def test_rows_are_in_order_of_rank_and_gradients_are_summed(two_processes):
    for rank, found in enumerate(two_processes):
        assert found["counts"].tolist() == COUNTS
        assert found["labels"].tolist() == list(range(6))
        own = WHOLE.split(COUNTS)[rank]
        for dtype in FLOATS:
            assert torch.equal(found[f"{dtype}"], WHOLE.to(dtype))
            # d/dx of x^2 in one process and of x^2 + x in the other
            torch.testing.assert_close(found[f"{dtype} gradient"], (4 * own + 1).to(dtype))


def test_two_processes_train_as_one(two_processes):
    alone = trained([6])
    for rank, found in enumerate(two_processes):
        for split in ("even", "uneven"):
            for name, gradient in alone.items():
                torch.testing.assert_close(found[split][name], gradient, rtol=1e-10, atol=1e-13)
        world = found["world"]
        assert (world["size"], world["total"], world["own"]) == (2, 6, True)
        assert world["rows"] == ([0, 2] if rank == 0 else [2, 6])
        assert world["labels"].tolist() == list(range(6))
        assert torch.equal(world["levels"], WHOLE)


def test_blocks_are_the_own_rows_and_then_the_others(two_processes):
    parts = WHOLE.split(COUNTS)
    for rank, found in enumerate(two_processes):
        blocks = found["world"]["blocks"]
        assert len(blocks) == 2
        for (start, u, e, labels, extra), holder in zip(blocks, (rank, 1 - rank), strict=True):
            assert start == (0, COUNTS[0])[holder]
            expected = parts[holder]
            assert torch.equal(u, expected.double()) and torch.equal(e, -expected.double())
            assert torch.equal(labels, expected)
            assert torch.equal(extra, 2 * expected[:, 0].double())


def test_one_process_gathers_nothing():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(x) is x and row_counts(x) == [3]
    assert make_world(x, x, None) is None
    world = ProcessWorld(x, x, None)
    assert (world.size, world.total, world.rows) == (1, 3, slice(0, 3)) and world.u is x
    (block,) = world.blocks(x[:, 0])
    assert block.rows == slice(0, 3) and block.labels is None and not block.u.requires_grad
    assert torch.equal(block.u, x) and torch.equal(block.extra[0], x[:, 0])
