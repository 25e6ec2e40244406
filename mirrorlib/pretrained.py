"""Weights that others published: read from a file, loaded whole, every misfit named in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mirrorlib.errors import UserError


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of one that `torch.save` wrote; on the CPU. Never
    runs code. A dictionary under `state_dict` is taken for the weights, and `module.` before every
    name is cut. Raises UserError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors each raise their own
        line = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path}: holds no weights that can be read safely ({type(error).__name__}: {line}); "
            "give a .safetensors file, or a state_dict that torch.save wrote"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds no state_dict, but a {type(content).__name__}")
    if strange := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{path}: holds no state_dict: {strange[0]!r} is no tensor")
    parallel = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if parallel else name: content[name] for name in content}


def load_whole(module: nn.Module, state: Mapping[str, Tensor], source: object, what: str) -> None:
    """Copies weights into a module, in the module's precision. source: where they are from. what:
    the network, for the message. Raises UserError, with nothing copied, where a name is missing,
    surplus or of another shape."""
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    surplus = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    parts = (("missing", missing), ("surplus", surplus), ("of another shape", misshapen))
    if found := [_part(kind, names) for kind, names in parts if names]:
        raise UserError(f"{source} does not hold the weights of {what}: {'; '.join(found)}")
    module.load_state_dict(dict(state))


def _part(kind: str, names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return f"{kind} {', '.join(names[:3])}{more}"
