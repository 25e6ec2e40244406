"""Everything that is measured after training, in one order."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from mirrorlib.data.cache import Cache
from mirrorlib.data.store import StoredEpisode
from mirrorlib.errors import UserError
from mirrorlib.evaluation.alignment import fresh_probe, trained_alignment
from mirrorlib.evaluation.closed_loop import roll_out
from mirrorlib.evaluation.recognition import RECOGNITION, recognise, write_recognition
from mirrorlib.evaluation.representations import (
    FILE,
    Alter,
    Represented,
    every_step,
    execute,
    represent,
    save_representations,
)
from mirrorlib.evaluation.rollouts import Rollout, Scene, write_outcomes
from mirrorlib.evaluation.simulating import Limits
from mirrorlib.interfaces import DataProperties, EpisodeKey, Simulator
from mirrorlib.probing.controls import alteration, controlled, impossible
from mirrorlib.probing.names import ALTERED, Control
from mirrorlib.processes import own_cores
from mirrorlib.recipe import Recipe
from mirrorlib.registry import build_section
from mirrorlib.reporting.figures import draw_run
from mirrorlib.reporting.report import Report
from mirrorlib.reporting.videos import write_video
from mirrorlib.sections import ComponentSection
from mirrorlib.training.joint import Joint
from mirrorlib.training.meter import spread
from mirrorlib.training.world import alone

VIDEO_FPS = 10.0


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, on what; `report` is what `run` fills."""

    accelerator: Accelerator
    joint: Joint
    recipe: Recipe
    cache: Cache
    properties: DataProperties
    report: Report

    def run(self) -> None:
        """Rollouts are shared by all processes; the main one measures the rest."""
        if self.recipe.evaluation.simulator is not None:
            self._success(self.recipe.evaluation.simulator)
        if self.accelerator.is_main_process:
            held_out = self.cache.episodes(self.recipe.evaluation.split)
            with alone():
                self._recognition(held_out)
                self._alignment(held_out)
                draw_run(self.report.folder)
        self.accelerator.wait_for_everyone()

    def _recognition(self, held_out: Sequence[StoredEpisode]) -> None:
        every = [*self.cache.episodes("train"), *held_out]
        result = recognise(
            self.joint.observer,
            held_out,
            {episode.instruction: episode.task for episode in every},
            templates=self.recipe.evaluation.templates,
            clip_frames=self.recipe.data.clip_frames,
            camera=self.recipe.data.clip_cameras[0],
            device=self.accelerator.device,
        )
        name, total = "eval/recognition_accuracy", len(result.truth)
        hits, hits_within = (
            int((chosen == result.truth).sum()) for chosen in (result.predicted, result.within_task)
        )
        self.report.add_share(name, hits, total)
        self.report.add_share(f"{name}_within_task", hits_within, total)
        self.report.metrics |= {
            f"{name}_chance": result.chance,
            f"{name}_within_task_chance": result.chance_within_task,
        }
        write_recognition(result, self.report.folder / RECOGNITION)

    def _alignment(self, held_out: Sequence[StoredEpisode]) -> None:
        settings = self.recipe.evaluation
        test = self._represent(held_out)
        metrics: dict[str, float] = {}
        projected: dict[str, Tensor] = {}
        if test.zu is not None and test.ze is not None:
            metrics |= trained_alignment(test.zu, test.ze, test.labels)
            projected = {"alignment/u": test.zu, "alignment/e": test.ze}
        train = self._represent(self.cache.episodes("train"))
        save_representations(self.report.folder / FILE, {"train": train, settings.split: test})
        metrics |= fresh_probe(train, test, steps=settings.probe_steps, seed=self.recipe.seed)
        for control in settings.controls:
            metrics |= self._controlled(control, train, test, held_out)
        metrics |= spread({"observer": test.u, "executor": test.e} | projected)
        self.report.metrics |= {f"eval/{name}": value for name, value in metrics.items()}

    def _controlled(
        self,
        control: Control,
        train: Represented,
        test: Represented,
        held_out: Sequence[StoredEpisode],
    ) -> dict[str, float]:
        """The fresh probe under a control; nothing, said on stderr, where it makes no sense."""
        cameras, watched = self.properties.cameras, self.recipe.data.clip_cameras[:1]
        reason = impossible(control, train, test, cameras, watched)
        if reason is not None:
            print(f"mirrorlib: evaluation.controls: {control}: {reason}", file=sys.stderr)
            return {}
        if control in ALTERED:
            learnt = self.cache.episodes("train")
            alter = alteration(control, every_step(learnt[0]), cameras, watched)
            train, test = (
                replace(pairs, e=self._executed(episodes, alter))
                for pairs, episodes in ((train, learnt), (test, held_out))
            )
        train, test = controlled(control, train, test, self.recipe.seed)
        steps = self.recipe.evaluation.probe_steps
        found = fresh_probe(train, test, steps=steps, seed=self.recipe.seed)
        return {f"{name}_{control}": value for name, value in found.items()}

    def _executed(self, episodes: Sequence[StoredEpisode], alter: Alter) -> Tensor:
        executor, device = self.joint.executor, self.accelerator.device
        return execute(executor, episodes, device=device, alter=alter)

    def _represent(self, episodes: Sequence[StoredEpisode]) -> Represented:
        return represent(
            self.joint,
            episodes,
            clip_frames=self.recipe.data.clip_frames,
            camera=self.recipe.data.clip_cameras[0],
            device=self.accelerator.device,
        )

    def _success(self, simulator: ComponentSection) -> None:
        settings, accelerator = self.recipe.evaluation, self.accelerator
        scenes = self.scenes()
        filmed = {scene.task: scene for scene in reversed(scenes)} if settings.video_camera else {}
        roll = partial(
            roll_out,
            self.joint.executor,
            scenes[accelerator.process_index :: accelerator.num_processes],
            partial(build_simulator, simulator, settings.video_camera),
            cameras=self.properties.cameras,
            max_actions=settings.max_actions,
            workers=settings.workers or 2 * own_cores(),
            device=accelerator.device,
            film=set(filmed.values()),
            demonstrations=self.cache.source if settings.scenes == "demonstrations" else None,
            limits=Limits() if settings.timeout is None else Limits(answer=settings.timeout),
            progress=accelerator.is_main_process,
        )
        rollouts = together(accelerator, roll)
        if accelerator.is_main_process:
            report_success(rollouts, self.report)

    def scenes(self) -> list[Scene]:
        """The first scenes of every variation that the source trains on, or of every variation
        that the split has recorded demonstrations of."""
        settings = self.recipe.evaluation
        if settings.scenes == "demonstrations":
            recorded = {episode.name for episode in self.cache.episodes(settings.split)}
            keys = self.cache.source.keys(settings.split)
            return list(_first(settings.rollouts, (key for key in keys if str(key) in recorded)))
        keys = self.cache.source.keys("train")
        return [
            Scene(task, variation, settings.split, index)
            for task, variation in dict.fromkeys((key.task, key.variation) for key in keys)
            for index in range(settings.rollouts)
        ]


def together(accelerator: Accelerator, roll: Callable[[], list[Rollout]]) -> list[Rollout]:
    """The rollouts of all processes, in order of scenes; every process calls it.

    Where `roll` raises in one of them, all end once theirs are through: the first that failed with
    its error, and a defect with its own; the others without a word, with the same exit code.
    """
    if accelerator.num_processes == 1:
        return roll()
    rollouts, problem = list[Rollout](), None
    try:
        rollouts = roll()
    except Exception as error:
        problem = error
    code = 0 if problem is None else 2 if isinstance(problem, UserError) else 1
    codes: list[int] = gather_object([code])
    failed = [process for process, its in enumerate(codes) if its]
    if problem is not None and (code == 1 or failed[0] == accelerator.process_index):
        raise problem
    if failed:
        raise SystemExit(codes[failed[0]])
    return sorted(gather_object(rollouts), key=lambda rollout: rollout.scene)


def _first(count: int, keys: Iterable[EpisodeKey]) -> Iterator[Scene]:
    """The scenes of the first `count` keys of every variation, in order."""
    seen: Counter[tuple[str, int]] = Counter()
    for key in keys:
        seen[key.task, key.variation] += 1
        if seen[key.task, key.variation] <= count:
            yield Scene(key.task, key.variation, key.split, key.index)


def build_simulator(section: ComponentSection, camera: str | None, film: bool) -> Simulator:
    """A simulator of the recipe, in whichever process calls. film: through `camera`."""
    video = {"video_camera": camera, "video_fps": VIDEO_FPS} if film else {}
    simulator: Simulator = build_section("simulator", section, video)
    return simulator


def report_success(rollouts: Sequence[Rollout], report: Report) -> None:
    """Success by task, motions that could not be executed by kind, and scenes that were lost, in
    the report and in its folder, with the films."""
    write_outcomes(rollouts, report.folder)
    by_task: dict[str, list[bool]] = {}
    for rollout in rollouts:
        by_task.setdefault(rollout.scene.task, []).append(rollout.success)
        if len(rollout.frames):
            write_video(rollout, report.folder / "videos" / f"{rollout.scene.task}.mp4", VIDEO_FPS)
    report.add_share("eval/success_rate", sum(r.success for r in rollouts), len(rollouts))
    for task, successes in by_task.items():
        report.add_share(f"eval/success_rate/{task}", sum(successes), len(successes))
    kinds = sum((Counter(r.error_kinds) for r in rollouts), Counter())
    report.metrics |= {
        "eval/rollout_motion_errors": float(sum(r.errors for r in rollouts)),
        **{f"eval/rollout_errors/{kind}": float(count) for kind, count in sorted(kinds.items())},
        "eval/rollouts_retried": float(sum(r.retried for r in rollouts)),
        "eval/rollouts_lost": float(sum(r.lost is not None for r in rollouts)),
    }
