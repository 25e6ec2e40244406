"""The sections of a recipe, each a pydantic model whose fields say what they mean."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SerializeAsAny,
    Strict,
    field_validator,
    model_serializer,
)

from mirrorlib.probing.names import Control
from mirrorlib.registry import Offer

Names: TypeAlias = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ComponentSection(Section):
    """A section `{name: ..., options}`: the component that it names and its validated options."""

    name: str
    offer: InstanceOf[Offer]
    config: SerializeAsAny[InstanceOf[BaseModel]]

    @property
    def options(self) -> dict[str, Any]:
        """The options, plain, defaults filled in."""
        return self.config.model_dump(mode="json")

    @property
    def minimum_rows(self) -> int:
        """The fewest pairs in a batch that the component can learn from."""
        return int(getattr(self.config, "minimum_rows", 1))

    @property
    def required_pairing(self) -> str | None:
        """The pairing that the component cannot do without, as its configuration declares it."""
        return getattr(self.config, "required_pairing", None)

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


class DataSection(Section):
    """How demonstrations are kept and read."""

    cache: str | None = Field(
        None,
        min_length=1,
        description="Folder of recorded demonstrations; null: $MIRRORLIB_CACHE, else "
        "~/.cache/mirrorlib.",
    )
    workers: Count | None = Field(
        None, description="Processes that record; null: as many as there are CPU cores."
    )
    broken: Literal["skip"] | None = Field(
        None,
        description="What is done about damaged recordings and episodes that the source cannot "
        "read. skip: leave them out. null: refuse them.",
    )
    clip_frames: Count = Field(8, description="Frames of the clip that the observer sees.")
    clip_cameras: Names = Field(
        ("front",), description="Cameras that clips are drawn from, one a clip."
    )
    step_cameras: Names | None = Field(
        None, description="Cameras that the executor sees; null: all the source has."
    )


class BatchSection(Section):
    """A batch: `instructions` times `episodes` pairs."""

    instructions: Count = Field(16, description="Distinct instructions of a batch, all processes.")
    episodes: int = Field(2, ge=2, description="Episodes of each instruction in a batch.")
    sampling: Literal["instruction", "task"] | None = Field(
        None,
        description="What is drawn equally often: instructions, or tasks, as ARP does, and then "
        "one of the task's instructions; null: instructions.",
    )


class WeightsSection(Section):
    """L = observer * L_AU + executor * L_EE + alignment * L_align."""

    observer: Weight = Field(1.0, description="Weight of the observer's loss; the paper's is 1.")
    executor: Weight = Field(1.0, description="Weight w_e of the executor's loss.")
    alignment: Weight = Field(0.5, description="Weight w_a of the alignment loss.")


class LearningRatesSection(Section):
    """Peak learning rates."""

    observer: Rate = Field(1e-3, description="Peak learning rate of the observer.")
    executor: Rate = Field(6e-4, description="Peak learning rate of the executor.")
    alignment: Rate = Field(1e-4, description="Peak learning rate of projectors and objective.")


class OptimizerSection(Section):
    """What turns gradients into steps."""

    name: Literal["adamw", "lamb"] = Field("adamw", description="The algorithm.")
    betas: Annotated[tuple[Share, Share], Strict(False)] = Field(
        (0.9, 0.999), description="Decay of the means of gradients and of their squares."
    )
    epsilon: Rate = Field(1e-6, description="Added to the root of the mean square.")


class GroupSection(Section):
    """Parameters that are treated apart."""

    match: str = Field(
        min_length=1, description="Their names, such as `observer.text.*`; * stands for anything."
    )
    frozen: bool = Field(False, description="They keep their values.")
    learning_rate: Rate | None = Field(
        None, description="Their peak learning rate; null: that of their part."
    )
    weight_decay: Weight | None = Field(None, description="Their decay; null: as all.")


class AverageSection(Section):
    """An exponential moving average of all that learns."""

    decay: Share = Field(
        description="What each step keeps of the average, once it is warm: at step n at most "
        "(1 + n) / (10 + n)."
    )


class TrainSection(Section):
    """How long and how to optimise."""

    steps: Count = Field(description="Optimiser steps.")
    weights: WeightsSection = Field(WeightsSection(), description="Weights of the losses.")
    learning_rates: LearningRatesSection = Field(
        LearningRatesSection(), description="Peak learning rates."
    )
    optimizer: OptimizerSection | None = Field(
        None, description="null: AdamW with betas 0.9 and 0.98, epsilon 1e-8."
    )
    groups: Annotated[tuple[GroupSection, ...], Strict(False)] | None = Field(
        None,
        description="Parameters treated apart, by name; of several that match, the last decides.",
    )
    weight_decay: Weight = Field(0.01, description="Decay of weight matrices.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    final_learning_rate: Share | None = Field(
        None, description="Share of the peak at which the cosine ends; null: 0.03."
    )
    ema: AverageSection | None = Field(
        None,
        description="Average the weights over training; the average is what is evaluated and "
        "exported. null: no average.",
    )
    gradient_clip: Weight = Field(
        1.0, description="Largest gradient norm of each part; 0: no clipping."
    )
    accumulation: Count = Field(
        1,
        description="Batches whose gradients are averaged for one step; each is aligned by itself.",
    )
    precision: Literal["no", "bf16", "fp16"] | None = Field(
        None, description="Mixed precision; null: what the launcher says."
    )
    compile: Literal[True] | None = Field(
        None,
        description="true: the encoders' forward and backward passes go through torch.compile; "
        "null: they do not.",
    )
    max_steps: Count | None = Field(
        None, description="Stop after so many steps of the schedule; null: after all."
    )
    log_every: Count = Field(10, description="Steps between logged metrics.")
    checkpoint_every: Count = Field(200, description="Steps between checkpoints.")
    keep_checkpoints: Count = Field(2, description="How many checkpoints are kept, the last ones.")
    resume: bool = Field(
        False,
        exclude=True,
        description="Continue the last run of this recipe from its last checkpoint.",
    )


class EvaluationSection(Section):
    """What is measured after training."""

    simulator: InstanceOf[ComponentSection] | None = Field(
        None, description="Where the policy is rolled out; null: no rollouts."
    )
    split: Literal["val", "test"] = Field("test", description="Scenes that are evaluated on.")
    scenes: Literal["seeds", "demonstrations"] | None = Field(
        None,
        description="Which scenes: the split's first, laid out by their seeds, or those of its "
        "first recorded demonstrations, restored, as RLBench's test sets are; null: seeds.",
    )
    rollouts: Count = Field(10, description="Scenes rolled out for each instruction.")
    max_actions: Count = Field(25, description="Keyframe actions after which a rollout fails.")
    workers: Count | None = Field(
        None, description="Processes that simulate; null: two a CPU core."
    )
    timeout: Rate | None = Field(
        None,
        description="Seconds that a simulator may take to lay out a scene or to execute an action "
        "before its process is replaced and the scene begun anew, once; null: 300. (Starting a "
        "process, opening its simulator and reading a demonstration may take 600 each.)",
    )
    templates: Names = Field(
        ("{}",), description="Texts around an instruction whose cosines are averaged."
    )
    probe_steps: Count = Field(
        600, description="Steps of the fresh linear probes that compare representations."
    )
    controls: Annotated[tuple[Control, ...], Strict(False)] = Field(
        (), description="Controls of the text shortcut that fresh probes are fitted under, too."
    )
    video_camera: str | None = Field(
        "front", description="Camera of one rollout video of each task; null: no videos."
    )

    @field_validator("templates")
    @classmethod
    def _holds_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or re.search(r"[{}]", template.replace("{}", "")):
                raise ValueError(f"{template!r} must hold {{}} once, where the instruction goes")
        return templates


class TrackingSection(Section):
    """Where MLflow files the run."""

    experiment: str = Field("mirrorlib", min_length=1, description="MLflow's experiment.")
    tags: dict[str, str] = Field({}, description="More tags for the MLflow run.")
    suite: str | None = Field(None, description="The suite of runs that this one belongs to.")
    arm: str | None = Field(
        None, description="What is compared under this name; null: the objective's name."
    )
    records: str | None = Field(
        None,
        min_length=1,
        description="Folder where a finished run leaves a small JSON record; null: none.",
    )
