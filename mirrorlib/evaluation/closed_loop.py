"""Closed-loop success: the executor acts in many simulated scenes at once.

Every scene runs in one of several spawned processes, each holding one simulator. All take a step,
then the executor acts, in this process, on all of them at once: which scenes share a batch, and so
every rounding, does not depend on how fast a simulator is.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mirrorlib.data.batches import collate_observations
from mirrorlib.errors import UserError
from mirrorlib.evaluation.rollouts import Rollout, Scene
from mirrorlib.evaluation.simulating import (
    Awaiting,
    BuildSimulator,
    Failure,
    Limits,
    Setting,
    SimulatorProcess,
    await_any,
    stop,
)
from mirrorlib.interfaces import Executor, Source

HOPELESS = 3
"""Scenes lost in a row after which a place in the batch is given up, unless they are all of one
task, which may be to blame, and others wait."""


@dataclass
class _Course:
    """What the places share. waiting: scenes still to be begun, and whether they are filmed.
    places: how many have not been given up. works: whether a scene was ever acted in to its end.
    """

    waiting: deque[tuple[Scene, bool]]
    places: int
    works: bool = False


class SimulatorFailed(Exception):
    """A defect inside a simulator process, with that process's traceback."""


def roll_out(
    executor: Executor,
    scenes: Sequence[Scene],
    build: BuildSimulator,
    *,
    cameras: Sequence[str],
    max_actions: int,
    workers: int,
    device: torch.device,
    film: Set[Scene] = frozenset(),
    demonstrations: Source | None = None,
    limits: Limits | None = None,
    progress: bool = True,
) -> list[Rollout]:
    """Acts in every scene until success, the simulator's own end, or `max_actions`.

    build: makes a simulator; called in the worker processes, so it must pickle.
    cameras: in the order the executor was trained with. film: scenes whose frames are wanted.
    demonstrations: a source whose episodes' scenes are restored; None: laid out by their seeds.

    A process that crashes, raises or exceeds the limits is replaced, and its scene begun anew,
    once; a scene that fails again is lost: not solved, and told on stderr. The others wait
    meanwhile, so that batches depend on where processes fail and never on when: without failures,
    and with the same ones, rollouts are the same to the bit. After a failure, scenes share a batch
    with others than they would have, which may change the rounding of actions and nothing else.
    Where HOPELESS scenes in a row are lost, not all of one task, the place in the batch is given up
    to the others, but for the last.

    Raises UserError where a simulator does, and where no scene could be acted in to its end, after
    at most HOPELESS of one task in each place; SimulatorFailed where the last of these raised an
    exception.
    """
    executor.eval()
    executor.reset()
    setting, limits = Setting(build, max_actions, demonstrations), limits or Limits()
    count = min(workers, len(scenes))
    course = _Course(deque((scene, scene in film) for scene in scenes), count)
    places = [_Place(setting, limits, course) for _ in range(count)]
    results: list[Rollout] = []
    bar = tqdm(total=len(scenes), desc="rollouts", unit="ep", disable=not progress)
    try:
        acting = [place for place in places if place.begin()]
        while acting:
            for rollout in _settle(acting):
                results.append(rollout)
                bar.update()
                bar.set_postfix(success=f"{np.mean([r.success for r in results]):.2f}")
            acting = [place for place in acting if place.outcome is not None]
            if acting:
                _act(executor, acting, cameras, device)
    finally:
        bar.close()
        stop([place.process for place in places if place.process is not None])
    if results and all(rollout.lost is not None for rollout in results):
        raise _hopeless(len(results), places)
    return sorted(results, key=lambda r: r.scene)


class _Place:
    """A place in the batch: a scene, and a simulator process, replaced when it fails.

    outcome: of the scene so far; None while it is awaited, and where no scene is left. failure: the
    last of its processes'.
    """

    process: SimulatorProcess | None = None
    outcome: Awaiting | Rollout | None = None
    failure: Failure | None = None
    _lost: tuple[Scene, ...] = ()
    _retried = False

    def __init__(self, setting: Setting, limits: Limits, course: _Course) -> None:
        self._setting, self._limits, self._course = setting, limits, course

    def begin(self) -> bool:
        """Begins the next scene; False where none is left, and where the place is given up."""
        self.outcome = None
        course = self._course
        if not course.waiting:
            return False
        if self._hopeless() and (course.places > 1 or not course.works):
            course.places -= 1
            _tell(f"{len(self._lost)} scenes in a row were lost; {course.places} simulators go on")
            return False
        self._scene, self._film = course.waiting.popleft()
        self._retried = False
        self._ask()
        return True

    def look(self) -> bool:
        """Whether there is an outcome by now."""
        answer = self._running.answer()
        if isinstance(answer, Failure):
            self._fail(answer)
        elif isinstance(answer, Rollout):
            self.outcome = replace(answer, retried=self._retried)
            self._lost, self._course.works = (), True
        else:
            self.outcome = answer
        return self.outcome is not None

    def act(self, action: NDArray[np.float64]) -> None:
        """Has the scene's next action (9,) executed."""
        self.outcome = None
        self._running.act(action)

    @property
    def _running(self) -> SimulatorProcess:
        assert self.process is not None
        return self.process

    def _hopeless(self) -> bool:
        tasks = {scene.task for scene in self._lost}
        others_wait = any(scene.task not in tasks for scene, _ in self._course.waiting)
        return len(self._lost) >= HOPELESS and not (len(tasks) == 1 and others_wait)

    def _ask(self) -> None:
        if self.process is None:
            self.process = SimulatorProcess(self._setting, self._limits)
        self.process.begin(self._scene, self._film)

    def _fail(self, failure: Failure) -> None:
        self._running.kill()
        self.process, self.failure = None, failure
        then = "is lost and counts as not solved" if self._retried else "is begun anew"
        told = f"{self._scene}: a simulator process {failure.reason}; the scene {then}"
        _tell(f"{told}\n{failure.traceback}".rstrip())
        if self._retried:
            self._lost += (self._scene,)
            self.outcome = Rollout(self._scene, "", False, 0, 0, retried=True, lost=failure.reason)
        else:
            self._retried = True
            self._ask()


def _settle(places: Sequence[_Place]) -> Iterator[Rollout]:
    """Goes on until every place holds an observation, or no scene is left for it. Gives the scenes
    that end meanwhile, in the places' order, in which they also take the next."""
    unsettled = list(places)
    while unsettled:
        awaited = unsettled
        while awaited := [place for place in awaited if not place.look()]:
            await_any([place.process for place in awaited if place.process is not None])
        ended = [place for place in unsettled if isinstance(place.outcome, Rollout)]
        yield from (place.outcome for place in ended if isinstance(place.outcome, Rollout))
        unsettled = [place for place in ended if place.begin()]


def _act(
    executor: Executor, places: Sequence[_Place], cameras: Sequence[str], device: torch.device
) -> None:
    """One action of the executor in every place."""
    awaiting = [place.outcome for place in places if isinstance(place.outcome, Awaiting)]
    observations = collate_observations([a.observation for a in awaiting], cameras)
    with torch.no_grad():
        actions = executor.act(observations.to(device), [a.instruction for a in awaiting])
    for place, action in zip(places, actions.double().cpu().numpy(), strict=True):
        place.act(action)


def _tell(what: str) -> None:
    """On stderr, above the progress bar."""
    tqdm.write(f"mirrorlib: {what}", file=sys.stderr)


def _hopeless(count: int, places: Sequence[_Place]) -> Exception:
    """Why nothing came of the first `count` scenes."""
    failure = [place.failure for place in places if place.failure is not None][-1]
    if failure.traceback:
        return SimulatorFailed(failure.traceback)
    return UserError(
        f"in none of {count} scenes did the simulator go to the end: the last time a process "
        f"{failure.reason}; run `mirrorlib doctor`, or again with fewer evaluation.workers if "
        "memory ran out, with a longer evaluation.timeout if it is slow"
    )
