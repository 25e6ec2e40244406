"""Options of the objectives and projectors, as recipes write them."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mirrorlib.errors import UserError

Positives = Literal["diagonal", "multi", "masked"]

SMALLEST_LEARNABLE_TEMPERATURE = 0.01
LARGEST_LEARNABLE_TEMPERATURE = 1.0


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum_rows: ClassVar[int] = 1
    """Rows a batch of all processes must align: mirrorlib reads it here to refuse smaller batches
    before a run starts."""


class TemperatureOptions(Options):
    temperature: float = Field(
        0.1,
        ge=1e-6,
        allow_inf_nan=False,
        description="Divides the cosine similarities; where it is learnt, its first value.",
    )
    learnable_temperature: bool = Field(
        False,
        description="Learn the temperature, kept between "
        f"{SMALLEST_LEARNABLE_TEMPERATURE} and {LARGEST_LEARNABLE_TEMPERATURE:g}.",
    )

    @model_validator(mode="after")
    def _within_range(self) -> Self:
        smallest, largest = SMALLEST_LEARNABLE_TEMPERATURE, LARGEST_LEARNABLE_TEMPERATURE
        if self.learnable_temperature and not smallest <= self.temperature <= largest:
            raise ValueError(
                f"a learnable temperature starts between {smallest} and {largest:g}, "
                f"not at {self.temperature:g}"
            )
        return self


class InfoNCEConfig(TemperatureOptions):
    positives: Positives = Field(
        "multi",
        description="What rows with equal labels are to each other: `multi`, all positives "
        "(SupCon L_out); `masked`, left out of each other's denominator; `diagonal`, negatives, "
        "the paper's formula to the letter. Not specified in public sources.",
    )


class LevelWeights(Options):
    """Weights of the levels, finest first; only their ratios count."""

    episode: float = Field(1.0, ge=0, allow_inf_nan=False)
    instruction: float = Field(1.0, ge=0, allow_inf_nan=False)
    task: float = Field(1.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not self.episode + self.instruction + self.task > 0:
            raise ValueError("at least one of episode, instruction and task needs a weight above 0")
        return self


class HierarchicalConfig(TemperatureOptions):
    required_pairing: ClassVar[str] = "episode"
    """mirrorlib refuses another: a row's three labels must hold for both of its sides."""

    weights: LevelWeights = Field(
        LevelWeights(), description="What sharing an episode, an instruction, a task counts."
    )


class SigLIPConfig(TemperatureOptions):
    learnable_temperature: bool = Field(
        True, description="Learn the temperature, as the paper does."
    )
    bias: float = Field(
        -10.0, allow_inf_nan=False, description="Added to every logit; learnt from this value."
    )
    positives: Positives = Field(
        "multi",
        description="What rows with equal labels are to each other: `multi`, positives; `masked`, "
        "left out; `diagonal`, negatives, the paper's formula to the letter.",
    )


class DCLConfig(TemperatureOptions):
    minimum_rows: ClassVar[int] = 2

    positives: Literal["diagonal", "masked"] = Field(
        "masked",
        description="What rows with equal labels are to each other: `masked`, left out; "
        "`diagonal`, negatives, the paper's formula to the letter.",
    )


class DebiasedConfig(TemperatureOptions):
    minimum_rows: ClassVar[int] = 2

    class_prior: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="tau+, the chance that a row drawn as a negative is a positive: about one "
        "over the number of instructions.",
    )


class DistillConfig(Options):
    minimum_rows: ClassVar[int] = 3

    teacher: Literal["observer", "executor"] = Field(
        "observer", description="Whose similarities are copied; it learns nothing from the term."
    )
    temperature: float = Field(
        0.1, ge=1e-6, allow_inf_nan=False, description="Divides the learner's cosine similarities."
    )
    teacher_temperature: float = Field(
        0.1, ge=1e-6, allow_inf_nan=False, description="Divides the teacher's cosine similarities."
    )


class CKAConfig(Options):
    minimum_rows: ClassVar[int] = 32

    kernel: Literal["linear", "rbf"] = Field(
        "linear", description="Similarity of two rows of one side: inner product or Gaussian."
    )
    debiased: bool = Field(
        True, description="Take off the bias that small batches give (HSIC_1 of Song et al. 2012)."
    )
    bandwidth: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Of the Gaussian kernel, in median distances between rows.",
    )


class MSEConfig(Options):
    pass


class CosineConfig(Options):
    pass


class VICRegConfig(Options):
    minimum_rows: ClassVar[int] = 2

    invariance: float = Field(
        25.0, ge=0, allow_inf_nan=False, description="Weight of the mean squared error of pairs."
    )
    variance: float = Field(
        25.0, ge=0, allow_inf_nan=False, description="Weight of the hinge on each deviation."
    )
    covariance: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Weight of the squared covariances."
    )


class BarlowConfig(Options):
    minimum_rows: ClassVar[int] = 2

    redundancy: float = Field(
        5e-3,
        ge=0,
        allow_inf_nan=False,
        description="lambda, the weight of what is off the diagonal of the cross-correlation.",
    )


class NoneConfig(Options):
    pass


class IdentityConfig(BaseModel):
    """What every projector is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_dim: int | None = Field(
        None,
        gt=0,
        description="Dimension D of the representation; left out, it is the encoder's own.",
    )

    def require_input_dim(self, projector: str) -> int:
        """`input_dim`. Raises UserError, naming the projector, where nobody gave it."""
        if self.input_dim is None:
            raise UserError(
                f"projector {projector}: input_dim is missing; give the representation's dimension"
            )
        return self.input_dim


class ProjectorConfig(IdentityConfig):
    dim: int = Field(1024, gt=0, description="Dimension Z of the shared space (the paper's 1024).")


class LinearConfig(ProjectorConfig):
    bias: bool = Field(True, description="Add a learnable bias. Not specified in public sources.")


class MLPConfig(ProjectorConfig):
    hidden_dim: int = Field(
        2048, gt=0, description="Width between the layers (2048 in REPA's own code)."
    )
    layers: int = Field(3, ge=2, description="Linear layers, SiLU between them (3 in REPA).")
