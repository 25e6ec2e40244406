"""Low-rank updates put into a tower, and merged into its weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mirrorlib_viclip.layers import Attention, Linear
from mirrorlib_viclip.lora import LoRA


def add_lora(module: nn.Module, rank: int = 8, alpha: float = 16.0) -> None:
    """Freeze all of `module` and give each linear map of its transformers an update, scaled by
    alpha / rank, which learns."""
    module.requires_grad_(False)
    for owner, weight, slot in list(_maps(module)):
        outputs, inputs = weight.shape
        setattr(owner, slot, LoRA(inputs, outputs, rank, alpha / rank, weight))


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """Add each update to its weight and remove it: the same function with the same parameters
    as before `add_lora`, still frozen."""
    for owner, weight, slot in list(_maps(module)):
        lora = getattr(owner, slot)
        if lora is not None:
            weight += lora.weight()
            setattr(owner, slot, None)


def _maps(module: nn.Module) -> Iterator[tuple[nn.Module, Tensor, str]]:
    """Each linear map: the module that holds it, its weight and the update's attribute."""
    for part in module.modules():
        if isinstance(part, Attention):
            yield part, part.in_proj_weight, "in_proj_lora"
        elif isinstance(part, Linear):
            yield part, part.weight, "lora"
