"""One run from recipe to report: record, train, evaluate, tell."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from mirrorlib.data.batches import PlannedBatches, label_episodes
from mirrorlib.data.cache import SPLITS, Cache, default_folder
from mirrorlib.data.pairing import plan_batches
from mirrorlib.data.store import Layout
from mirrorlib.errors import UserError
from mirrorlib.evaluation.evaluate import Evaluation
from mirrorlib.hookspecs import RunInfo
from mirrorlib.interfaces import DataProperties, Source
from mirrorlib.monitor import Monitor
from mirrorlib.plugins import installed
from mirrorlib.processes import own_cores
from mirrorlib.randomness import seeded
from mirrorlib.recipe import Recipe, dump_recipe
from mirrorlib.registry import build_section
from mirrorlib.reporting.report import Report
from mirrorlib.tracking import Tracker, git_sha, track
from mirrorlib.training.checkpoint import last_checkpoint
from mirrorlib.training.joint import Joint, Weights
from mirrorlib.training.loop import train

PATIENCE = timedelta(hours=12)
"""How long processes wait for one that still records or evaluates."""


def run(recipe: Recipe) -> Report:
    """Runs a recipe to its report. Under a launcher, every process calls this.

    Raises UserError for what the user can mend; whatever was recorded or trained is kept.
    """
    installed().require(recipe.distributions)
    accelerator = start_accelerator(recipe)
    with seeded(recipe.seed, "source"):
        source: Source = build_section("source", recipe.source)
    check_data(recipe, source)
    properties = executor_view(recipe, source)
    joint = build_joint(recipe, properties)
    folder = Path(_agree(accelerator, lambda: str(claim_folder(recipe))))
    monitor = Monitor()
    tracker = _tracker(recipe, folder) if accelerator.is_main_process else None
    info = RunInfo(folder.name, str(folder), recipe.resolved())
    with _announced(info, accelerator.is_main_process), track(tracker) as log:
        with monitor.phase("record"):
            cache = prepare_cache(recipe, source, properties, accelerator)
        with monitor.phase("train"), seeded(recipe.seed, "train", accelerator.process_index):
            batches = planned_batches(recipe, cache, accelerator)
            train(accelerator, joint, batches, recipe.train, folder / "checkpoints", log)
        with monitor.phase("evaluate"):
            report = Report(folder.name, folder)
            Evaluation(accelerator, joint, recipe, cache, properties, report).run()
        report.phases = monitor.phases
        if tracker is not None:
            add_facts(report, cache, batches)
            log(report.metrics, recipe.train.steps)
            _publish(report, recipe, tracker, info)
    return report


def record(recipe: Recipe) -> Cache:
    """Records whatever the recipe's data still lacks. Returns the cache."""
    installed().require(recipe.distributions)
    source: Source = build_section("source", recipe.source)
    check_data(recipe, source)
    cache = open_cache(recipe, source, executor_view(recipe, source))
    cache.record(cache.missing(), _workers(recipe.data.workers))
    for split in SPLITS:
        count, failed = len(cache.episodes(split)), cache.failures(split)
        print(f"{split}: {count} episodes, {failed} failed demonstrations dropped")
    print(f"in {cache.folder}")
    return cache


def start_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate with the recipe's precision, else the launcher's."""
    precision = recipe.train.precision
    asked = precision or os.environ.get("ACCELERATE_MIXED_PRECISION")
    if asked == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision is fp16, which needs a GPU; use no or bf16 here")
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[patience])
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and accelerator.device.type == "cpu" and torch.get_num_threads() == 1:
        torch.set_num_threads(own_cores())  # accelerate launch leaves a CPU process one thread
    size, rows = accelerator.num_processes, recipe.batch.instructions
    if rows % size:
        raise UserError(
            f"batch.instructions is {rows}, which {size} processes cannot share equally; "
            f"make it a multiple of {size}"
        )
    return accelerator


def check_data(recipe: Recipe, source: Source) -> None:
    """Raises UserError, before anything is recorded, where the source cannot give what the recipe
    needs of it."""
    split = recipe.evaluation.split
    if not source.keys(split):
        raise UserError(f"evaluation.split is {split}, but the source has no {split} episodes")
    for camera in recipe.data.clip_cameras:
        if camera not in source.properties.cameras:
            raise UserError(
                f"data.clip_cameras: the source has no camera {camera!r}; "
                f"it has {', '.join(source.properties.cameras)}"
            )
    variations = {(key.task, key.variation) for key in source.keys("train")}
    if len(variations) < recipe.batch.instructions:
        raise UserError(
            f"batch.instructions is {recipe.batch.instructions}, but the source's training split "
            f"has {len(variations)} instructions; set it to at most that, or add tasks"
        )


def prepare_cache(
    recipe: Recipe, source: Source, properties: DataProperties, accelerator: Accelerator
) -> Cache:
    """Records what the cache lacks, every process its share, and waits for the others."""
    cache = open_cache(recipe, source, properties)
    missing = _agree(accelerator, cache.missing)
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    cache.record(mine, _workers(recipe.data.workers), accelerator.is_main_process)
    accelerator.wait_for_everyone()
    for split in ("train", recipe.evaluation.split):
        if not cache.episodes(split):
            raise UserError(
                f"the source has no {split} episodes that succeeded; give source.{split} more"
            )
    return cache


def open_cache(recipe: Recipe, source: Source, properties: DataProperties) -> Cache:
    """The recipe's cache; nothing is recorded."""
    root = Path(recipe.data.cache) if recipe.data.cache else default_folder()
    layout = Layout(recipe.data.clip_frames, tuple(recipe.data.clip_cameras), properties.cameras)
    return Cache(root, recipe.source.name, source, layout)


def planned_batches(recipe: Recipe, cache: Cache, accelerator: Accelerator) -> PlannedBatches:
    """This process's rows of every batch of the run."""
    episodes = cache.episodes("train")
    plans = plan_batches(
        label_episodes(episodes),
        instructions=recipe.batch.instructions,
        episodes=recipe.batch.episodes,
        steps=recipe.train.steps,
        pairing=recipe.pairing,
        seed=recipe.seed,
    )
    return PlannedBatches(
        episodes,
        plans,
        recipe.data.clip_frames,
        accelerator.process_index,
        accelerator.num_processes,
    )


def build_joint(recipe: Recipe, properties: DataProperties) -> Joint:
    """Encoders, projectors and objective. Each starts from its own seed, so that encoders are
    identical at the start in every arm."""
    known = vars(properties)
    with seeded(recipe.seed, "observer"):
        observer = build_section("observer", recipe.observer, known)
    with seeded(recipe.seed, "executor"):
        executor = build_section("executor", recipe.executor, known)
    with seeded(recipe.seed, "objective"):
        objective = build_section("objective", recipe.objective)
    projectors = None
    if objective.uses_projectors:
        projectors = (
            _projector(recipe, "observer", observer.representation_dim),
            _projector(recipe, "executor", executor.representation_dim),
        )
    weights = Weights(recipe.train.weights.executor, recipe.train.weights.alignment)
    return Joint(observer, executor, projectors, objective, weights, recipe.pairing)


def _projector(recipe: Recipe, side: str, input_dim: int) -> Any:
    with seeded(recipe.seed, f"projector/{side}"):
        return build_section("projector", recipe.projector, {"input_dim": input_dim})


def claim_folder(recipe: Recipe) -> Path:
    """`runs/<name>`, or the first of `<name>-2`, `<name>-3`, ... that is free: runs are kept."""
    base = Path(recipe.output)
    try:
        base.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = base / (recipe.name if number == 1 else f"{recipe.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                break
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    except OSError as error:
        raise UserError(
            f"{base}: runs cannot be kept there ({error.strerror}); set output"
        ) from error
    return folder


def _tracker(recipe: Recipe, folder: Path) -> Tracker:
    tags = {
        "objective": recipe.objective.name,
        "observer": recipe.observer.name,
        "executor": recipe.executor.name,
        "source": recipe.source.name,
        "pairing": recipe.pairing,
        "seed": str(recipe.seed),
        "recipe_sha": recipe.sha,
        "run_folder": str(folder),
    }
    if sha := git_sha():
        tags["git_sha"] = sha
    tracker = Tracker(
        folder,
        recipe.tracking.experiment,
        folder.name,
        tags | recipe.tracking.tags,
        recipe.resolved(),
    )
    tracker.artifact(folder / "recipe.yaml")
    return tracker


@contextmanager
def _announced(info: RunInfo, main: bool) -> Iterator[None]:
    """Tells the watching hooks that the run starts, and how it ended."""
    if not main:
        yield
        return
    installed().notify("run_started", run=info)
    status = "failed"
    try:
        yield
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        installed().notify("run_finished", run=info, status=status)


def add_facts(report: Report, cache: Cache, batches: PlannedBatches) -> None:
    """What the run cost, and what else a reader of its numbers must know."""
    for name, phase in report.phases.items():
        report.metrics[f"cost/{name}_seconds"] = phase.seconds
        report.metrics[f"cost/{name}_peak_bytes"] = float(phase.memory)
    failed = sum(cache.failures(split) for split in SPLITS)
    dropped = sum(int((~plan.aligned).sum()) for plan in batches.plans)
    rows = sum(len(plan.clips) for plan in batches.plans)
    report.facts = {
        "demonstrations": f"{cache.folder} ({failed} failed and were dropped)",
        "rows without a partner": f"{dropped} of {rows}",
        "report": str(report.folder / "report.json"),
    }


def _publish(report: Report, recipe: Recipe, tracker: Tracker, info: RunInfo) -> None:
    """Writes the report, hands everything to the tracker, and prints the table."""
    for folder in ("figures", "videos"):
        if (report.folder / folder).is_dir():
            tracker.artifact(report.folder / folder, folder)
    if checkpoint := last_checkpoint(report.folder / "checkpoints"):
        tracker.artifact(checkpoint, f"checkpoints/{checkpoint.name}")
    tracker.flush()
    run = tracker.run_id or "not reached"
    report.facts["MLflow run"] = f"{run} in experiment {recipe.tracking.experiment!r}"
    tracker.artifact(report.write())
    print(f"\n{report.table()}\nsee all runs: mirrorlib ui", flush=True)
    installed().notify("evaluated", run=info, report=MappingProxyType(dict(report.metrics)))


def _agree(accelerator: Accelerator, decide: Any) -> Any:
    """What the main process decides, in every process."""
    decided = [decide() if accelerator.is_main_process else None]
    return broadcast_object_list(decided)[0]


def executor_view(recipe: Recipe, source: Source) -> DataProperties:
    """The source's properties, with the cameras that the recipe wants. Raises UserError."""
    properties, cameras = source.properties, recipe.data.step_cameras
    if cameras is None:
        return properties
    unknown = [camera for camera in cameras if camera not in properties.cameras]
    if unknown:
        raise UserError(
            f"data.step_cameras: the source has no camera {unknown[0]!r}; "
            f"it has {', '.join(properties.cameras)}"
        )
    return replace(properties, cameras=tuple(cameras))


def _workers(asked: int | None) -> int:
    return asked or own_cores()
