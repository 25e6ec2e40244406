"""What a probe is told: one YAML file, checked before anything starts. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, Strict, field_validator

from mirrorlib.probing.names import CONTROLS, Control
from mirrorlib.sections import Count, Names, Rate, Section, Weight
from mirrorlib.validation import validated
from mirrorlib.yamlfile import read_yaml

Levels: TypeAlias = Annotated[
    tuple[Literal["episode", "instruction", "task"], ...], Strict(False), Field(min_length=1)
]


class MapsSection(Section):
    """How the two linear maps are fitted."""

    dim: Count = Field(64, description="Dimensions of the space that the maps meet in.")
    steps: Count = Field(600, description="Steps of AdamW.")
    temperature: Rate = Field(0.1, description="Temperature of InfoNCE.")
    learning_rate: Rate = Field(1e-3, description="Learning rate, constant.")
    weight_decay: Weight = Field(0.1, description="AdamW's decay.")
    batch: int = Field(128, ge=2, description="Pairs in a batch, at most.")
    seeds: Count = Field(5, description="How often maps are fitted, each from its own seed.")


class SiteSection(Section):
    """Where in one encoder the representation is taken, besides where training took it."""

    option: str = Field(min_length=1, description="The component's option that says where.")
    values: Names = Field(description="The option's values to try.")


class SitesSection(Section):
    """Representations to probe besides those that training used, one encoder at a time."""

    observer: SiteSection | None = Field(None, description="Sites of the observer.")
    executor: SiteSection | None = Field(None, description="Sites of the executor.")


class ProbeSettings(Section):
    """A whole probe. Made by `load_probe`."""

    name: str = Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder of the results, within `output`.",
    )
    observer: str = Field(
        min_length=1, description="A run, a checkpoint, or a file of representations."
    )
    executor: str = Field(
        min_length=1, description="A run, a checkpoint, or a file of representations."
    )
    split: Literal["val", "test"] = Field("test", description="Held-out episodes that are read.")
    levels: Levels = Field(
        ("instruction", "episode"), description="What pairs share that maps are fitted to."
    )
    maps: MapsSection = Field(MapsSection(), description="How the maps are fitted.")
    controls: Annotated[tuple[Control, ...], Strict(False)] = Field(
        tuple(CONTROLS), description="Controls of the text shortcut: a list, or all."
    )
    sites: SitesSection = Field(
        SitesSection(), description="Further places to take representations from."
    )
    checkpoints: Literal["last", "all"] = Field(
        "last", description="Of two runs: the last one of each, or every step that both have."
    )
    permutations: int = Field(200, ge=0, description="Shufflings of each null; 0: no nulls.")
    outcomes: str | None = Field(
        None,
        min_length=1,
        description="Run folder whose rollouts.json says what was solved; null: the executor's.",
    )
    experiment: str = Field("mirrorlib", min_length=1, description="MLflow's experiment.")
    output: str = Field("runs", min_length=1, description="Folder that holds the results' folder.")

    @field_validator("controls", mode="before")
    @classmethod
    def _all_of_them(cls, controls: Any) -> Any:
        return list(CONTROLS) if controls == "all" else controls

    def resolved(self) -> dict[str, Any]:
        """Everything, plain, defaults filled in."""
        return self.model_dump(mode="json")


def load_probe(path: Path, overrides: Sequence[str] = ()) -> ProbeSettings:
    """Read and check a probe's file; overrides: `a.b=c`. Raises RecipeError with every problem at
    once, each `file:line:column: path: what is wrong`."""
    document = read_yaml(path)
    for number, override in enumerate(overrides):
        document.override(number, override)
    document.value.setdefault("name", path.stem)
    return validated(document, ProbeSettings)
