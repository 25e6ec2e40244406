"""The joint training loop, on Accelerate.

Every step is a function of the parameters, the optimiser's state, the seed and its own number:
batches are planned from the seed, and random numbers drawn by an encoder come from a generator
seeded anew for each step. So a run that continues from a checkpoint is the run it continues.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn
from tqdm import tqdm

from mirrorlib.data.batches import Batch, PlannedBatches, load
from mirrorlib.errors import NotFinite, UserError
from mirrorlib.provenance import code_in_use
from mirrorlib.randomness import derive_seed
from mirrorlib.recipe import Recipe, dump_recipe
from mirrorlib.training.average import Average
from mirrorlib.training.checkpoint import load_state, load_weights, recorded_step, save_checkpoint
from mirrorlib.training.compiling import compiled
from mirrorlib.training.interruption import stopping_between_steps
from mirrorlib.training.joint import Joint, JointLoss
from mirrorlib.training.memory import keep_freed_memory
from mirrorlib.training.meter import Meter, spread
from mirrorlib.training.optimizer import (
    build_optimizer,
    clip,
    learning_rate_scale,
    set_learning_rates,
)
from mirrorlib.training.size import costs, counting_flops

Log = Callable[[dict[str, float], int], None]
PARTS = ("observer", "executor", "alignment")


@dataclass(frozen=True)
class Trained:
    """steps: that the joint module has seen. flops: floating-point operations of a step, all
    processes together (`counting_flops`); None where no step was left, or none could be counted."""

    steps: int
    flops: int | None


@dataclass(frozen=True)
class Training:
    """What learns, from what, and where its checkpoints go. log: takes metrics and the step.

    batches: `train.accumulation` of them a step.
    """

    accelerator: Accelerator
    joint: Joint
    recipe: Recipe
    batches: PlannedBatches
    checkpoints: Path
    log: Log

    def run(self, resumed: Path | None = None) -> Trained:
        """Trains, from the checkpoint `resumed` on where there is one; saves on the way, at the
        end, and when interrupted. With `train.ema`, the module ends up as the average.

        Raises UserError where training diverges or an encoder leaves a parameter unused, and
        KeyboardInterrupt, once saved, where a signal asked to stop: after the step in one
        process; in several, which must agree, at the next row of the log.
        """
        accelerator, settings = self.accelerator, self.recipe.train
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        model, optimizer = accelerator.prepare(self.joint, build_optimizer(self.joint, settings))
        model.train()
        meter, average = Meter(accelerator), self._average()
        start = self._restore(resumed, optimizer, meter, average) if resumed else 0
        last = min(settings.steps, settings.max_steps or settings.steps)
        if start > last:
            raise UserError(
                f"train.max_steps is {last}, but the run that is resumed has {start} steps already"
            )
        batches = load(self.batches, start * settings.accumulation, self._workers())
        flops: int | None = None
        with self._compiled(), self._bar(start, last) as bar, stopping_between_steps() as stop:
            for done in range(start + 1, last + 1):
                first = done == start + 1
                with self._counting(done) if first else nullcontext() as counted:
                    spaces = self._step(done - 1, model, optimizer, batches, meter)
                if first:
                    flops = counted[0] * accelerator.num_processes if counted else None
                    self.log(costs(self.joint, flops), done)
                if average is not None:
                    average.update(done)
                bar.update()
                due = done % settings.checkpoint_every == 0 or done == last
                stopping = stop.asked and accelerator.num_processes == 1
                if due or done % settings.log_every == 0:
                    row, stopping = meter.flush(stop.asked)
                    self._report(row, spaces, done, bar)
                if due or stopping:
                    self._save(done, optimizer, meter, average)
                if stopping:
                    accelerator.wait_for_everyone()
                    raise KeyboardInterrupt
                if first:
                    self._refuse_unused()
                optimizer.zero_grad(set_to_none=True)
            stop.asked = any(gather_object([stop.asked]))
        if average is not None:
            average.swap()
        return Trained(last, flops)

    def _compiled(self) -> AbstractContextManager[None]:
        if not self.recipe.train.compile:
            return nullcontext()
        return compiled(self.joint, self.accelerator.device)

    def _counting(self, step: int) -> AbstractContextManager[list[int] | None]:
        """Nothing that is counted is compiled, and compiling changes the rounding: of a compiled
        run, none but the very first step may be counted."""
        if self.recipe.train.compile and step > 1:
            return nullcontext()
        return counting_flops()

    def _bar(self, start: int, last: int) -> Any:
        hidden = not self.accelerator.is_main_process
        return tqdm(total=last, initial=start, desc="training", unit="step", disable=hidden)

    def _step(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterator[Batch],
        meter: Meter,
    ) -> dict[str, Tensor]:
        """One optimiser step. Returns the spaces of its last batch."""
        accelerator, settings = self.accelerator, self.recipe.train
        set_seed(self._seed(step))
        set_learning_rates(optimizer, self._learning_rate_scale(step))
        for number in range(1, settings.accumulation + 1):
            batch = next(batches).to(accelerator.device)
            complete = number == settings.accumulation
            with nullcontext() if complete else accelerator.no_sync(model):
                loss = self._forward(model, batch, step)
                accelerator.backward(loss.value / settings.accumulation)
            meter.add(loss.logs, pairs=len(batch) * accelerator.num_processes)
        accelerator.unscale_gradients(optimizer)
        norms = {
            f"{part}/gradient_norm": clip(parameters, settings.gradient_clip)
            for part, parameters in self.joint.parameter_groups().items()
        }
        meter.add(norms)
        optimizer.step()
        self.joint.objective.after_step()
        spaces: dict[str, Tensor] = loss.spaces
        return spaces

    def _forward(self, model: nn.Module, batch: Batch, step: int) -> JointLoss:
        try:
            loss: JointLoss = model(batch)
        except NotFinite as error:
            raise divergence(f"at step {step + 1}: {error}") from error
        return loss

    def _learning_rate_scale(self, step: int) -> float:
        train = self.recipe.train
        return learning_rate_scale(step, train.warmup_steps, train.steps, train.final_learning_rate)

    def _seed(self, step: int) -> int:
        """Of the generators of torch, numpy and Python; numpy takes 32 bits."""
        process = self.accelerator.process_index
        return derive_seed("step", self.recipe.seed, step, process) % 2**32

    def _workers(self) -> int:
        """Processes that read ahead; on a CPU they would take what training needs."""
        return 0 if self.accelerator.device.type == "cpu" else 2

    def _refuse_unused(self) -> None:
        unused = [
            name for name, p in self.joint.named_parameters() if p.requires_grad and p.grad is None
        ]
        if unused:
            raise UserError(
                f"{len(unused)} parameters have no part in the loss, such as {unused[0]}: an "
                "encoder must build only what it uses, or set requires_grad to False"
            )

    def _report(
        self, row: dict[str, float], spaces: Mapping[str, Tensor], step: int, bar: Any
    ) -> None:
        diverged = [name for name, value in row.items() if not math.isfinite(value)]
        if "loss" in diverged or (diverged and self.accelerator.scaler is None):
            raise divergence(f"before step {step}: {', '.join(diverged)} not finite")
        # A gradient norm that is not finite is a step that fp16's scaler skips: no number.
        row = {name: value for name, value in row.items() if name not in diverged}
        row |= spread(spaces)
        row["learning_rate_scale"] = self._learning_rate_scale(step - 1)
        self.log({f"train/{name}": value for name, value in row.items()}, step)
        shown = {part: f"{row[f'{part}/loss']:.3f}" for part in PARTS if f"{part}/loss" in row}
        bar.set_postfix(shown | {"pairs/s": f"{row['pairs_per_second']:.1f}"})

    def _average(self) -> Average | None:
        settings = self.recipe.train.ema
        if settings is None:
            return None
        return Average((p for p in self.joint.parameters() if p.requires_grad), settings.decay)

    def _save(
        self, step: int, optimizer: torch.optim.Optimizer, meter: Meter, average: Average | None
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "meter": meter.state(),
        }
        keep, code = self.recipe.train.keep_checkpoints, code_in_use(self.recipe)
        with average.applied() if average else nullcontext():
            state["parameters"] = average.values if average else None
            save_checkpoint(
                self.checkpoints, step, self.joint, state, dump_recipe(self.recipe), keep, code
            )

    def _restore(
        self,
        checkpoint: Path,
        optimizer: torch.optim.Optimizer,
        meter: Meter,
        average: Average | None,
    ) -> int:
        """Takes up a checkpoint's weights and state, and returns its step."""
        if not all(gather_object([checkpoint.is_dir()])):
            raise UserError(
                f"{checkpoint}: not all processes see it; set output to a folder that all "
                "machines share"
            )
        load_weights(checkpoint, self.joint)
        state, precision = load_state(checkpoint), self.accelerator.mixed_precision
        if state["precision"] != precision:
            raise UserError(
                f"{checkpoint} was trained in precision {state['precision']}, not {precision}: "
                f"set train.precision={state['precision']}"
            )
        processes = self.accelerator.num_processes
        if state["processes"] != processes and self.accelerator.is_main_process:
            print(
                f"mirrorlib: warning: {checkpoint} was trained by {state['processes']} processes, "
                f"now there are {processes}: rounding and an encoder's random numbers differ",
                file=sys.stderr,
            )
        optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        meter.load_state(state["meter"])
        if average is not None:
            average.load_state(state["parameters"])
        return recorded_step(checkpoint)


def divergence(where: str) -> UserError:
    return UserError(
        f"training diverged {where}; lower train.learning_rates or set train.precision=no"
    )
