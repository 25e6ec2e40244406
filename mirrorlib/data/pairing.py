"""Which episodes a batch holds, and which clip is paired with which step.

A batch is P instructions x K episodes; each episode gives one clip and one keyframe step. Pairing
permutes the steps against the clips: by episode the identity, by instruction or task a
derangement within the group. So every pairing sees the same data in the same order, and a clip
meets its own episode's step only when pairing by episode (arXiv 2509.21136).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mirrorlib.errors import UserError
from mirrorlib.randomness import derive_seed

Pairing = Literal["episode", "instruction", "task"]
Sampling = Literal["instruction", "task"]
LEVELS: tuple[Pairing, ...] = ("episode", "instruction", "task")


@dataclass(frozen=True)
class BatchPlan:
    """One batch of B rows, as indices into the episodes.

    clips, steps: (B,) whose clip and whose step stand in each row. aligned: (B,) bool, False
    where no other episode could be paired. clip_seeds, step_seeds: (B,) int64, which go with the
    clip and the step wherever pairing puts them.
    """

    clips: NDArray[np.int64]
    steps: NDArray[np.int64]
    aligned: NDArray[np.bool_]
    clip_seeds: NDArray[np.int64]
    step_seeds: NDArray[np.int64]

    def part(self, rank: int, size: int) -> BatchPlan:
        """The rows of one process of `size`."""
        rows = slice(rank * len(self.clips) // size, (rank + 1) * len(self.clips) // size)
        return BatchPlan(
            self.clips[rows],
            self.steps[rows],
            self.aligned[rows],
            self.clip_seeds[rows],
            self.step_seeds[rows],
        )


def plan_batches(
    labels: NDArray[np.int64],
    *,
    instructions: int,
    episodes: int,
    steps: int,
    pairing: Pairing,
    seed: int,
    sampling: Sampling | None = None,
) -> list[BatchPlan]:
    """Every batch of a run, a function of its arguments alone.

    labels: (E, 3) episode, instruction and task of each episode. instructions, episodes: P and K.
    sampling: what is seen about equally often, all instructions or, however many of them each
    has, all tasks (`_ByTask`); None: instructions. These and their episodes are dealt from
    shuffled decks. No instruction stands twice in a batch. Raises UserError where the data cannot
    fill a batch.
    """
    by_instruction = {
        int(key): np.flatnonzero(labels[:, 1] == key) for key in np.unique(labels[:, 1])
    }
    if len(by_instruction) < instructions:
        raise UserError(
            f"batch.instructions is {instructions}, but the training split has only "
            f"{len(by_instruction)} instructions; set it to at most that, or add tasks"
        )
    if pairing != "episode" and all(len(rows) < episodes for rows in by_instruction.values()):
        raise UserError(
            f"no instruction has {episodes} training episodes, so nothing can be paired by "
            f"{pairing}; record more episodes or lower batch.episodes"
        )
    rng = np.random.default_rng(derive_seed("batches", seed))
    tasks = {key: int(labels[rows[0], 2]) for key, rows in by_instruction.items()}
    drawn = _ByTask(tasks, rng) if sampling == "task" else _Deck(list(by_instruction), rng)
    decks = {key: _Deck(rows.tolist(), rng) for key, rows in by_instruction.items()}
    plans = []
    for _ in range(steps):
        chosen = [
            episode for key in drawn.deal(instructions) for episode in decks[key].deal(episodes)
        ]
        clips = np.array(chosen, dtype=np.int64)
        order, aligned = pair(labels[clips], pairing, rng)
        if not aligned.any():
            raise UserError(
                f"a batch of {instructions} instructions would hold no pair: too few of the "
                "training split's instructions have two episodes; record more, or raise "
                "batch.instructions"
            )
        clip_seeds, step_seeds = rng.integers(0, 2**62, (2, len(clips)), dtype=np.int64)
        plans.append(BatchPlan(clips, clips[order], aligned, clip_seeds, step_seeds[order]))
    return plans


def pair(
    labels: NDArray[np.int64], pairing: Pairing, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Permutes rows within groups of one label so that none keeps its own episode.

    labels: (B, 3). Returns the permutation (B,) and which rows could be paired (B,). Draws from
    `rng` equally often for every pairing.
    """
    ranks = rng.permuted(np.arange(len(labels)))
    order = np.arange(len(labels))
    aligned = np.ones(len(labels), dtype=bool)
    if pairing == "episode":
        return order, aligned
    groups: dict[int, dict[int, int]] = {}  # group -> episode -> its first row
    for row, (episode, group) in enumerate(labels[:, [0, LEVELS.index(pairing)]].tolist()):
        aligned[row] = groups.setdefault(group, {}).setdefault(episode, row) == row
    for firsts in groups.values():
        rows = sorted(firsts.values(), key=ranks.__getitem__)
        if len(rows) < 2:
            aligned[rows] = False
        order[rows] = [rows[-1], *rows[:-1]]
    return order, aligned


class _Deck:
    """Deals cards without repeating one within a hand; shuffles anew when it runs out."""

    def __init__(self, cards: Sequence[int], rng: np.random.Generator) -> None:
        self.cards, self.rng = list(cards), rng
        self.left: list[int] = []

    def deal(self, count: int) -> list[int]:
        """`count` cards, all different as long as there are that many."""
        hand: list[int] = []
        held: set[int] = set()
        while len(hand) < count:
            place = self._first_but(held)
            if place is None:
                self.left += self.rng.permutation(self.cards).tolist()
                place = self._first_but(held) or 0
            hand.append(self.left.pop(place))
            held.add(hand[-1])
        return hand

    def _first_but(self, held: set[int]) -> int | None:
        """Where the first card lies that is not among those held."""
        return next((place for place, card in enumerate(self.left) if card not in held), None)


class _ByTask:
    """Deals instructions, each by drawing a task uniformly, then one of the task's instructions
    from a shuffled deck.

    After ARP, which draws a task uniformly, then an episode of it, then a keyframe. What differs:
    a task whose instructions all stand in the batch is not drawn for it again, so that tasks with
    few of them are seen the more rarely the more instructions a batch has; a task's instructions
    are equally likely, however many episodes each has; an instruction comes with K episodes.
    """

    def __init__(self, tasks: Mapping[int, int], rng: np.random.Generator) -> None:
        """tasks: the task of each instruction."""
        self.rng = rng
        cards: dict[int, list[int]] = {}
        for instruction, task in tasks.items():
            cards.setdefault(task, []).append(instruction)
        self.decks = {task: _Deck(held, rng) for task, held in cards.items()}

    def deal(self, count: int) -> list[int]:
        """`count` instructions, all different, of which there are at least so many."""
        left = {task: len(deck.cards) for task, deck in self.decks.items()}
        drawn = []
        for _ in range(count):
            drawn.append(list(left)[self.rng.integers(len(left))])
            left[drawn[-1]] -= 1
            left = {task: cards for task, cards in left.items() if cards}
        hands = {
            task: iter(self.decks[task].deal(drawn.count(task))) for task in dict.fromkeys(drawn)
        }
        return [next(hands[task]) for task in drawn]
