"""The optimiser: each part's own learning rate, one schedule, each part clipped by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mirrorlib.sections import GroupSection, TrainSection
from mirrorlib.training.groups import group_of
from mirrorlib.training.joint import Joint
from mirrorlib.training.lamb import Lamb

FINAL_LEARNING_RATE = 0.03
"""Share of the learning rate at which the cosine ends."""


def build_optimizer(joint: Joint, recipe: TrainSection) -> torch.optim.Optimizer:
    """Each part, and each of `train.groups`, has its own learning rate and decay; vectors (biases,
    norms) are not decayed unless a group says so, and LAMB does not adapt to them."""
    groups: dict[tuple[str, GroupSection | None, bool], list[nn.Parameter]] = {}
    names = {parameter: name for name, parameter in joint.named_parameters()}
    for part, parameters in joint.parameter_groups().items():
        for matrices in (True, False):
            for parameter in parameters:
                if (parameter.ndim >= 2) == matrices:
                    apart = group_of(names[parameter], recipe.groups or ())
                    groups.setdefault((part, apart, matrices), []).append(parameter)
    built = [_group(recipe, *key, parameters) for key, parameters in groups.items()]
    chosen = recipe.optimizer
    if chosen is not None and chosen.name == "lamb":
        return Lamb(built, betas=chosen.betas, eps=chosen.epsilon)
    for group in built:
        del group["adapt"]
    if chosen is None:
        return torch.optim.AdamW(built, betas=(0.9, 0.98), fused=True)
    return torch.optim.AdamW(built, betas=chosen.betas, eps=chosen.epsilon, fused=True)


def _group(
    recipe: TrainSection,
    part: str,
    apart: GroupSection | None,
    matrices: bool,
    parameters: list[nn.Parameter],
) -> dict[str, Any]:
    rate: float = getattr(recipe.learning_rates, part)
    decay = recipe.weight_decay if matrices else 0.0
    if apart is not None and apart.learning_rate is not None:
        rate = apart.learning_rate
    if apart is not None and apart.weight_decay is not None:
        decay = apart.weight_decay
    return {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay,
            "adapt": matrices}  # fmt: skip


def learning_rate_scale(step: int, warmup: int, steps: int, final: float | None = None) -> float:
    """Linear warm-up, then a cosine to `final` at the last step, by default
    FINAL_LEARNING_RATE."""
    final = FINAL_LEARNING_RATE if final is None else final
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return warm * (final + (1 - final) * cosine)


def set_learning_rates(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Every group's learning rate becomes `scale` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = scale * group["peak"]


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clips one part's gradient by itself: what the alignment adds never rescales another part's
    update in one arm and not in another. Returns the norm before clipping; limit 0: none."""
    return nn.utils.clip_grad_norm_(parameters, limit or math.inf).detach()
