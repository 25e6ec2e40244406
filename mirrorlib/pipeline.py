"""One run from recipe to report: record, train, evaluate, tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from accelerate import Accelerator
from accelerate.utils import set_seed

from mirrorlib.assembly import (
    Parts,
    agree,
    assemble,
    check_data,
    executor_view,
    open_cache,
    planned_batches,
    prepare_cache,
    recording_workers,
)
from mirrorlib.data.batches import PlannedBatches
from mirrorlib.data.cache import SPLITS, Cache
from mirrorlib.dataset_inputs import dataset_inputs
from mirrorlib.evaluation.evaluate import Evaluation
from mirrorlib.export import write_export
from mirrorlib.files import writing
from mirrorlib.hookspecs import RunInfo
from mirrorlib.interfaces import Source, Split
from mirrorlib.machine_metrics import sampling
from mirrorlib.monitor import Monitor
from mirrorlib.plugins import installed
from mirrorlib.provenance import git_sha
from mirrorlib.randomness import derive_seed, seeded
from mirrorlib.recipe import Recipe, load_recipe
from mirrorlib.records import make_record
from mirrorlib.registry import build_section
from mirrorlib.reporting.report import Report
from mirrorlib.run_folder import RunFolder, opened
from mirrorlib.tracking import Tracker, track
from mirrorlib.training.checkpoint import (
    checkpoints,
    find_checkpoint,
    load_weights,
    recorded_step,
)
from mirrorlib.training.loop import Log, Training
from mirrorlib.training.size import costs, describe_sizes


def run(recipe: Recipe) -> Report:
    """Runs a recipe to its report. Under a launcher, every process calls this.

    Raises UserError for what the user can mend; whatever was recorded or trained is kept.
    """
    parts = assemble(recipe)
    with _folder(parts.accelerator, recipe) as folder:
        if folder.finished:
            return _told_again(folder, parts.accelerator)
        started = recorded_step(folder.checkpoint) if folder.checkpoint else 0
        with _tracked(parts, folder.path, {}, started) as tracked:
            with tracked.monitor.phase("record"):
                cache = _recorded(parts, tracked)
            if parts.accelerator.is_main_process:
                print(*describe_sizes(parts.joint), sep="\n", flush=True)
            with tracked.monitor.phase("train"), seeded(recipe.seed, "train"):
                batches = planned_batches(recipe, cache, parts.accelerator)
                training = Training(
                    parts.accelerator, parts.joint, recipe, batches, folder.checkpoints, tracked.log
                )
                trained = training.run(folder.checkpoint)
            facts = {"rows without a partner": _without_partner(batches)}
            if trained.flops is not None:
                facts["first step"] = f"{trained.flops / 1e9:.1f} GFLOP, all processes together"
            if started:
                facts["continued from"] = f"step {started}; the times are of the rest"
            report = _evaluated(parts, cache, tracked, trained.steps, facts, trained.flops)
            if parts.accelerator.is_main_process and trained.steps == recipe.train.steps:
                _leave_record(report, recipe)
        if tracked.tracker is not None and tracked.tracker.sent:
            folder.finish()
        return report


def evaluate(checkpoint: Path, overrides: Sequence[str] = ()) -> Report:
    """Evaluates a checkpoint as its recipe says; the report goes into a run folder of its own.

    checkpoint: its folder, or a run's, whose last whole one is taken. overrides: `a.b=c`.
    Raises UserError.
    """
    checkpoint = find_checkpoint(checkpoint)
    recipe = load_recipe(checkpoint / "recipe.yaml", overrides)
    whatever = recipe.train.model_copy(update={"precision": None})  # evaluation is in float32
    recipe = recipe.model_copy(update={"name": f"{recipe.name}-evaluated", "train": whatever})
    parts = assemble(recipe)
    load_weights(checkpoint, parts.joint)
    parts.joint.to(parts.accelerator.device)
    with (
        _folder(parts.accelerator, recipe) as folder,
        _tracked(parts, folder.path, {"checkpoint": str(checkpoint)}) as tracked,
    ):
        with tracked.monitor.phase("record"):
            cache = _recorded(parts, tracked)
        facts = {"checkpoint": str(checkpoint)}
        return _evaluated(parts, cache, tracked, recorded_step(checkpoint), facts)


def record(recipe: Recipe, rebuild: bool = False) -> Cache:
    """Records whatever the recipe's data still lacks. Returns the cache. rebuild: and what is
    damaged."""
    installed().require(recipe.offers)
    source: Source = build_section("source", recipe.source)
    check_data(recipe, source)
    cache = open_cache(recipe, source, executor_view(recipe, source))
    with cache.lacking(rebuild=rebuild) as missing:
        cache.record(missing, recording_workers(recipe))
    for split in SPLITS:
        count, failed = len(cache.episodes(split)), cache.failures(split)
        print(f"{split}: {count} episodes, {failed} failed demonstrations dropped")
    print(f"in {cache.summary}")
    return cache


@dataclass(frozen=True)
class _Tracked:
    """What follows a run: tracker (of the main process), log, monitor, and what hooks are told."""

    tracker: Tracker | None
    log: Log
    monitor: Monitor
    info: RunInfo


@contextmanager
def _folder(accelerator: Accelerator, recipe: Recipe) -> Iterator[RunFolder]:
    """The run's folder, which the main process opens and holds."""
    with ExitStack() as stack:
        yield agree(accelerator, lambda: stack.enter_context(opened(recipe)))


@contextmanager
def _tracked(
    parts: Parts, folder: Path, tags: Mapping[str, str], continued_from: int = 0
) -> Iterator[_Tracked]:
    """Tells MLflow and the watching hooks that the run starts, and how it ended."""
    recipe = parts.recipe
    info = RunInfo(folder.name, str(folder), recipe.resolved())
    monitor = Monitor()
    if not parts.accelerator.is_main_process:
        with track(None) as log:
            yield _Tracked(None, log, monitor, info)
        return
    tracker = Tracker(
        folder,
        recipe.tracking.experiment,
        folder.name,
        _tags(recipe, folder) | dict(tags),
        recipe.resolved(),
        continued_from,
    )
    tracker.artifact(folder / "recipe.yaml")
    with _announced(info), track(tracker) as log, sampling(tracker.log_system):
        yield _Tracked(tracker, log, monitor, info)


def _recorded(parts: Parts, tracked: _Tracked) -> Cache:
    """The demonstrations, recorded where they lack, and listed with the run."""
    cache = prepare_cache(parts)
    if tracked.tracker is not None:
        splits: tuple[Split, ...] = ("train", parts.recipe.evaluation.split)
        tracked.tracker.inputs(dataset_inputs(cache, parts.recipe.source.name, splits))
    return cache


def _tags(recipe: Recipe, folder: Path) -> dict[str, str]:
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
    tags["arm"] = recipe.tracking.arm or recipe.objective.name
    optional = {"git_sha": git_sha(), "suite": recipe.tracking.suite}
    tags |= {name: value for name, value in optional.items() if value is not None}
    return tags | recipe.tracking.tags


@contextmanager
def _announced(info: RunInfo) -> Iterator[None]:
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


def _evaluated(
    parts: Parts,
    cache: Cache,
    tracked: _Tracked,
    step: int,
    facts: Mapping[str, str],
    flops: int | None = None,
) -> Report:
    """Measures, then writes the report, hands everything to the tracker, and prints the table.
    flops: of a training step."""
    folder = Path(tracked.info.folder)
    report = Report(folder.name, folder)
    with tracked.monitor.phase("evaluate"), seeded(parts.recipe.seed, "evaluate"):
        set_seed(derive_seed("evaluate", parts.recipe.seed) % 2**32)
        Evaluation(
            parts.accelerator, parts.joint, parts.recipe, cache, parts.properties, report
        ).run()
    report.phases = tracked.monitor.phases
    if tracked.tracker is not None:
        report.metrics |= costs(parts.joint, flops)
        _add_facts(report, cache, facts)
        tracked.log(report.metrics, step)
        _publish(report, parts, tracked.tracker, tracked.info)
    return report


def _add_facts(report: Report, cache: Cache, facts: Mapping[str, str]) -> None:
    """What the run cost, and what else a reader of its numbers must know."""
    for name, phase in report.phases.items():
        report.metrics[f"cost/{name}_seconds"] = phase.seconds
        report.metrics[f"cost/{name}_peak_bytes"] = float(phase.memory)
    report.facts = {
        "demonstrations": cache.summary,
        **facts,
        "report": str(report.folder / "report.json"),
    }


def _without_partner(batches: PlannedBatches) -> str:
    dropped = sum(int((~plan.aligned).sum()) for plan in batches.plans)
    return f"{dropped} of {sum(len(plan.clips) for plan in batches.plans)}"


def _publish(report: Report, parts: Parts, tracker: Tracker, info: RunInfo) -> None:
    for folder in ("figures", "videos"):
        if (report.folder / folder).is_dir():
            tracker.artifact(report.folder / folder, folder)
    tracker.flush()
    run = tracker.run_id or "not reached"
    report.facts["MLflow run"] = f"{run} in experiment {parts.recipe.tracking.experiment!r}"
    tracker.artifact(report.write())
    for checkpoint in checkpoints(report.folder / "checkpoints")[:1]:
        exported = partial(
            write_export,
            checkpoint=checkpoint,
            recipe=parts.recipe,
            properties=parts.properties,
            report=report,
        )
        tracker.made_artifact(exported, "model")
    print(f"\n{report.table()}\nsee all runs: mirrorlib ui", flush=True)
    installed().notify("evaluated", run=info, report=MappingProxyType(dict(report.metrics)))


def _leave_record(report: Report, recipe: Recipe) -> None:
    """Raises UserError where it cannot be written."""
    if recipe.tracking.records is None:
        return
    folder = Path(recipe.tracking.records)
    record = make_record(recipe, report, git_sha())
    with writing(folder / record.file_name):
        print(f"record: {record.write(folder)}", flush=True)


def _told_again(folder: RunFolder, accelerator: Accelerator) -> Report:
    """The report of a run that has finished: nothing is left to resume."""
    report = Report.read(folder.path)
    if accelerator.is_main_process:
        print(f"\n{report.table()}\n{folder.path} has finished; nothing was left to do")
    return report
