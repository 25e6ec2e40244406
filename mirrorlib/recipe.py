"""The recipe: everything that decides a run, read from YAML and checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, InstanceOf, ValidationError, field_validator

from mirrorlib.errors import ComponentError
from mirrorlib.hookspecs import Kind
from mirrorlib.plugins import summary
from mirrorlib.registry import Offer, Registry, installed
from mirrorlib.sections import (
    BatchSection,
    ComponentSection,
    DataSection,
    EvaluationSection,
    Section,
    TrackingSection,
    TrainSection,
)
from mirrorlib.validation import explain, show
from mirrorlib.yamlfile import Document, Keys, dotted, plain_document, read_yaml, write_yaml


class Recipe(Section):
    """A whole run. Made by `load_recipe`."""

    name: str = Field(max_length=100, description="Folder of the run, within `output`.")
    seed: int = Field(
        0, ge=0, lt=2**63, description="Decides initialisation, order and augmentation."
    )
    source: InstanceOf[ComponentSection] = Field(description="Where demonstrations come from.")
    observer: InstanceOf[ComponentSection] = Field(description="The action understanding model.")
    executor: InstanceOf[ComponentSection] = Field(description="The embodied execution policy.")
    projector: InstanceOf[ComponentSection] = Field(
        description="Maps a representation into the shared space, one for each encoder."
    )
    objective: InstanceOf[ComponentSection] = Field(description="What aligns u and e.")
    pairing: Literal["episode", "instruction", "task"] = Field(
        "instruction", description="What a clip and a step must share to be a positive pair."
    )
    data: DataSection = Field(DataSection(), description="How demonstrations are kept and read.")
    batch: BatchSection = Field(BatchSection(), description="What a batch holds.")
    train: TrainSection = Field(description="How long and how to optimise, at least `steps`.")
    evaluation: EvaluationSection = Field(
        EvaluationSection(), description="What is measured after training."
    )
    tracking: TrackingSection = Field(TrackingSection(), description="Where MLflow files the run.")
    output: str = Field("runs", min_length=1, description="Folder that holds the runs' folders.")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"{name!r} must name a folder: letters and digits, then also . _ -")
        return name

    @property
    def components(self) -> dict[Kind, ComponentSection]:
        """The sections that name components, by kind; `simulator` only where there is one."""
        found = {kind: attrgetter(dotted(keys))(self) for keys, kind in COMPONENTS.items()}
        return {kind: section for kind, section in found.items() if section is not None}

    @property
    def offers(self) -> list[Offer]:
        """The components that are used, and who offers them."""
        return [section.offer for section in self.components.values()]

    @property
    def resampling(self) -> str | None:
        """What is worth a word where the observer's option `num_frames` asks for other clips than
        there are."""
        given, wanted = self.data.clip_frames, getattr(self.observer.config, "num_frames", None)
        if wanted in (None, given):
            return None
        fate = "some are read twice" if wanted > given else "the others are read for nothing"
        return (
            f"data.clip_frames is {given}, but observer {self.observer.name} looks at {wanted} "
            f"frames, so {fate}; set data.clip_frames to {wanted}"
        )

    def resolved(self) -> dict[str, Any]:
        """The whole recipe, plain, every default of core and plugins filled in, schema order."""
        return self.model_dump(mode="json")

    @property
    def sha(self) -> str:
        """Twelve digits that differ whenever something that decides a number does."""
        text = json.dumps(self.decisive(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def decisive(self) -> dict[str, Any]:
        """The leaves of the resolved recipe, as `a.b` -> value, but for those that decide where
        and how a run is kept, and not what comes out of it, and for options that are null: one that
        a later version brings, and that is off, makes no other recipe."""
        unset = set(_unset(self))
        return {
            key: value
            for key, value in flatten(self.resolved())
            if key not in unset
            and not any(key == free or key.startswith(f"{free}.") for free in INCIDENTAL)
        }


COMPONENTS: Mapping[Keys, Kind] = {
    ("source",): "source",
    ("observer",): "observer",
    ("executor",): "executor",
    ("projector",): "projector",
    ("objective",): "objective",
    ("evaluation", "simulator"): "simulator",
}
INCIDENTAL = (
    "name", "output", "tracking", "data.cache", "data.workers", "evaluation.workers",
    "evaluation.timeout", "evaluation.video_camera", "evaluation.controls", "train.log_every",
    "train.checkpoint_every", "train.keep_checkpoints",
)  # fmt: skip
"""What decides no number of a run. (`evaluation.workers` decides which scenes the policy acts in at
once, and so its rounding; a machine's default is the number of its cores.)"""
SENSES = ("image_size", "proprioception")
"""Options that must be equal where a distribution's source and simulator both have them."""
NESTED: tuple[Kind, ...] = ("text",)
"""Options of components that name components themselves, under the name of their kind."""
DEFAULTS: Mapping[Keys, Mapping[str, Any]] = {("projector",): {"name": "linear"}}


def load_recipe(
    recipe: Recipe | str | PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    registry: Registry | None = None,
) -> Recipe:
    """Read and check a recipe: a file, a mapping, or a recipe to be overridden.

    overrides: `a.b=c`, `c` in YAML. registry: whose components it may name, by default those
    installed. Raises RecipeError with every problem at once, each
    `file:line:column: path: what is wrong`.
    """
    if isinstance(recipe, Recipe):
        recipe = recipe.resolved()
    if isinstance(recipe, str | PathLike):
        document, name = read_yaml(Path(recipe)), Path(recipe).stem
    else:
        document, name = plain_document(recipe), "recipe"
    for number, override in enumerate(overrides):
        document.override(number, override)
    document.value.setdefault("name", name)
    reported = _validate_components(document, registry or installed())
    try:
        loaded = Recipe.model_validate(document.value)
    except ValidationError as error:
        for finding in explain(error, Recipe, document.value):
            if finding.keys not in reported:
                document.report(finding.keys, finding.text)
    else:
        _refuse_small_batch(document, loaded)
        _refuse_pairing(document, loaded)
        _refuse_other_senses(document, loaded)
    document.raise_problems()
    return loaded


def load_sections(
    path: Path, kinds: Collection[Kind], registry: Registry | None = None
) -> tuple[dict[Kind, ComponentSection], dict[str, Any]]:
    """The sections of a resolved recipe that name components of these kinds, and what the file
    holds otherwise, unchecked. The plugins of the other kinds need not be installed.

    Raises RecipeError.
    """
    document = read_yaml(path)
    wanted = {keys: kind for keys, kind in COMPONENTS.items() if kind in kinds}
    _validate_components(document, registry or installed(), wanted)
    for keys, kind in wanted.items():
        if keys[0] not in document.value:
            document.report(keys, f"names no {kind}")
    document.raise_problems()
    return {kind: document.value[keys[0]] for keys, kind in wanted.items()}, document.value


def _refuse_small_batch(document: Document, recipe: Recipe) -> None:
    rows, needed = recipe.batch.instructions * recipe.batch.episodes, recipe.objective.minimum_rows
    if rows < needed:
        document.report(
            ("batch",),
            f"instructions x episodes is {rows}, but objective {recipe.objective.name} needs "
            f"{needed} pairs",
        )


def _refuse_pairing(document: Document, recipe: Recipe) -> None:
    needed = recipe.objective.required_pairing
    if needed not in (None, recipe.pairing):
        document.report(
            ("pairing",),
            f"is {recipe.pairing}, but objective {recipe.objective.name} needs pairing: {needed}",
        )


def _refuse_other_senses(document: Document, recipe: Recipe) -> None:
    """The policy is to sense what it learnt from."""
    source, simulator = recipe.source, recipe.evaluation.simulator
    if simulator is None or simulator.offer.distribution != source.offer.distribution:
        return
    for name in SENSES:
        told, found = source.options.get(name), simulator.options.get(name)
        if None not in (told, found) and told != found:
            document.report(
                ("evaluation", "simulator", name),
                f"is {show(found)}, but source.{name} is {show(told)}; make them the same",
            )


def dump_recipe(recipe: Recipe) -> str:
    """YAML that loads back as an equal recipe, nothing left to defaults."""
    return write_yaml(recipe.resolved())


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings as `a.b` -> value; an empty mapping is a leaf."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _unset(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """The declared options that are null, as `a.b`."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if value is None:
            yield prefix + name
        elif isinstance(value, BaseModel):
            inner = value.config if isinstance(value, ComponentSection) else value
            yield from _unset(inner, f"{prefix}{name}.")


def _validate_components(
    document: Document, registry: Registry, wanted: Mapping[Keys, Kind] = COMPONENTS
) -> set[Keys]:
    """Replace each section that names a component by what it means; report what is wrong.

    Returns the sections that were reported.
    """
    reported = set()
    for keys, kind in wanted.items():
        parent: Any = document.value
        for key in keys[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        if not isinstance(parent, dict):
            continue
        if keys in DEFAULTS:
            parent.setdefault(keys[-1], dict(DEFAULTS[keys]))
        written = parent.get(keys[-1])
        if written is not None:
            section = _component(document, keys, kind, written, registry)
            if section is None:
                reported.add(keys)
            else:
                parent[keys[-1]] = section
    return reported


def _component(
    document: Document, keys: Keys, kind: Kind, written: Any, registry: Registry
) -> ComponentSection | None:
    if not isinstance(written, dict):
        document.report(keys, f"must be a mapping with a name, not {show(written)}")
        return None
    name = written.get("name")
    if not isinstance(name, str):
        problem = f"must be text, not {show(name)}" if "name" in written else "is missing"
        names = ", ".join(offer.component.name for offer in registry.offers(kind))
        document.report((*keys, "name"), f"{problem}; there are: {names or 'none installed'}")
        return None
    options = {key: value for key, value in written.items() if key != "name"}
    try:
        offer = registry.find(kind, name)
        model = offer.config_model()
        section = ComponentSection(name=name, offer=offer, config=model.model_validate(options))
        inner = [key for key in NESTED if isinstance(options.get(key), dict)]
        whole = [_component(document, (*keys, key), key, options[key], registry) for key in inner]
        return None if None in whole else section
    except ComponentError as error:
        document.report((*keys, "name"), str(error))
    except ValidationError as error:
        for finding in explain(error, model, options):
            document.report((*keys, *finding.keys), finding.text)
    except Exception as error:
        document.report(keys, f"{offer} cannot read its options: {summary(error)}")
    return None
