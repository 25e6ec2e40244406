"""LAMB: layer-wise adaptive moments for large batches (You et al. 2020, arXiv 1904.00962)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """Algorithm 2 of the paper, with Adam's bias correction and decoupled weight decay.

    The update of each tensor, m / (sqrt(v) + eps) + decay * w, is scaled by |w| / |update|, by 1
    where either is zero. params: tensors or groups, as any torch optimiser takes them; a group may
    have lr, betas, eps, weight_decay and adapt of its own. adapt: False leaves the scale at 1, as
    the paper's own code does for biases and norms. A tensor that is all zero at its first step,
    such as a gate or LoRA's second factor, is not scaled either: its size would grow by no more
    than a share `lr` a step, and it would hardly leave zero. Parameters without a gradient stand
    still.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"adapt": adapt})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. closure: computes the loss anew; it is then returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if moving:
                self._move(moving, group)
        return loss

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state(weight) for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        (first, second), steps = group["betas"], [state["step"] for state in states]
        means, squares = ([state[name] for state in states] for name in ("mean", "square"))
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
        roots = torch._foreach_div(squares, [1 - second**step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        updates: Any = torch._foreach_div(means, [1 - first**step for step in steps])
        torch._foreach_div_(updates, roots)
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            grown = [state["from_zero"] for state in states]
            torch._foreach_mul_(updates, _trust(weights, updates, grown))
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _state(self, weight: Tensor) -> dict[str, Any]:
        state = self.state[weight]
        if not state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
            state["from_zero"] = not bool(weight.any())
        state["step"] += 1
        return state


def _trust(weights: Sequence[Tensor], updates: Sequence[Tensor], from_zero: list[bool]) -> Any:
    """|w| / |update| of each, 1 where either is zero or the weight was at first."""
    sizes, lengths = (torch.stack(torch._foreach_norm(list(x))) for x in (weights, updates))
    scaled = (sizes > 0) & (lengths > 0) & ~torch.tensor(from_zero, device=sizes.device)
    ratios = torch.where(scaled, sizes / lengths, 1.0)
    return list(ratios.unbind())
