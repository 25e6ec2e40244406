"""The observer from its options."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError

from mirrorlib.errors import UserError
from mirrorlib.pretrained import read_weights
from mirrorlib_viclip.checkpoint import inferred, located
from mirrorlib_viclip.config import ObserverConfig, ViCLIPConfig
from mirrorlib_viclip.model import ViCLIP
from mirrorlib_viclip.observer import ViCLIPObserver


def build_viclip(config: ObserverConfig) -> ViCLIPObserver:
    """Raises UserError where weights cannot be had or do not fit, or sizes not go together."""
    model = _model(config)
    if config.temperature is not None:
        with torch.no_grad():
            model.temp.fill_(config.temperature)
    model.checkpoint_gradients(config.gradient_checkpointing)
    return ViCLIPObserver(
        model.train(),
        representation=config.representation,
        tuning=config.tuning,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        masking_prob=config.masking_prob,
    )


def _model(config: ObserverConfig) -> ViCLIP:
    changes: dict[str, Any] = config.sizes() | {
        "drop_path": config.drop_path,
        "temp_min": config.temp_min,
    }
    if config.weights is None or config.preset is not None:
        sizes = _preset(config, changes)
    if config.weights is None:
        return ViCLIP(sizes)
    path = located(config.weights)
    state = read_weights(path)
    if config.preset is None:
        sizes = inferred(state, str(path), **changes)
    return ViCLIP.from_state_dict(state, sizes, str(path))


def _preset(config: ObserverConfig, changes: dict[str, Any]) -> ViCLIPConfig:
    try:
        return ViCLIPConfig.preset(config.preset or "b16", **changes)
    except ValidationError as error:
        found = "; ".join(str(each["msg"]) for each in error.errors())
        raise UserError(f"observer 'viclip': {found}") from None
