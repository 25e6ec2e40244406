"""Checkpoints: a folder a step, written beside its name, flushed, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from mirrorlib.errors import UserError

NAME = re.compile(r"step-(\d+)")


def save_checkpoint(
    folder: Path, step: int, module: nn.Module, state: dict[str, Any], info: dict[str, Any]
) -> Path:
    """Writes `folder`/step-NNNNNN: weights (safetensors), `state` (tensors and plain values, as
    torch writes them) and `info` (JSON). Returns its path; nothing half is left behind."""
    final = folder / f"step-{step:06d}"
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_model(module, str(partial / "model.safetensors"))
        torch.save(state, partial / "state.pt")
        (partial / "info.json").write_text(json.dumps({"step": step} | info, indent=2))
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step, None where there is none."""
    found = [p for p in folder.glob("step-*") if NAME.fullmatch(p.name)]
    return max(found, key=lambda p: int(p.name.removeprefix("step-")), default=None)


def load_weights(checkpoint: Path, module: nn.Module) -> None:
    """Loads `model.safetensors` into `module`. Raises UserError where they do not fit."""
    try:
        load_model(module, checkpoint / "model.safetensors")
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{checkpoint}: weights do not load ({first})") from error
