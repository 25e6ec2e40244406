"""Which token of a sequence is of which type and chunk, and which may see which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mirrorlib.errors import UserError

Layout = Sequence[tuple[str, int]]
"""Runs of tokens of one type: (("state", 2), ("action", 16))."""

Blocked = frozenset[tuple[str, str]]
"""Pairs (reader, read) of token types."""


@dataclass(frozen=True)
class Plan:
    """A layout cut into chunks.

    kinds: the type of each token. chunks: the chunk of each token, ascending. places: each
    token's place in its chunk. predicted: the tokens of each predicted chunk.
    """

    kinds: tuple[str, ...]
    chunks: tuple[int, ...]
    places: tuple[int, ...]
    predicted: tuple[range, ...]

    @property
    def known(self) -> int:
        """How many tokens come before the last predicted chunk: no slot sees the others."""
        return self.predicted[-1].start


@lru_cache(maxsize=256)
def plan_of(
    layout: tuple[tuple[str, int], ...],
    sizes: tuple[tuple[str, int | None], ...],
    blocked: Blocked,
) -> Plan:
    """Cut each run of a layout into chunks.

    sizes: the chunk size of each predicted type (None: the whole run); the others are given.
    Raises UserError where nothing is predicted, or a value gets round `blocked`.
    """
    size_of = dict(sizes)
    kinds: list[str] = []
    chunks: list[int] = []
    places: list[int] = []
    predicted: list[range] = []
    number = 0
    for kind, count in layout:
        size = size_of.get(kind) or count
        for start in range(0, count, size):
            width = min(size, count - start)
            if kind in size_of:
                predicted.append(range(len(kinds), len(kinds) + width))
            kinds += [kind] * width
            chunks += [number] * width
            places += range(width)
            number += 1
    if not predicted:
        raise UserError(f"chunking: layout {layout} predicts nothing; add a type that has a head")
    plan = Plan(tuple(kinds), tuple(chunks), tuple(places), tuple(predicted))
    _refuse_leaks(plan, blocked)
    return plan


def known_sees(plan: Plan, blocked: Blocked, reader: int, read: int) -> bool:
    """Whether a known token sees another: causal token by token, itself always."""
    if read == reader:
        return True
    return read < reader and (plan.kinds[reader], plan.kinds[read]) not in blocked


def slot_sees(plan: Plan, blocked: Blocked, reader: int, read: int) -> bool:
    """Whether a slot sees a known token: one of a strictly earlier chunk."""
    earlier = plan.chunks[read] < plan.chunks[reader]
    return earlier and (plan.kinds[reader], plan.kinds[read]) not in blocked


@lru_cache(maxsize=256)
def visible(
    plan: Plan, blocked: Blocked, known: int, slots: tuple[int, ...], device: torch.device
) -> Tensor:
    """Who sees whom among the first `known` tokens, then the slots of the tokens `slots`.

    Rows read, columns are read; slots see all slots of their own chunk, known tokens see none.
    Returns (N, N) bool, N = known + len(slots).
    """
    seen = [
        [known_sees(plan, blocked, reader, read) for read in range(known)] + [False] * len(slots)
        for reader in range(known)
    ]
    for reader in slots:
        earlier = [slot_sees(plan, blocked, reader, read) for read in range(known)]
        seen.append(earlier + [plan.chunks[read] == plan.chunks[reader] for read in slots])
    return torch.tensor(seen, dtype=torch.bool, device=device)


def _refuse_leaks(plan: Plan, blocked: Blocked) -> None:
    """Blocking is of direct reading: refuse layouts where a third type would carry the value.

    A known token carries the values of all that it sees, bit i standing for token i.
    """
    carried: list[int] = []
    for reader in range(plan.known):
        bits = 1 << reader
        for read in range(reader):
            if known_sees(plan, blocked, reader, read):
                bits |= carried[read]
        carried.append(bits)
    for reader in (token for chunk in plan.predicted for token in chunk):
        for carrier in range(plan.known):
            if not slot_sees(plan, blocked, reader, carrier):
                continue
            for read in range(carrier):
                pair = (plan.kinds[reader], plan.kinds[read])
                if pair in blocked and carried[carrier] >> read & 1:
                    via = plan.kinds[carrier]
                    raise UserError(
                        f"chunking: {pair[0]!r} must not see {pair[1]!r}, but would learn it "
                        f"through {via!r}; block ({pair[0]!r}, {via!r}) or ({via!r}, {pair[1]!r})"
                    )
