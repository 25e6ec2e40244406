"""Weights that others published: read from a file, loaded whole, every misfit named in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mirrorlib.errors import UserError

WRAPPERS = ("state_dict", "model", "module")
"""Under which training scripts put the weights, beside what else they save."""
SHOWN = 3
"""Names given of each kind of misfit; the others are counted."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of one that `torch.save` wrote; on the CPU. Never
    runs code. A dictionary under one of `WRAPPERS` is taken for the weights, and `module.` before
    every name is cut. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .safetensors file, or what torch.save wrote")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors each raise their own
        raise UserError(
            f"{path}: holds no weights that can be read safely ({_reason(error)}); give a "
            ".safetensors file, or a state_dict that torch.save wrote"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds no state_dict, but a {type(content).__name__}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise UserError(f"{path}: holds no state_dict: {name!r} is no tensor")
    parallel = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if parallel else name: content[name] for name in content}


def load_whole(module: nn.Module, state: Mapping[str, Tensor], source: object, what: str) -> None:
    """Copies weights into a module, in the module's precision. source: where they are from. what:
    the network, for the message. Raises UserError, with nothing copied, where a name is missing,
    surplus or of another shape."""
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    refuse_misfits(state, own, source, what)
    module.load_state_dict(dict(state))


def refuse_misfits(
    state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], source: object, what: str
) -> None:
    """Raises UserError where a name of `shapes` is missing, one is surplus, or a shape is another.
    source, what: as in `load_whole`."""
    missing = [name for name in shapes if name not in state]
    surplus = [name for name in state if name not in shapes]
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(shape)}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    parts = (("missing", missing), ("surplus", surplus), ("of another shape", misshapen))
    if found := [_part(kind, names) for kind, names in parts if names]:
        raise UserError(
            f"{source} does not hold the weights of {what}: {'; '.join(found)}; rename or remove "
            "what differs, or build the sizes that it was trained with"
        )


def _reason(error: Exception) -> str:
    wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
    if wanted is not None:
        return f"it asks for {wanted[1]}, which would run code"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _part(kind: str, names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return f"{kind} {', '.join(names[:SHOWN])}{more}"
