"""Observer, executor, projectors and objective as one module, so that DDP wraps them once.

L = w_u L_AU + w_e L_EE + w_a L_align                      (arXiv 2509.21136, w_u = 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from mirrorlib.data.batches import Batch
from mirrorlib.data.pairing import LEVELS, Pairing
from mirrorlib.interfaces import Executor, Objective, Observer, Projector
from mirrorlib.training.world import make_world


@dataclass(frozen=True)
class Weights:
    """w_u, w_e and w_a."""

    observer: float
    executor: float
    alignment: float


@dataclass(frozen=True)
class JointLoss:
    """value: () to back-propagate. logs: detached scalars, named `observer/loss` and the like.

    spaces: detached own rows of each space, float32 or as computed: `observer` (B, D_u) and
    `executor` (B, D_e); where there are projectors, `alignment/u` and `alignment/e`, (A, Z) of the
    A rows that align.
    """

    value: Tensor
    logs: dict[str, Tensor]
    spaces: dict[str, Tensor]


class Joint(nn.Module):
    """The two encoders and what aligns them. Only what the objective uses is built, so that every
    parameter has a gradient at every step; `Training` refuses an encoder that leaves one out."""

    def __init__(
        self,
        observer: Observer,
        executor: Executor,
        projectors: tuple[Projector, Projector] | None,
        objective: Objective,
        weights: Weights,
        pairing: Pairing,
    ) -> None:
        super().__init__()
        self.observer, self.executor, self.objective = observer, executor, objective
        self.projectors = nn.ModuleDict(
            dict(zip(("observer", "executor"), projectors, strict=True)) if projectors else {}
        )
        self.weights = weights
        self.level = LEVELS.index(pairing)
        self.still: tuple[nn.Module, ...] = ()

    def forward(self, batch: Batch) -> JointLoss:
        seen = self.observer(batch.clips)
        done = self.executor(batch.steps)
        value = self.weights.observer * seen.loss + self.weights.executor * done.loss
        logs = {f"observer/{name}": log for name, log in seen.logs.items()}
        logs |= {f"executor/{name}": log for name, log in done.logs.items()}
        logs |= {"observer/loss": seen.loss.detach(), "executor/loss": done.loss.detach()}
        spaces = {"observer": seen.representation, "executor": done.representation}
        if self.objective.uses_projectors:
            rows = batch.aligned
            labels = batch.labels[rows]
            if not self.objective.uses_levels:
                labels = labels[:, self.level]
            u, e = self.project(seen.representation[rows], done.representation[rows])
            loss = self.objective(u, e, labels, make_world(u, e, labels))
            value = value + self.weights.alignment * loss.value
            logs |= {f"alignment/{name}": log for name, log in loss.logs.items()}
            logs["alignment/loss"] = loss.value.detach()
            spaces |= {"alignment/u": u, "alignment/e": e}
        logs["loss"] = value.detach()
        return JointLoss(value, logs, {name: rows.detach() for name, rows in spaces.items()})

    def project(self, u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """u: (B, D_u), e: (B, D_e) to the shared space, (B, Z) each."""
        return self.projectors["observer"](u), self.projectors["executor"](e)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but what stands `still` stays in evaluation mode."""
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules, by what they belong to: observer, executor, alignment."""
        return {
            "observer": [self.observer],
            "executor": [self.executor],
            "alignment": [self.projectors, self.objective],
        }

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that learn, by what they belong to: observer, executor, alignment."""
        learning = {
            name: [p for module in modules for p in module.parameters() if p.requires_grad]
            for name, modules in self.parts().items()
        }
        return {name: parameters for name, parameters in learning.items() if parameters}
