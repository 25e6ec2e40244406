"""Rows passed on in a ring of four processes: what arrives, what is held, and what it costs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mirrorlib.interfaces import Objective
from mirrorlib.testing import run_in_processes
from mirrorlib.training.world import ProcessWorld, make_world, ring
from mirrorlib_objectives.hierarchical import Hierarchical
from mirrorlib_objectives.infonce import InfoNCE
from mirrorlib_objectives.siglip import SigLIP

SIZE, WIDTH = 4, 5
SPLITS = {"even": [3, 3, 3, 3], "uneven": [3, 1, 4, 2], "without rows": [3, 0, 4, 2]}
CASES: dict[str, tuple[str, torch.dtype, int]] = {
    # how rows are compared, their dtype, and how many columns of labels they have
    "no labels": ("multi", torch.float32, 0),
    "diagonal": ("diagonal", torch.float32, 1),
    "masked": ("masked", torch.float32, 1),
    "multi": ("multi", torch.float32, 1),
    "multi, half": ("multi", torch.bfloat16, 1),
    "multi, double": ("multi", torch.float64, 1),
    "levels": ("levels", torch.float32, 3),
    "sigmoid": ("sigmoid", torch.float32, 1),
}


class Traffic:
    """Bytes sent, rows of every tensor received, and the most numbers of u and e that were held at
    once to receive rows."""

    def __init__(self) -> None:
        self.sent = self.most_held = 0
        self.received: list[int] = []
        self._alive: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def note(self, operation: Any, x: Tensor) -> None:
        if operation is dist.isend:
            self.sent += x.numel() * x.itemsize
            return
        self.received.append(len(x))
        if x.shape[1:] == (WIDTH,):
            self._alive.add(x.untyped_storage())
            held = sum(storage.nbytes() for storage in self._alive) // x.itemsize
            self.most_held = max(self.most_held, held)


@contextmanager
def counted() -> Iterator[Traffic]:
    traffic, start = Traffic(), dist.P2POp

    def noted(operation: Any, x: Tensor, peer: int) -> dist.P2POp:
        traffic.note(operation, x)
        return start(operation, x, peer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "P2POp", noted)
        yield traffic


def whole(count: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """All processes' rows, each to be told from any other."""
    generator = torch.Generator().manual_seed(0)
    u, e = torch.randn(2, count, WIDTH, generator=generator).to(dtype)
    labels = torch.randint(0, 3, (count, 3), generator=generator)
    place = torch.arange(count)
    wide = place[:, None, None].float() + torch.zeros(2, 3)
    return {"u": u, "e": e, "labels": labels, "place": place, "wide": wide, "empty": u[:, :0]}


def own(split: list[int], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.split(split)[dist.get_rank()] for name, x in tensors.items()}


def streamed(split: list[int]) -> dict[str, Any]:
    mine = own(split, whole(sum(split)))
    world = ProcessWorld(mine["u"].requires_grad_(), mine["e"], mine["labels"])
    blocks = []
    with counted() as traffic:
        for block in world.blocks(mine["place"], mine["wide"], mine["empty"]):
            assert not block.u.requires_grad
            extra = dict(zip(("place", "wide", "empty"), block.extra, strict=True))
            rows = {"u": block.u, "e": block.e, "labels": block.labels} | extra
            blocks.append({"rows": [block.rows.start, block.rows.stop]})
            blocks[-1] |= {name: x.clone() for name, x in rows.items()}
    return {
        "blocks": blocks,
        "received": traffic.received,
        "most held": traffic.most_held,
        "order": [rank for rank, _ in ring([mine["u"].detach()], split)],
    }


def step(split: list[int], case: str) -> list[int]:
    """Bytes sent in the forward and in the backward pass."""
    positives, dtype, columns = CASES[case]
    mine = own(split, whole(sum(split), dtype))
    u, e = mine["u"].clone().requires_grad_(), mine["e"].clone().requires_grad_()
    labels = {0: None, 1: mine["labels"][:, 0], 3: mine["labels"]}[columns]
    objective: Objective = {"levels": Hierarchical, "sigmoid": SigLIP}.get(
        positives, lambda: InfoNCE(positives=positives)
    )()
    with counted() as forward:
        value = objective(u, e, labels, make_world(u, e, labels)).value
    with counted() as backward:
        value.backward()
    assert u.grad is not None and u.grad.isfinite().all()
    return [forward.sent, backward.sent]


def everything() -> dict[str, Any]:
    return {
        name: {
            "streamed": streamed(split),
            "steps": {case: step(split, case) for case in CASES},
        }
        for name, split in SPLITS.items()
    }


@pytest.fixture(scope="module")
def four_processes() -> list[dict[str, Any]]:
    return run_in_processes(everything, SIZE)


@pytest.mark.parametrize("split", SPLITS)
def test_every_process_sees_all_rows_the_own_first(four_processes, split):
    counts = SPLITS[split]
    expected = {name: x.split(counts) for name, x in whole(sum(counts)).items()}
    for rank, found in enumerate(four_processes):
        holders = [(rank - k) % SIZE for k in range(SIZE)]
        assert found[split]["streamed"]["order"] == holders
        blocks = found[split]["streamed"]["blocks"]
        for holder, block in zip(holders, blocks, strict=True):
            first = sum(counts[:holder])
            assert block.pop("rows") == [first, first + counts[holder]]
            assert block.keys() == expected.keys()
            for name, rows in block.items():
                assert rows.dtype == expected[name][holder].dtype
                assert torch.equal(rows, expected[name][holder]), name


@pytest.mark.parametrize("split", SPLITS)
def test_no_process_holds_all_rows(four_processes, split):
    """Of the three others it has room for two at a time, those being read and those on their way;
    their rows arrive apart."""
    counts = SPLITS[split]
    for rank, found in enumerate(four_processes):
        streamed = found[split]["streamed"]
        others = [counts[(rank - k) % SIZE] for k in range(1, SIZE)]
        assert streamed["received"] == [count for count in others if count for _ in range(5)]
        room = 2 * 2 * max(counts) * WIDTH
        assert streamed["most held"] == room if all(others) else streamed["most held"] <= room


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("split", SPLITS)
def test_bytes_sent_are_those_of_the_formula(four_processes, split, case):
    """As `mirrorlib_objectives.pairs` states it; of a sigmoid, one number a row goes back."""
    counts = SPLITS[split]
    positives, dtype, columns = CASES[case]
    number, result = dtype.itemsize, max(4, dtype.itemsize)
    levels = {"levels": 3, "multi": 1}.get(positives, 0) if columns else 0
    for rank, found in enumerate(four_processes):
        rows = sum(counts) - counts[(rank + 1) % SIZE]
        forward = rows * (2 * WIDTH * number + 8 * columns)
        numbers = 1 if positives == "sigmoid" else 4 + 2 * levels
        backward = forward + rows * numbers * result
        assert found[split]["steps"][case] == [forward, backward]
