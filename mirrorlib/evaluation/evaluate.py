"""Everything that is measured after training, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from mirrorlib.data.cache import Cache
from mirrorlib.data.store import StoredEpisode
from mirrorlib.evaluation.alignment import fresh_probe, represent, trained_alignment
from mirrorlib.evaluation.recognition import recognise
from mirrorlib.evaluation.rollouts import Rollout, Scene, roll_out
from mirrorlib.interfaces import DataProperties, EpisodeKey, Simulator
from mirrorlib.processes import own_cores
from mirrorlib.recipe import ComponentSection, Recipe
from mirrorlib.registry import build_section
from mirrorlib.reporting.figures import confusion_matrix, success_bars
from mirrorlib.reporting.report import Report
from mirrorlib.reporting.videos import write_video
from mirrorlib.training.joint import Joint
from mirrorlib.training.world import alone

VIDEO_FPS = 10.0


def evaluate(
    accelerator: Accelerator,
    joint: Joint,
    recipe: Recipe,
    cache: Cache,
    properties: DataProperties,
    report: Report,
) -> None:
    """Fills the report. Rollouts are shared by all processes; the main one measures the rest."""
    if recipe.evaluation.simulator is not None:
        _success(accelerator, joint, recipe, cache, properties, report)
    if accelerator.is_main_process:
        test = cache.episodes(recipe.evaluation.split)
        with alone():
            _recognition(accelerator, joint, recipe, cache, test, report)
            _alignment(accelerator, joint, recipe, cache, test, report)
    accelerator.wait_for_everyone()


def _recognition(
    accelerator: Accelerator,
    joint: Joint,
    recipe: Recipe,
    cache: Cache,
    test: Sequence[StoredEpisode],
    report: Report,
) -> None:
    known = {e.instruction: e.task for e in [*cache.episodes("train"), *test]}
    result = recognise(
        joint.observer,
        test,
        known,
        templates=recipe.evaluation.templates,
        clip_frames=recipe.data.clip_frames,
        camera=recipe.data.clip_cameras[0],
        device=accelerator.device,
    )
    total = len(result.truth)
    name = "eval/recognition_accuracy"
    report.add_share(name, int((result.predicted == result.truth).sum()), total)
    report.metrics[f"{name}_chance"] = result.chance
    hits = int((result.within_task == result.truth).sum())
    report.add_share(f"{name}_within_task", hits, total)
    report.metrics[f"{name}_within_task_chance"] = result.chance_within_task
    confusion_matrix(result, report.folder / "figures" / "confusion_matrix.png")


def _alignment(
    accelerator: Accelerator,
    joint: Joint,
    recipe: Recipe,
    cache: Cache,
    test: Sequence[StoredEpisode],
    report: Report,
) -> None:
    clip: dict[str, Any] = {
        "clip_frames": recipe.data.clip_frames,
        "camera": recipe.data.clip_cameras[0],
        "device": accelerator.device,
    }
    held_out = represent(joint, test, **clip)
    metrics: dict[str, float] = {}
    if joint.objective.uses_projectors:
        metrics |= trained_alignment(joint, held_out, accelerator.device)
    seen = represent(joint, cache.episodes("train"), **clip)
    metrics |= fresh_probe(seen, held_out, steps=recipe.evaluation.probe_steps, seed=recipe.seed)
    report.metrics |= {f"eval/{name}": value for name, value in metrics.items()}


def _success(
    accelerator: Accelerator,
    joint: Joint,
    recipe: Recipe,
    cache: Cache,
    properties: DataProperties,
    report: Report,
) -> None:
    settings = recipe.evaluation
    assert settings.simulator is not None
    scenes = _scenes(cache.source.keys("train"), settings.split, settings.rollouts)
    filmed = {scene.task: scene for scene in reversed(scenes)} if settings.video_camera else {}
    mine = scenes[accelerator.process_index :: accelerator.num_processes]
    rollouts = roll_out(
        joint.executor,
        mine,
        partial(build_simulator, settings.simulator, settings.video_camera),
        cameras=properties.cameras,
        max_actions=settings.max_actions,
        workers=settings.workers or 2 * own_cores(),
        device=accelerator.device,
        film=set(filmed.values()),
        progress=accelerator.is_main_process,
    )
    if accelerator.num_processes > 1:
        rollouts = sorted(gather_object(rollouts), key=lambda r: r.scene)
    if not accelerator.is_main_process:
        return
    _report_success(rollouts, report)
    for rollout in rollouts:
        if len(rollout.frames):
            write_video(rollout, report.folder / "videos" / f"{rollout.scene.task}.mp4", VIDEO_FPS)


def build_simulator(section: ComponentSection, camera: str | None, film: bool) -> Simulator:
    """A simulator of the recipe, in whichever process calls. film: through `camera`."""
    video = {"video_camera": camera, "video_fps": VIDEO_FPS} if film else {}
    simulator: Simulator = build_section("simulator", section, video)
    return simulator


def _scenes(keys: Sequence[EpisodeKey], split: str, count: int) -> list[Scene]:
    """The first `count` scenes of every variation that the source trains on."""
    variations = dict.fromkeys((key.task, key.variation) for key in keys)
    return [
        Scene(task, variation, split, i) for task, variation in variations for i in range(count)
    ]


def _report_success(rollouts: Sequence[Rollout], report: Report) -> None:
    tasks = sorted({r.scene.task for r in rollouts})
    by_task = {}
    report.add_share("eval/success_rate", sum(r.success for r in rollouts), len(rollouts))
    for task in tasks:
        own = [r.success for r in rollouts if r.scene.task == task]
        report.add_share(f"eval/success_rate/{task}", sum(own), len(own))
        by_task[task] = (sum(own), len(own))
    report.metrics["eval/rollout_motion_errors"] = float(sum(r.errors for r in rollouts))
    success_bars(by_task, report.folder / "figures" / "success.png")
