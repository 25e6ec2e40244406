"""`python -m mirrorlib_rlbench.record ROOT --tasks A,B ...`: live demonstrations of RLBench's.

Under `accelerate launch` or torchrun the processes, one simulator each, share them. What is there
already is kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from mirrorlib.cli import guarded
from mirrorlib.errors import UserError
from mirrorlib.plugins import summary
from mirrorlib_rlbench.config import CAMERAS, SPLITS
from mirrorlib_rlbench.episode import DESCRIPTIONS
from mirrorlib_rlbench.writing import (
    check_settings,
    clear_stale,
    keep_settings,
    write_descriptions,
    write_episode,
)


class Failed(UserError):
    """Demonstrations that RLBench's expert did not make; all others are there."""


@dataclass(frozen=True)
class Wanted:
    """What to record. root: folder of the splits' folders. variations: of every task; None: all.
    attempts: scenes that a demonstration is tried in."""

    root: Path
    split: str
    tasks: Sequence[str]
    episodes: int
    variations: Sequence[int] | None = None
    image_size: int = 128
    renderer: Literal["opengl", "opengl3"] = "opengl"
    attempts: int = 10

    @property
    def settings(self) -> dict[str, Any]:
        """What all demonstrations of a split have in common."""
        return {
            "image_size": self.image_size,
            "renderer": self.renderer,
            "cameras": list(CAMERAS),
        }


@dataclass(frozen=True)
class Demonstration:
    """One to be recorded, the `index`-th of its variation."""

    task: str
    variation: int
    index: int

    def folder(self, split: Path) -> Path:
        """Where it belongs in RLBench's layout."""
        return (
            split / self.task / f"variation{self.variation}" / "episodes" / f"episode{self.index}"
        )


def record(wanted: Wanted, rank: int = 0, size: int = 1) -> list[Demonstration]:
    """Records this process's share of what is not there yet. Returns what was recorded.

    rank, size: of this process among those that share the work. Scenes are drawn from the seeds
    under which the simulator `rlbench` lays out the same split's. Raises UserError where RLBench
    cannot run, for an unknown task or variation, and where the split was recorded with other
    settings; `Failed`, when all others are done, where RLBench's expert failed in every attempt.
    """
    from mirrorlib_rlbench.launch import Setup, check_task, enter, leave

    for task in wanted.tasks:
        check_task(task)
    split = wanted.root / wanted.split
    check_settings(split, wanted.settings)
    clear_stale(split)
    setup = Setup(CAMERAS, wanted.image_size, wanted.renderer, recording=True)
    holder, failed, recorded = object(), list[str](), list[Demonstration]()
    try:
        stage = enter(holder, setup)
        mine = [one for one in _all(wanted, stage)[rank::size] if not one.folder(split).exists()]
        for one in tqdm(mine, desc="demonstrations", unit="ep", disable=rank > 0):
            if one.folder(split).exists():  # another process's by now
                continue
            try:
                if _record_one(stage, one, wanted):
                    recorded.append(one)
            except _expected() as error:
                failed.append(f"{one.task} {one.variation} {one.index} ({summary(error)})")
    finally:
        leave(holder)
    if failed:
        raise Failed(
            f"{len(failed)} of {len(mine)} demonstrations failed: {'; '.join(failed[:5])}; run the "
            f"same command with --attempts {2 * wanted.attempts} to try these in further scenes"
        )
    return recorded


def _all(wanted: Wanted, stage: Any) -> list[Demonstration]:
    """Of all processes, task by task."""
    from mirrorlib_rlbench.launch import check_variation

    found = []
    for name in wanted.tasks:
        task = stage.task(name)
        for variation in wanted.variations or range(task.variation_count()):
            check_variation(task, name, variation)
            found += [Demonstration(name, variation, index) for index in range(wanted.episodes)]
    return found


def _record_one(stage: Any, one: Demonstration, wanted: Wanted) -> bool:
    """Whether it is ours. Raises as RLBench does where no attempt succeeded."""
    split = wanted.root / wanted.split
    folder = one.folder(split)
    variation = folder.parents[1]
    if not (variation / DESCRIPTIONS).exists():
        descriptions, _ = _tried(stage, one, wanted, lambda task: task.reset())
        write_descriptions(descriptions, variation, split)
    (demo,) = _tried(
        stage, one, wanted, lambda task: task.get_demos(1, live_demos=True, max_attempts=1)
    )
    if hasattr(demo, "variation_number"):  # PerAct's branch leaves it 0
        demo.variation_number = one.variation
    keep_settings(split, wanted.settings)
    return write_episode(demo, folder, split)


def _tried(stage: Any, one: Demonstration, wanted: Wanted, call: Callable[[Any], Any]) -> Any:
    """What `call` returns of the task in the first scene where RLBench does not fail. The draws go
    on, so every attempt has another scene. RLBench's own attempts would not do: they end where it
    finds no place for the task, and a task that failed may be broken."""
    from mirrorlib.randomness import scene_seed
    from mirrorlib_rlbench.scenes import draw_from

    draw_from(scene_seed(one.task, one.variation, wanted.split, one.index))
    for left in reversed(range(wanted.attempts)):
        try:
            task = stage.task(one.task)
            task.set_variation(one.variation)
            return call(task)
        except _expected():
            stage.drop_task()
            if not left:
                raise


def _expected() -> tuple[type[Exception], ...]:
    """What RLBench raises where a scene or a demonstration fails."""
    from mirrorlib_rlbench.actions import error_kinds

    return RuntimeError, *error_kinds()


def main(argv: Sequence[str] | None = None) -> int:
    """Record as the command line says and return the exit code, see `mirrorlib.cli.guarded`: 2
    where demonstrations failed, but 0 where other processes share the work, as torchrun would end
    them."""

    def run() -> None:
        wanted = _parsed(argv)
        rank, size = (int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1)))
        try:
            made = record(wanted, rank, size)
        except Failed as error:
            if size == 1:
                raise
            print(f"mirrorlib: process {rank} of {size}: {error}", file=sys.stderr)
            return
        place = wanted.root / wanted.split
        print(f"process {rank} of {size} recorded {len(made)} demonstrations in {place}")

    return guarded(run)


def _parsed(argv: Sequence[str] | None) -> Wanted:
    parser = argparse.ArgumentParser(
        "python -m mirrorlib_rlbench.record",
        description="Record live demonstrations in RLBench's layout; what is there is kept.",
        epilog="For several processes: accelerate launch -m mirrorlib_rlbench.record ROOT ...",
    )
    parser.add_argument("root", type=_folder, help="folder of the splits' folders, made if need be")
    parser.add_argument("--tasks", type=_names, required=True, help="as in open_drawer,turn_tap")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--episodes", type=_count, default=25, help="of every variation")
    parser.add_argument("--variations", type=_numbers, help="as in 0,1,2; left out: all")
    parser.add_argument("--image-size", type=_count, default=128, help="side in pixels")
    parser.add_argument("--renderer", choices=("opengl", "opengl3"), default="opengl")
    parser.add_argument("--attempts", type=_count, default=10, help="scenes to try each in")
    return Wanted(**vars(parser.parse_args(argv)))


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
