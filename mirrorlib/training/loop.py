"""The joint training loop, on Accelerate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from mirrorlib.data.batches import PlannedBatches, load
from mirrorlib.errors import UserError
from mirrorlib.recipe import TrainSection
from mirrorlib.training.checkpoint import save_checkpoint
from mirrorlib.training.joint import Joint, unwrap
from mirrorlib.training.memory import keep_freed_memory

Log = Callable[[dict[str, float], int], None]
FINAL_LEARNING_RATE = 0.03
"""Share of the learning rate at which the cosine ends."""


def build_optimizer(joint: Joint, recipe: TrainSection) -> torch.optim.Optimizer:
    """AdamW with each part's own learning rate; vectors (biases, norms) are not decayed."""
    groups: list[dict[str, Any]] = []
    for part, parameters in joint.parameter_groups().items():
        rate = getattr(recipe.learning_rates, part)
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim >= 2) == decayed]
            decay = recipe.weight_decay if decayed else 0.0
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98), fused=True)


def learning_rate_scale(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up, then a cosine to FINAL_LEARNING_RATE at the last step."""
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return warm * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine)


def train(
    accelerator: Accelerator,
    joint: Joint,
    batches: PlannedBatches,
    recipe: TrainSection,
    checkpoints: Path,
    log: Log,
) -> None:
    """Runs every planned batch once, saving checkpoints on the way, at the end, and on Ctrl-C."""
    optimizer = build_optimizer(joint, recipe)
    model, optimizer = accelerator.prepare(joint, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_scale(step, recipe.warmup_steps, recipe.steps)
    )
    model.train()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    done = 0

    def save() -> None:
        if accelerator.is_main_process:
            state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            save_checkpoint(checkpoints, done, unwrap(model), state, {"of": recipe.steps})

    workers = 0 if accelerator.device.type == "cpu" else 2
    bar = tqdm(
        load(batches, 0, workers),
        total=recipe.steps,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    meter = _Meter(accelerator)
    try:
        with bar:
            for batch in bar:
                logs = _step(accelerator, model, optimizer, batch.to(accelerator.device), recipe)
                schedule.step()
                done += 1
                meter.add(logs, pairs=len(batch) * batches.size)
                if done % recipe.log_every == 0 or done == recipe.steps:
                    _report(meter.flush(), done, schedule, bar, log)
                if done % recipe.checkpoint_every == 0 and done < recipe.steps:
                    save()
    except KeyboardInterrupt:
        save()
        raise
    save()


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    recipe: TrainSection,
) -> dict[str, Tensor]:
    """One optimiser step. Returns detached scalars."""
    loss = model(batch)
    accelerator.backward(loss.value)
    accelerator.unscale_gradients(optimizer)
    logs: dict[str, Tensor] = dict(loss.logs)
    for part, parameters in unwrap(model).parameter_groups().items():
        logs[f"{part}/gradient_norm"] = _clip(parameters, recipe.gradient_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    unwrap(model).objective.after_step()
    return logs


def _clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clips one part's gradient by itself: what the alignment adds never rescales another part's
    update in one arm and not in another. Returns the norm before clipping."""
    return nn.utils.clip_grad_norm_(parameters, limit or math.inf).detach()


def _report(logs: dict[str, float], step: int, schedule: Any, bar: Any, log: Log) -> None:
    if not math.isfinite(logs["loss"]):
        terms = [name for name, value in logs.items() if not math.isfinite(value)]
        raise UserError(
            f"training diverged before step {step}: {', '.join(terms)} not finite; lower "
            "train.learning_rates or set train.precision=no"
        )
    logs["learning_rate_scale"] = schedule.get_last_lr()[0] / schedule.base_lrs[0]
    log({f"train/{name}": value for name, value in logs.items()}, step)
    shown = {part: f"{logs[f'{part}/loss']:.3f}" for part in _PARTS if f"{part}/loss" in logs}
    bar.set_postfix(shown | {"pairs/s": f"{logs['pairs_per_second']:.1f}"})


_PARTS = ("observer", "executor", "alignment")


class _Meter:
    """Means of logs since the last flush, over processes too, and pairs a second."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps, self.pairs, self.start = 0, 0, time.perf_counter()

    def add(self, logs: dict[str, Tensor], pairs: int) -> None:
        for name, value in logs.items():
            value = value.float().to(self.accelerator.device)
            self.sums[name] = self.sums.get(name, 0) + value
        self.steps += 1
        self.pairs += pairs

    def flush(self) -> dict[str, float]:
        names = sorted(self.sums)
        values = torch.stack([self.sums[name] for name in names]) / self.steps
        values = self.accelerator.reduce(values, reduction="mean")
        means = dict(zip(names, values.tolist(), strict=True))
        means["pairs_per_second"] = self.pairs / (time.perf_counter() - self.start)
        self._reset()
        return means
