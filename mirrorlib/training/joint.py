"""Observer, executor, projectors and objective as one module, so that DDP wraps them once.

L = L_AU + w_e L_EE + w_a L_align                                     (PAPER.md, "Method")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mirrorlib.data.batches import Batch
from mirrorlib.data.pairing import LEVELS, Pairing
from mirrorlib.interfaces import Executor, Objective, Observer, Projector
from mirrorlib.training.world import make_world


@dataclass(frozen=True)
class Weights:
    """w_e and w_a; the observer's loss has weight 1."""

    executor: float
    alignment: float


@dataclass(frozen=True)
class JointLoss:
    """value: () to back-propagate. logs: detached scalars, named `observer/loss` and the like."""

    value: Tensor
    logs: dict[str, Tensor]


class Joint(nn.Module):
    """The two encoders and what aligns them. No parameter is ever without a gradient."""

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

    def forward(self, batch: Batch) -> JointLoss:
        seen = self.observer(batch.clips)
        done = self.executor(batch.steps)
        value = seen.loss + self.weights.executor * done.loss
        logs = {f"observer/{name}": log for name, log in seen.logs.items()}
        logs |= {f"executor/{name}": log for name, log in done.logs.items()}
        logs |= {"observer/loss": seen.loss.detach(), "executor/loss": done.loss.detach()}
        if self.objective.uses_projectors:
            rows = batch.aligned
            labels = batch.labels[rows, self.level]
            u, e = self.project(seen.representation[rows], done.representation[rows])
            loss = self.objective(u, e, labels, make_world(u, e, labels))
            value = value + self.weights.alignment * loss.value
            logs |= {f"alignment/{name}": log for name, log in loss.logs.items()}
            logs["alignment/loss"] = loss.value.detach()
        logs["loss"] = value.detach()
        return JointLoss(value, logs)

    def project(self, u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """u: (B, D_u), e: (B, D_e) to the shared space, (B, Z) each."""
        return self.projectors["observer"](u), self.projectors["executor"](e)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by what they belong to: observer, executor, alignment."""
        groups = {
            "observer": list(self.observer.parameters()),
            "executor": list(self.executor.parameters()),
            "alignment": [*self.projectors.parameters(), *self.objective.parameters()],
        }
        return {name: parameters for name, parameters in groups.items() if parameters}


def unwrap(module: nn.Module) -> Joint:
    """The joint module inside what Accelerate prepared."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module
    return cast(Joint, module)


def representations(joint: Joint, batch: Batch) -> tuple[Tensor, Tensor]:
    """u (B, D_u) and e (B, D_e), float32, without gradient or augmentation."""
    training = joint.training
    joint.eval()
    with torch.no_grad():
        u = joint.observer(batch.clips).representation.float()
        e = joint.executor(batch.steps).representation.float()
    joint.train(training)
    return u, e
