"""What a recipe names, built; and the demonstrations and batches that it trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from mirrorlib.data.batches import PlannedBatches, label_episodes
from mirrorlib.data.cache import Cache
from mirrorlib.data.location import default_folder
from mirrorlib.data.pairing import Pairing, plan_batches
from mirrorlib.data.store import Layout
from mirrorlib.errors import UserError
from mirrorlib.hookspecs import Kind
from mirrorlib.interfaces import DataProperties, Source, Split
from mirrorlib.launcher import start_accelerator
from mirrorlib.plugins import installed
from mirrorlib.processes import own_cores
from mirrorlib.randomness import seeded
from mirrorlib.recipe import Recipe
from mirrorlib.registry import Section, build_section
from mirrorlib.sections import WeightsSection
from mirrorlib.training.groups import freeze
from mirrorlib.training.joint import Joint, Weights

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What a recipe names, built."""

    recipe: Recipe
    accelerator: Accelerator
    source: Source
    properties: DataProperties
    joint: Joint


def assemble(recipe: Recipe) -> Parts:
    """Builds what the recipe names. Raises UserError where this machine, the launcher or the
    source cannot give what it asks for."""
    installed().require(recipe.offers)
    accelerator = start_accelerator(recipe)
    with seeded(recipe.seed, "source"):
        source: Source = build_section("source", recipe.source)
    check_data(recipe, source)
    properties = executor_view(recipe, source)
    return Parts(recipe, accelerator, source, properties, build_joint(recipe, properties))


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


def prepare_cache(parts: Parts) -> Cache:
    """Records what the cache lacks, every process its share, and waits for the others."""
    recipe, accelerator = parts.recipe, parts.accelerator
    cache = open_cache(recipe, parts.source, parts.properties)
    with ExitStack() as stack:
        missing, cache.skipped = agree(
            accelerator, lambda: (stack.enter_context(cache.lacking()), cache.skipped)
        )
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        cache.record(mine, recording_workers(recipe), accelerator.is_main_process)
        accelerator.wait_for_everyone()
    for skipped in gather_object([cache.skipped]):
        cache.skipped |= skipped
    splits: tuple[Split, ...] = ("train", recipe.evaluation.split)
    counts = {split: len(cache.episodes(split)) for split in splits}
    if any(others != counts for others in gather_object([counts])):
        raise UserError(
            f"{cache.folder}: not all processes see the same demonstrations there; set data.cache "
            "to a folder that all machines share"
        )
    for split, count in counts.items():
        if not count:
            raise cache.emptiness(split)
    return cache


def open_cache(recipe: Recipe, source: Source, properties: DataProperties) -> Cache:
    """The recipe's cache; nothing is recorded."""
    data = recipe.data
    root = Path(data.cache) if data.cache else default_folder()
    layout = Layout(data.clip_frames, tuple(data.clip_cameras), properties.cameras)
    return Cache(root, recipe.source.name, source, layout, data.broken)


def planned_batches(recipe: Recipe, cache: Cache, accelerator: Accelerator) -> PlannedBatches:
    """This process's rows of every batch of the run, as far as it goes."""
    episodes = cache.episodes("train")
    steps = min(recipe.train.steps, recipe.train.max_steps or recipe.train.steps)
    plans = plan_batches(
        label_episodes(episodes),
        instructions=recipe.batch.instructions,
        episodes=recipe.batch.episodes,
        steps=steps * recipe.train.accumulation,
        pairing=recipe.pairing,
        seed=recipe.seed,
        sampling=recipe.batch.sampling,
    )
    fewest, needed = min(int(plan.aligned.sum()) for plan in plans), recipe.objective.minimum_rows
    if fewest < needed:
        raise UserError(
            f"objective {recipe.objective.name} needs {needed} pairs in a batch, but one would "
            f"hold {fewest}: too few instructions have two training episodes; record more"
        )
    return PlannedBatches(
        episodes,
        plans,
        recipe.data.clip_frames,
        accelerator.process_index,
        accelerator.num_processes,
    )


def build_joint(recipe: Recipe, properties: DataProperties) -> Joint:
    """Encoders, projectors and objective, frozen as the recipe says. Each starts from its own seed,
    so that encoders are identical at the start in every arm. Raises UserError."""
    joint = joint_of(
        recipe.components, properties, recipe.seed, recipe.train.weights, recipe.pairing
    )
    freeze(joint, recipe.train.groups or ())
    return joint


def joint_of(
    sections: Mapping[Kind, Section],
    properties: DataProperties,
    seed: int,
    weights: WeightsSection,
    pairing: Pairing,
) -> Joint:
    """As `build_joint`, from the sections of observer, executor, projector and objective alone."""
    known = vars(properties)
    with seeded(seed, "observer"):
        observer = build_section("observer", sections["observer"], known)
    with seeded(seed, "executor"):
        executor = build_section("executor", sections["executor"], known)
    with seeded(seed, "objective"):
        objective = build_section("objective", sections["objective"])
    projectors = None
    if objective.uses_projectors:
        projector = sections["projector"]
        projectors = (
            _projector(projector, seed, "observer", observer.representation_dim),
            _projector(projector, seed, "executor", executor.representation_dim),
        )
        u_dim, e_dim = (built.output_dim for built in projectors)
        if u_dim != e_dim:
            raise UserError(
                f"projector {projector.offer.component.name} leaves u with {u_dim} dimensions and "
                f"e with {e_dim}, which cannot be compared; choose one that maps both to one "
                "width, such as linear"
            )
    return Joint(observer, executor, projectors, objective, Weights(**dict(weights)), pairing)


def _projector(section: Section, seed: int, side: str, input_dim: int) -> Any:
    with seeded(seed, f"projector/{side}"):
        return build_section("projector", section, {"input_dim": input_dim})


def agree(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """What the main process decides, in every process. Where that raises UserError, the others end
    as well, with the same exit code and without a word."""
    decided: list[Any] = [None, True]
    problem = None
    if accelerator.is_main_process:
        try:
            decided[0] = decide()
        except UserError as error:
            problem, decided[1] = error, False
    agreed, possible = broadcast_object_list(decided)
    if problem is not None:
        raise problem
    if not possible:
        raise SystemExit(2)
    result: T = agreed
    return result


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


def recording_workers(recipe: Recipe) -> int:
    return recipe.data.workers or own_cores()
