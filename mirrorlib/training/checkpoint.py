"""Checkpoints: a folder a step, written beside its name, flushed, then renamed.

`step-000200/` holds `model.safetensors`, `recipe.yaml` (resolved), `state.pt` (what a resumed run
needs beyond the weights) and `checkpoint.json`: the step, the code that trained it, and each
file's SHA-256.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from mirrorlib.errors import UserError
from mirrorlib.files import sha256
from mirrorlib.provenance import Code

NAME = re.compile(r"step-(\d+)")
CHECKPOINTS = "checkpoints"
"""The folder of a run that holds them."""
WEIGHTS, STATE, RECIPE, INDEX = "model.safetensors", "state.pt", "recipe.yaml", "checkpoint.json"


def save_checkpoint(
    folder: Path,
    step: int,
    module: nn.Module,
    state: Mapping[str, Any],
    recipe: str,
    keep: int,
    code: Code | None = None,
) -> Path:
    """Writes `folder`/step-NNNNNN and returns its path; nothing half is ever found there.

    state: tensors and plain values. recipe: YAML. keep: older checkpoints beyond so many, this
    one included, are removed. code: what trains. Raises UserError where it cannot be written;
    what was there stays.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_model(module, str(partial / WEIGHTS))
        torch.save(dict(state), partial / STATE)
        (partial / RECIPE).write_text(recipe)
        digests = {file.name: sha256(file) for file in sorted(partial.iterdir())}
        index = {"step": step, "code": asdict(code or Code()), "sha256": digests}
        (partial / INDEX).write_text(json.dumps(index, indent=2))
        for path in (*partial.iterdir(), partial):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors: their own
        raise UserError(
            f"{final}: cannot be written ({' '.join(str(error).split())[:200]}); make room, then "
            "go on with train.resume=true"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in [path for path in checkpoints(folder) if step_of(path) < step][keep - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not, the highest step first."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimiser steps after which it was written, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def recorded_step(checkpoint: Path) -> int:
    """The optimiser steps after which it was written, whatever its folder is called now."""
    return int(json.loads((checkpoint / INDEX).read_text())["step"])


def recorded_code(checkpoint: Path) -> Code:
    """What trained it."""
    return Code(**json.loads((checkpoint / INDEX).read_text())["code"])


def damage(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being used, None where it is as it was written."""
    try:
        digests = json.loads((checkpoint / INDEX).read_text())["sha256"]
        for name in (WEIGHTS, STATE, RECIPE):
            if sha256(checkpoint / name) != digests[name]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{INDEX} is not what was written"
    return None


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The whole checkpoint of the highest step, and one line on each damaged one above it."""
    skipped: list[str] = []
    for checkpoint in checkpoints(folder):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint, skipped
        skipped.append(f"{checkpoint} is damaged ({problem})")
    return None, skipped


def find_checkpoint(path: Path) -> Path:
    """The checkpoint in a folder: its own, or the last whole one of a run. Raises UserError."""
    if (path / INDEX).exists():
        problem = damage(path)
        if problem is None:
            return path
        raise UserError(f"{path} is damaged ({problem}); take an earlier checkpoint")
    found, skipped = newest_whole(path / CHECKPOINTS)
    for problem in skipped if found else ():
        print(f"mirrorlib: {problem}: skipped", file=sys.stderr)
    if found is None:
        raise UserError(
            skipped[0] if skipped else f"{path}: no checkpoint, and no run that has one"
        )
    return found


def load_weights(checkpoint: Path, module: nn.Module) -> None:
    """Loads `model.safetensors` into `module`. Raises UserError where they do not fit."""
    try:
        load_model(module, checkpoint / WEIGHTS)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"{checkpoint}: weights do not load ({' '.join(lines[:2])}); was it another recipe's?"
        ) from error


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as `state`, on the CPU. Raises UserError."""
    try:
        state: dict[str, Any] = torch.load(
            checkpoint / STATE, map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch, zipfile and pickle each raise their own
        raise UserError(f"{checkpoint}: {STATE} does not load ({error})") from error
    return state


def _flush(path: Path) -> None:
    """To the disk itself: a file, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
