"""One batch through everything, to see that it works, how large it is and how long it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from mirrorlib.assembly import Parts, assemble, open_cache, planned_batches, prepare_cache
from mirrorlib.data.batches import Batch
from mirrorlib.evaluation.evaluate import Evaluation
from mirrorlib.interfaces import Episode, EpisodeKey, Source, Split
from mirrorlib.monitor import Monitor, Phase
from mirrorlib.recipe import Recipe
from mirrorlib.reporting.report import Report
from mirrorlib.training.checkpoint import checkpoints
from mirrorlib.training.loop import Training
from mirrorlib.training.size import describe_sizes

STEPS = 2
"""The first of which warms up."""


class Excerpt(Source):
    """The first episodes of a source: of some variations, as many as one batch needs to train on
    and one that is held out. failed: says which demonstrations are known to fail."""

    def __init__(
        self, source: Source, variations: int, training: int, failed: Callable[[EpisodeKey], bool]
    ) -> None:
        self.source, self.variations, self.training = source, variations, training
        self.failed = failed
        self.properties = source.properties

    def keys(self, split: Split) -> list[EpisodeKey]:
        found: dict[tuple[str, int], list[EpisodeKey]] = {}
        for key in self.source.keys(split):
            if self.failed(key):
                continue
            found.setdefault((key.task, key.variation), []).append(key)
        each = self.training if split == "train" else 1
        return [key for keys in islice(found.values(), self.variations) for key in keys[:each]]

    def episode(self, key: EpisodeKey) -> Episode:
        return self.source.episode(key)

    def fingerprint(self) -> Mapping[str, Any]:
        return self.source.fingerprint()

    def stamp(self, key: EpisodeKey) -> str:
        return self.source.stamp(key)


def dry_run(recipe: Recipe) -> None:
    """Records what one batch needs, trains two steps, saves, evaluates with one action a scene;
    prints sizes and times. What was recorded stays in the cache; nothing else is kept.

    Under a launcher, every process calls this. Raises UserError as `pipeline.run` does.
    """
    whole = assemble(recipe)
    failed = open_cache(recipe, whole.source, whole.properties).failed
    excerpt = Excerpt(whole.source, recipe.batch.instructions, recipe.batch.episodes, failed)
    parts = replace(whole, recipe=_shortened(recipe), source=excerpt)
    recorded = len(open_cache(recipe, excerpt, whole.properties).missing())
    monitor, rows = Monitor(), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with monitor.phase("record"):
            cache = prepare_cache(parts)
            while cache.missing():  # others, in place of those that failed
                cache = prepare_cache(parts)
        batches = planned_batches(parts.recipe, cache, parts.accelerator)
        training = Training(
            parts.accelerator, parts.joint, parts.recipe, batches, folder,
            lambda row, step: rows.append(row) if "train/loss" in row else None,
        )  # fmt: skip
        with monitor.phase("train"):
            trained = training.run()
        saved = sum(file.stat().st_size for path in checkpoints(folder) for file in path.iterdir())
        with monitor.phase("evaluate"):
            Evaluation(
                parts.accelerator, parts.joint, parts.recipe, cache, parts.properties,
                Report("dry run", folder),
            ).run()  # fmt: skip
    if not parts.accelerator.is_main_process:
        return
    print("\none batch through everything; nothing is kept but what was recorded\n")
    for line in (
        *describe_sizes(parts.joint),
        *_batch(batches[0]),
        "",
        _recording(whole, monitor.phases["record"], recorded),
        _training(whole, rows),
        f"computing   {(trained.flops or 0) / 1e9:.1f} GFLOP a step, all processes together",
        f"checkpoint  {_megabytes(saved)}",
        f"evaluation  {_seconds(monitor.phases['evaluate'].seconds)} with one action a scene",
        _memory(monitor.phases.values()),
    ):
        print(line)


def _shortened(recipe: Recipe) -> Recipe:
    train = {"steps": STEPS, "max_steps": None, "log_every": 1}
    evaluation = {"rollouts": 1, "max_actions": 1, "probe_steps": 1}
    return recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=train),
            "evaluation": recipe.evaluation.model_copy(update=evaluation),
        }
    )


def _batch(batch: Batch) -> Iterator[str]:
    """What one process holds of a batch."""
    for side, rows in (("clips", batch.clips), ("steps", batch.steps)):
        for field in fields(rows):
            value = getattr(rows, field.name)
            if isinstance(value, Tensor) and value.ndim > 1:
                shape = " x ".join(map(str, value.shape))
                kind = str(value.dtype).removeprefix("torch.")
                name = f"{side}.{field.name}"
                yield f"{name:<20}  {shape} {kind}, {_megabytes(value.nbytes)}"


def _recording(whole: Parts, phase: Phase, recorded: int) -> str:
    left = len(open_cache(whole.recipe, whole.source, whole.properties).missing())
    if not left:
        return "recording   done: all demonstrations are in the cache"
    if not recorded:
        return f"recording   {left} episodes are left to record"
    each = phase.seconds / recorded
    return (
        f"recording   {recorded} episodes in {_seconds(phase.seconds)}; {left} are left: at most "
        f"{_seconds(left * each)}"
    )


def _training(whole: Parts, rows: Sequence[dict[str, float]]) -> str:
    settings, batch = whole.recipe.train, whole.recipe.batch
    pairs = batch.instructions * batch.episodes * settings.accumulation
    first, then = (pairs / row["train/pairs_per_second"] for row in rows)
    steps = settings.max_steps or settings.steps
    return (
        f"training    {_seconds(first)} for the first step, {_seconds(then)} for the second; "
        f"{steps} of them: about {_seconds(steps * then)}"
    )


def _memory(phases: Collection[Phase]) -> str:
    peak, gpu = max(p.memory for p in phases), max(p.gpu_memory for p in phases)
    return f"memory      {peak / 2**30:.1f} GiB" + (f", GPU {gpu / 2**30:.1f} GiB" if gpu else "")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
